"""A copy of the emulated inventory that a test may break."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow import paths
from hedgerow.inventory import source
from hedgerow.inventory.checks import check
from hedgerow.inventory.problem import Problem


class Copy:
    """An inventory in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def edit(self, file: str, old: str, new: str) -> int:
        """Replace the first ``old`` in ``file``; return its line."""
        text = (self.path / file).read_text(encoding="utf-8")
        assert old in text
        (self.path / file).write_text(text.replace(old, new, 1), encoding="utf-8")
        return text[: text.index(old)].count("\n") + 1

    def write(self, file: str, text: str) -> None:
        (self.path / file).parent.mkdir(parents=True, exist_ok=True)
        (self.path / file).write_text(text, encoding="utf-8")


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    shutil.copytree(paths.repository_root() / "inventory" / "emulated", tmp_path / "mine")
    return Copy(tmp_path / "mine")


@pytest.fixture(scope="session")
def sound_listing() -> dict[str, Any]:
    """What the real ansible-inventory says of the emulated fleet."""
    return source.list_hosts(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def check_files(
    copy: Copy, sound_listing: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], list[Problem]]:
    """``check`` of the copy's files; the merged inventory is taken as sound, which saves a start of Ansible."""
    monkeypatch.setattr(source, "list_hosts", lambda *_, **__: sound_listing)
    return lambda: check(copy.path)
