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


def shown_nowhere(secret: bytes, processes: set[bytes], folder: Path, output: str) -> None:
    assert any(b"ssh-keygen" in each for each in processes), "the watch saw nobody sign"
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
        hosts = [inventory.hosts["pi-orchard-1"]] * 8  # a token signs at once: several, so that one is seen
        lines = [made.sign_host(host, pair(tmp_path / f"k{number}"), now=now) for number, host in enumerate(hosts)]
    assert len(lines) == len(hosts)
    shown_nowhere(secret_of(keygen.PIN_FILE), processes, fleet_dir, "".join(capfd.readouterr()))
