"""A process knows the runtime that it runs in."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow import __version__
from hedgerow.runtime import installed
from hedgerow.runtime.install import MARKER


def test_the_marker_says_it(tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text('{"version": "0.1.0+3f9c2d81aa04"}')
    assert installed.version(tmp_path) == "0.1.0+3f9c2d81aa04"


@pytest.mark.parametrize("text", [None, "", "[]", "{}", "no JSON"])
def test_elsewhere_it_is_the_package_s(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / MARKER).write_text(text)
    assert installed.version(tmp_path) == __version__
