"""The switch: what it does for commands that may not, and that it does nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgerow.device import switch


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for version in ("1.0+a", "1.0+b"):
        (tmp_path / version).mkdir()
        (tmp_path / version / switch.MARKER).touch()
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "current").symlink_to("1.0+a")
    return tmp_path


def ask(root: Path, request: object, run=None) -> dict[str, object]:
    return switch.answer(json.dumps(request), root=root, run=run)


@pytest.mark.parametrize("link", switch.LINKS)
def test_a_link_moves_to_a_finished_runtime(root: Path, link: str) -> None:
    assert ask(root, {"link": link, "version": "1.0+b"}) == {"done": True, "said": ""}
    assert (root / link).readlink() == Path("1.0+b")
    assert ask(root, {"link": link, "version": None})["done"] is True
    assert not (root / link).is_symlink()
    assert [path.name for path in root.glob(".*")] == []


@pytest.mark.parametrize(
    "version", ["unfinished", "2.0", "..", ".", "", "../evil", "/var/lib/hedgerow/models/evil", "1.0+a/../1.0+b"]
)
def test_it_moves_to_nothing_else(root: Path, version: str) -> None:
    done = ask(root, {"link": "current", "version": version})
    assert done == {"done": False, "said": f"{version} is no finished runtime of this device"}
    assert (root / "current").readlink() == Path("1.0+a")


@pytest.mark.parametrize(
    "request_",
    [{}, [], {"restart": False}, {"link": "1.0+a", "version": "1.0+b"}, {"link": "current"}, "restart", None],
)
def test_what_it_does_not_know_it_does_not_do(root: Path, request_: object) -> None:
    assert ask(root, request_, run=lambda _: pytest.fail("it ran a program"))["done"] is False
    assert switch.answer("no JSON", root=root)["done"] is False
    assert switch.answer("", root=root)["done"] is False


def test_a_restart_forgives_failures_first_and_says_what_systemd_says(root: Path) -> None:
    asked: list[str] = []

    def run(command) -> str | None:
        asked.append(" ".join(command))
        return "Job failed." if "restart" in command else "Unit is not loaded."

    assert ask(root, {"restart": True}, run) == {"done": False, "said": "Job failed."}
    assert asked == [
        "systemctl reset-failed hedgerow-server.service",
        "systemctl --no-ask-password restart hedgerow-server.service",
    ]
    assert ask(root, {"restart": True}, lambda _: None) == {"done": True, "said": ""}
