"""A gateway's CA through the real ansible-playbook, with this machine as the gateway."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow.identity import certificates
from hedgerow.identity.authority import making
from hedgerow.identity.authority.root import RootCA
from hedgerow.passphrases import Passphrases

pytestmark = pytest.mark.slow

Play = Callable[..., dict[str, Any]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RootCA:
    """A controller whose fleet ``meadow`` has a root."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery\n")
    passphrase.chmod(0o600)
    made, _ = RootCA.init(tmp_path / "var/fleets/meadow", "meadow", Passphrases({None: passphrase}))
    assert made is not None
    return made


def visit(folder: Path, name: str = "visit", **more: Any) -> dict[str, Any]:
    asked = {"fleet": "meadow", "site": "orchard", "directory": f"{folder}/issuing", "state": f"{folder}/renewal"}
    return {"name": name, "ignore_errors": True, "hedgerow_issuing": asked | more}


def test_a_request_comes_and_what_the_root_signed_goes(play: Play, root: RootCA, tmp_path: Path) -> None:
    making.kept_request(tmp_path / "issuing", "orchard")
    first = play([visit(tmp_path)])["visit"]
    assert (first["changed"], first["certificate"]) == (False, "")
    assert "hedgerow ca issuing sign" in first["next_step"]
    text = Path(first["request"]).read_text(encoding="ascii")
    made = making.sign_request(root, text, "orchard", by="ada@desk", where="request")
    second = play([visit(tmp_path)])["visit"]
    assert second["certificate"] == certificates.pem(made.certificate)
    assert (second["next_step"], second["brought"]) == ("", [])


def test_check_mode_keeps_nothing(play: Play, root: RootCA, tmp_path: Path) -> None:
    making.kept_request(tmp_path / "issuing", "orchard")
    found = play([visit(tmp_path)], "--check")["visit"]
    assert found["certificate"] == ""
    assert not (root.folder / "requests").exists()


@pytest.mark.parametrize(
    "wrong,text", [({"site": ""}, "site missing"), ({"fleet": "moor"}, "no CA yet"), ({"colour": "green"}, "colour")]
)
def test_wrong_arguments_are_refused(
    play: Play, root: RootCA, tmp_path: Path, wrong: dict[str, Any], text: str
) -> None:
    assert root.fleet == "meadow"
    found = play([visit(tmp_path, **wrong)])["visit"]
    assert found["failed"]
    assert text in found["msg"]
