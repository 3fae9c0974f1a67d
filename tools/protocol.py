#!/usr/bin/env python3
"""Write what is generated from open_inference.proto; with --check, say what is stale and exit 1.

Both results are committed: a device has protobuf, no compiler and no build step (docs/decisions/0028-grpc.md).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / "src/hedgerow/server/protocols/grpc"
SOURCE = "open_inference.proto"
HEADER = "# Generated from open_inference.proto by tools/protocol.py (make docs); edit that.\n"


def generate() -> dict[str, bytes]:
    """File name → content."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run(
            [
                sys.executable,
                *("-m", "grpc_tools.protoc"),
                f"--proto_path={FOLDER}",
                f"--descriptor_set_out={folder / 'set'}",
                f"--pyi_out={folder}",
                SOURCE,
            ],
            check=True,
        )
        types = (folder / "open_inference_pb2.pyi").read_text(encoding="utf-8")
        return {
            "open_inference.binpb": (folder / "set").read_bytes(),
            # Strict mypy wants a mapping's types; protoc leaves them out.
            "messages.pyi": (
                HEADER
                + types.replace("Union as _Union", "Any as _Any, Union as _Union").replace(
                    "_Mapping]", "_Mapping[str, _Any]]"
                )
            ).encode(),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [
        (path, content)
        for path, content in ((FOLDER / name, content) for name, content in generate().items())
        if not path.exists() or path.read_bytes() != content
    ]
    for path, content in stale:
        if check:
            print(f"{path} is stale: run make docs", file=sys.stderr)
        else:
            path.write_bytes(content)
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
