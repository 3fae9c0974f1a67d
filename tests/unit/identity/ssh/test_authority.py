"""The authority's own life: founding, rotation, revocation, hosts, tokens, the key in the safe."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.identity.ssh import changing, events, generations, keygen, publickey, store
from hedgerow.identity.ssh.authority import SshAuthority

Make = Callable[..., Any]
DAY = dt.timedelta(days=1)


def test_it_is_made_once_and_its_keys_are_encrypted(authority: Any, fleet_dir: Path, now: dt.datetime) -> None:
    again, made = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)
    assert not made
    assert again.state == authority.state
    assert stat.S_IMODE(authority.folder.stat().st_mode) == 0o700
    for name in ("user-1", "host-1"):
        private = authority.folder / "keys" / name
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        bare = subprocess.run(
            ["ssh-keygen", "-y", "-P", "", "-f", str(private)], capture_output=True, text=True, check=False
        )
        assert bare.returncode != 0
        assert "incorrect passphrase" in bare.stderr


def test_without_a_passphrase_there_is_no_authority(
    fleet_dir: Path, now: dt.datetime, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(keygen.PASSPHRASE_FILE)
    with pytest.raises(UsageError, match="nobody named the file"):
        SshAuthority.init(fleet_dir, "meadow", by="x", now=now)
    short = tmp_path / "short"
    short.write_text("secret\n")
    short.chmod(0o600)
    monkeypatch.setenv(keygen.PASSPHRASE_FILE, str(short))
    with pytest.raises(UsageError, match="12 characters"):
        SshAuthority.init(fleet_dir, "meadow", by="x", now=now)
    short.chmod(0o644)
    with pytest.raises(UsageError, match="everybody"):
        SshAuthority.init(fleet_dir, "meadow", by="x", now=now)
    assert not (fleet_dir / "ssh-ca" / store.STATE).exists()


def test_a_wrong_passphrase_is_said(
    *, authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    wrong.chmod(0o600)
    monkeypatch.setenv(keygen.PASSPHRASE_FILE, str(wrong))
    with pytest.raises(UsageError, match=r"cannot sign.*passphrase"):
        authority.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now)


def test_the_passphrase_is_in_no_argument_and_no_variable(
    *, authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program of that name stands between: it writes down its arguments and environment, then runs the real one."""
    real = shutil.which("ssh-keygen")
    spy = tmp_path / "bin" / "ssh-keygen"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\n{{ echo "$@"; env; }} >> {tmp_path}/seen\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", str(spy.parent), prepend=os.pathsep)
    authority.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now)
    changing.rotate(authority, "host", "begin", now=now)
    seen = (tmp_path / "seen").read_text()
    assert "-s " in seen
    secret = Path(os.environ[keygen.PASSPHRASE_FILE]).read_text().strip()
    assert secret not in seen
    assert secret not in (authority.folder / events.FILE).read_text()


def test_a_lost_state_is_not_papered_over(authority: Any, fleet_dir: Path, now: dt.datetime) -> None:
    (authority.folder / store.STATE).unlink()
    with pytest.raises(RefusedError, match="its state is gone"):
        SshAuthority.init(fleet_dir, "meadow", by="x", now=now)


def test_an_interrupted_init_is_taken_up(fleet_dir: Path, fleet_ca: Any, now: dt.datetime) -> None:
    folder = store.folder_of(fleet_dir)
    keygen.generate(folder / "keys" / "user-1", "user-1", keygen.passphrase_file())
    left = (folder / "keys" / "user-1.pub").read_text().split()[1]
    made = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)[0]
    assert generations.current(made.state.keys, "user").public.split()[1] == left


# -- rotation ------------------------------------------------------------------


def test_rotation_goes_in_order_and_each_step_once(authority: Any, now: dt.datetime) -> None:
    for step in ("switch", "finish"):
        with pytest.raises(RefusedError):
            changing.rotate(authority, "user", step, now=now)
    begun = changing.rotate(authority, "user", "begin", now=now)
    assert [key.name for key in authority.trusted("user")] == ["user-1", "user-2"]
    assert begun.name == "user-2"
    with pytest.raises(RefusedError, match="under way"):
        changing.rotate(authority, "user", "begin", now=now)
    changing.rotate(authority, "user", "switch", now=now)
    assert [key.name for key in authority.trusted("user")] == ["user-2", "user-1"]
    with pytest.raises(RefusedError, match="under way"):
        changing.rotate(authority, "user", "begin", now=now)
    changing.rotate(authority, "user", "finish", now=now)
    assert [key.name for key in authority.trusted("user")] == ["user-2"]
    assert "user-1@" not in (authority.trust / store.USER_CA).read_text()
    assert changing.rotate(authority, "user", "begin", now=now).name == "user-3"
    assert [key.name for key in authority.trusted("host")] == ["host-1"]
    steps = [line.step for line in store.lines(authority.log) if isinstance(line, events.Rotated)]
    assert steps == ["init", "init", "begin", "switch", "finish", "begin"]


def test_a_key_stays_while_what_it_signed_is_alive(
    authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    pi = inventory.hosts["pi-orchard-1"]
    public = pair(tmp_path / "k")
    authority.sign_host(pi, public, now=now)
    changing.rotate(authority, "host", "begin", now=now)
    changing.rotate(authority, "host", "switch", now=now)
    with pytest.raises(RefusedError, match="1 certificates that host-1 signed are alive"):
        changing.rotate(authority, "host", "finish", now=now)
    authority.sign_host(pi, public, now=now + DAY)  # by the new key: the old certificate is replaced
    changing.rotate(authority, "host", "finish", now=now + DAY)


def test_a_state_that_another_process_changed_is_read_anew(
    *, authority: Any, inventory: Any, fleet_dir: Path, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    other = SshAuthority.open(fleet_dir, by="other")
    for step in ("begin", "switch"):
        changing.rotate(other, "host", step, now=now)
    authority.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now)
    assert [line.ca for line in store.lines(authority.log) if isinstance(line, events.Signed)] == ["host-2"]


# -- revocation ----------------------------------------------------------------


def test_revoking_ends_what_is_alive_and_says_so_once(authority: Any, log_in: Make, now: dt.datetime) -> None:
    jane, vic = log_in("jane", "admin"), log_in("vic", "viewer")
    krl = authority.trust / store.KRL
    line, changed = changing.revoke(authority, "operator", "jane", reason="gone", now=now)
    assert changed
    assert len(line.serials["user-1"]) == 2
    assert keygen.revoked(krl, jane.certificate.read_text().strip())
    assert not keygen.revoked(krl, vic.certificate.read_text().strip())
    assert not changing.revoke(authority, "operator", "jane", reason="gone", now=now)[1]
    later = log_in("jane", "viewer")  # the fleet CA has not revoked her
    assert not keygen.revoked(krl, later.certificate.read_text().strip())


def test_a_revoked_key_is_never_certified_again(
    *, authority: Any, ask: Make, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    public = pair(tmp_path / "k")
    changing.revoke(authority, "key", publickey.fingerprint(public), reason="seen on a stick", now=now)
    with pytest.raises(RefusedError, match="it was revoked"):
        authority.sign_operator(ask("jane", public_key=public), inventory, now=now)


def test_a_host_loses_its_key_with_its_certificate(
    authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    pi, public = inventory.hosts["pi-orchard-1"], pair(tmp_path / "k")
    authority.sign_host(pi, public, now=now)
    changing.revoke(authority, "host", "pi-orchard-1", reason="stolen", now=now)
    with pytest.raises(RefusedError, match="it was revoked"):
        authority.sign_host(pi, public, now=now)
    assert authority.sign_host(pi, pair(tmp_path / "k2"), now=now)


def test_revoking_survives_a_rotation(authority: Any, log_in: Make, now: dt.datetime) -> None:
    jane = log_in("jane", "operator")
    changing.revoke(authority, "operator", "jane", reason="gone", now=now)
    for step in ("begin", "switch", "finish"):
        changing.rotate(authority, "user", step, now=now, force=True)
    assert keygen.revoked(authority.trust / store.KRL, jane.certificate.read_text().strip())


def test_whom_nobody_knows_cannot_be_revoked(authority: Any, now: dt.datetime) -> None:
    for kind, name in (("operator", "nobody"), ("host", "jane"), ("serial", "1")):
        with pytest.raises(UsageError, match="nothing was signed"):
            changing.revoke(authority, kind, name, reason="x", now=now)


# -- hosts ---------------------------------------------------------------------


def test_two_hosts_with_one_key_are_one_too_many(
    authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    """An image that was copied with its SSH keys in it."""
    public = pair(tmp_path / "k")
    authority.sign_host(inventory.hosts["pi-orchard-1"], public, now=now)
    with pytest.raises(RefusedError, match="certified for pi-orchard-1"):
        authority.sign_host(inventory.hosts["pi-upper-1"], public, now=now)
    later = now + 61 * DAY
    assert authority.sign_host(inventory.hosts["pi-upper-1"], public, now=later)


@pytest.mark.parametrize("days", [0, 91])
def test_a_host_certificate_lives_ninety_days_at_most(
    *, authority: Any, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime, days: int
) -> None:
    with pytest.raises(RefusedError, match="1 to 90 days"):
        authority.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now, days=days)


# -- tokens --------------------------------------------------------------------


@pytest.mark.slow
def test_a_token_signs_for_operators_and_hosts_and_rotates(
    *,
    token: str,
    fleet_dir: Path,
    fleet_ca: Any,
    inventory: Any,
    pair: Make,
    tmp_path: Path,
    now: dt.datetime,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(keygen.PASSPHRASE_FILE)  # there is no file to open
    made = SshAuthority.init(
        fleet_dir, "meadow", by="x", now=now, tokens={"user": (token, "user-a"), "host": (token, "host-a")}
    )[0]
    assert sorted(path.name for path in (made.folder / "keys").iterdir()) == ["host-1.pub", "user-1.pub"]
    line = made.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k"), now=now)
    said = keygen.describe(line)
    assert "host certificate" in said
    assert publickey.fingerprint(generations.current(made.state.keys, "host").public) in said
    assert "pi-orchard-1.orchard.meadow" in said
    assert changing.rotate(made, "user", "begin", token=(token, "user-b"), now=now).module == token
    with pytest.raises(UsageError, match="0 keys labelled 'nothing'"):
        changing.rotate(made, "host", "begin", token=(token, "nothing"), now=now)
    with pytest.raises(RefusedError, match="has been a key of this authority"):
        changing.rotate(made, "host", "begin", token=(token, "host-a"), now=now)
    wrong = tmp_path / "wrong-pin"
    wrong.write_text("999999\n")
    wrong.chmod(0o600)
    monkeypatch.setenv(keygen.PIN_FILE, str(wrong))
    with pytest.raises(UsageError, match="cannot sign"):
        made.sign_host(inventory.hosts["pi-orchard-1"], pair(tmp_path / "k2"), now=now)


def test_a_library_that_is_missing_is_said(fleet_dir: Path, now: dt.datetime) -> None:
    with pytest.raises(MachineError, match="library is not here"):
        SshAuthority.init(fleet_dir, "meadow", by="x", now=now, tokens={"user": ("/nowhere.so", "a")})


# -- the key in the safe -------------------------------------------------------


def test_the_key_in_the_safe_is_made_elsewhere_and_retired_for_good(
    authority: Any, ask: Make, inventory: Any, tmp_path: Path, now: dt.datetime
) -> None:
    secret = keygen.passphrase_file()
    with pytest.raises(RefusedError, match="does not stay on the controller"):
        changing.make_break_glass(authority, authority.folder / "safe", secret, reason="x", now=now)
    target = tmp_path / "usb" / "break-glass"
    shown = changing.make_break_glass(authority, target, secret, reason="first", now=now)
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert publickey.fingerprint((authority.trust / store.BREAK_GLASS).read_text()) == shown
    with pytest.raises(RefusedError, match="already"):
        changing.make_break_glass(authority, tmp_path / "second", secret, reason="x", now=now)
    public = target.with_name("break-glass.pub").read_text()
    with pytest.raises(RefusedError, match="the one in the safe"):
        authority.sign_operator(ask("jane", public_key=public), inventory, now=now)
    changing.retire_break_glass(authority, reason="used", now=now)
    assert (authority.trust / store.BREAK_GLASS).read_text() == ""
    assert keygen.revoked(authority.trust / store.KRL, public.strip())
    with pytest.raises(UsageError, match="no key in the safe"):
        changing.retire_break_glass(authority, reason="again", now=now)
    steps = [line.step for line in store.lines(authority.log) if isinstance(line, events.BreakGlass)]
    assert steps == ["made", "retired"]


def test_what_hosts_get_can_be_made_anew_from_the_rest(authority: Any, log_in: Make, now: dt.datetime) -> None:
    log_in("jane")
    changing.revoke(authority, "operator", "jane", reason="x", now=now)
    names = [store.USER_CA, store.BREAK_GLASS]
    before = {name: (authority.trust / name).read_bytes() for name in names}
    shutil.rmtree(authority.trust)
    authority.write_trust()
    assert {name: (authority.trust / name).read_bytes() for name in names} == before
    assert (authority.trust / store.KRL).is_file()


def test_every_line_says_who_typed_it(authority: Any, log_in: Make, now: dt.datetime) -> None:
    log_in("jane")
    assert {line.by for line in store.lines(authority.log)} == {"test@here"}
    assert all(msgspec.to_builtins(line)["time"].endswith("Z") for line in store.lines(authority.log))
