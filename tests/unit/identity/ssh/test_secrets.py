"""The SSH authority's passphrase and its token's PIN: in no output, no file, and no process that signs with them."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import watched

from hedgerow.identity.ssh import changing, keygen
from hedgerow.identity.ssh.authority import SshAuthority

Make = Callable[..., Any]


def secret_of(variable: str) -> bytes:
    return Path(os.environ[variable]).read_bytes().strip()


def saw_signing(processes: set[bytes]) -> bool:
    # A copy: the watch goes on adding to it.
    return any(each.startswith(b"ssh-keygen\0") and b"\0-s\0" in each for each in processes.copy())


def shown_nowhere(secret: bytes, processes: set[bytes], folder: Path, output: str) -> None:
    assert saw_signing(processes), "the watch saw nobody sign"
    assert not [each for each in processes if secret in each]
    assert not [path for path in folder.rglob("*") if path.is_file() and secret in path.read_bytes()]
    assert secret.decode() not in output


@pytest.mark.slow
def test_a_passphrase_shows_nowhere(
    *,
    fleet_dir: Path,
    fleet_ca: Any,
    inventory: Any,
    pair: Make,
    tmp_path: Path,
    now: dt.datetime,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keygen, "_KDF_ROUNDS", "64")  # long enough to be seen
    with watched() as processes:
        made = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)[0]
        line = made.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now)
        changing.rotate(made, "user", "begin", now=now)
    assert "host certificate" in keygen.describe(line)
    shown_nowhere(secret_of(keygen.PASSPHRASE_FILE), processes, fleet_dir, "".join(capfd.readouterr()))


@pytest.mark.slow
def test_a_pin_shows_nowhere(
    *,
    token: str,
    fleet_dir: Path,
    fleet_ca: Any,
    inventory: Any,
    pair: Make,
    tmp_path: Path,
    now: dt.datetime,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(keygen.PASSPHRASE_FILE)
    with watched() as processes:
        tokens = {"user": (token, "user-a"), "host": (token, "host-a")}
        made = SshAuthority.init(fleet_dir, "meadow", by="x", now=now, tokens=tokens)[0]
        for number in range(200):  # a token signs at once: until the watch has seen one
            made.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / f"k{number}"), now=now)
            if saw_signing(processes):
                break
    shown_nowhere(secret_of(keygen.PIN_FILE), processes, fleet_dir, "".join(capfd.readouterr()))
