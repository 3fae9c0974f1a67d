"""Render the end of a terminal capture as SVG, for pictures in the docs.

    script -qec "stty cols 112 rows 50; make demo" capture.typescript
    .venv/bin/python tools/render_capture.py capture.typescript docs/pictures/demo.svg --from "PLAY [Say how it ended]"

The capture is what a terminal really showed: colours are kept, nothing is typed in by hand.
"""

from __future__ import annotations

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text

# What rich's parser does not know: cursor movements, erasing, window titles, hyperlinks.
_OTHER_SEQUENCES = re.compile(r"\x1b\[[0-9;?]*[A-LN-Za-ln-z]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_FONT_FACES = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("capture", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--from", dest="start", required=True, help="text of the first line to show")
    parser.add_argument("--title", default="make demo")
    parser.add_argument("--columns", type=int, default=112)
    arguments = parser.parse_args()
    lines = arguments.capture.read_text(encoding="utf-8", errors="replace").replace("\r\n", "\n").split("\n")
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    first = next((number for number, line in enumerate(plain) if arguments.start in line), None)
    if first is None:
        parser.error(f"no line of {arguments.capture} holds {arguments.start!r}")
    shown = [line for line in lines[first:] if not line.startswith("Script done")]
    console = Console(record=True, width=arguments.columns, file=io.StringIO(), force_terminal=True)
    for line in "\n".join(shown).rstrip().split("\n"):
        console.print(Text.from_ansi(_OTHER_SEQUENCES.sub("", line)), soft_wrap=True)
    arguments.picture.parent.mkdir(parents=True, exist_ok=True)
    picture = console.export_svg(title=arguments.title)
    # The fonts' addresses: a picture in a repository fetches nothing.
    arguments.picture.write_text(_FONT_FACES.sub("", picture), encoding="utf-8")


if __name__ == "__main__":
    main()
