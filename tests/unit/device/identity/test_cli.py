"""``hedgerow-device identity`` as people and the timer call it: what it prints, and how it ends."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from tests.unit.identity.test_keys import STAND_IN

from hedgerow.cli import run
from hedgerow.device import cli as device_cli
from hedgerow.device import events

SERIAL = "10000000a1b2c3d4"


@pytest.fixture
def file(config, tmp_path):
    path = tmp_path / "device.yml"
    path.write_bytes(msgspec.yaml.encode(msgspec.to_builtins(config, enc_hook=str)))
    return path


@pytest.fixture
def call(config, file, capsys, monkeypatch):
    """Runs a command; returns (exit code, standard output, standard error)."""

    def call_(*words):
        monkeypatch.setattr(sys, "argv", ["hedgerow-device", "identity", *words, "--config", str(file)])
        code = run(device_cli.cli, "hedgerow-device")
        out, err = capsys.readouterr()
        return code, out, err

    call_.config = config
    return call_


def test_it_shows_what_is_certified_and_until_when(call, enrolled, config):
    enrolled(ago=25)
    code, out, _ = call("show", "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["key"], found["layout"], found["faults"]) == ("file", "files", [])
    assert "of its life are left" in found["due"]
    assert found["subject"] == f"CN={SERIAL},OU=device,O=meadow"
    (config.identity.directory / "device.key").chmod(0o644)
    code, out, _ = call("show")
    assert "fault: " in out
    assert "mode 0644 instead of 0600" in out


def test_the_timers_run_does_nothing_until_it_is_due(call, enrolled, gateway):
    enrolled()
    code, out, _ = call("renew", "--if-due")
    assert code == 0
    assert out.startswith("not due before 20")
    assert [route for route, *_ in gateway.asked] == ["/identity/crl.pem"]


def test_a_renewal_is_said_and_written_down(call, enrolled, config):
    enrolled(ago=25)
    code, out, _ = call("renew", "--if-due", "--json")
    assert (code, json.loads(out)["changed"]) == (0, True)
    assert [line["event"] for line in events.read(config.activation_dir)] == ["certificate renewed"]


def test_without_if_due_it_renews_and_the_list_waits(call, enrolled, gateway):
    enrolled()
    assert call("renew")[0] == 0
    assert [route for route, *_ in gateway.asked] == ["/identity/renew", "/identity/time"]


@pytest.mark.parametrize("status,code", [(403, 3), (409, 3), (429, 1), (503, 1), (400, 1)])
def test_exit_codes_say_whose_move_it_is(call, enrolled, gateway, status, code):
    enrolled(ago=25)
    gateway.refuse = (status, {"error": "no"}, {})
    found, _, err = call("renew", "--if-due")
    assert found == code
    assert "next: " in err
    assert [line["event"] for line in events.read(call.config.activation_dir)] == ["certificate not renewed"]


def test_a_list_that_does_not_come_is_partly_done(call, enrolled, gateway):
    enrolled()
    gateway.crl = b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"
    code, _, err = call("renew", "--if-due")
    assert code == 4
    assert "the certificate is not due, but the revocation list was not fetched" in err


def test_fetching_the_list_alone(call, enrolled):
    enrolled()
    code, out, _ = call("fetch-revocations")
    assert (code, out) == (0, "the gateway has no list\n")


# -- the board's own key ---------------------------------------------------


@pytest.fixture
def board(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("EMULATED_HARDWARE", str(tmp_path / "hardware"))
    return tmp_path / "hardware" / "otp"


def test_looking_at_the_anchor_changes_nothing(call, board):
    code, out, _ = call("anchor")
    assert (code, out) == (0, "no key has been burnt\n")
    assert not (board / "burns").exists()


@pytest.mark.parametrize("named", [None, "", "1", "10000000ffffffff"])
def test_nothing_is_burnt_unless_the_variable_names_this_board(call, board, monkeypatch, named):
    monkeypatch.delenv("HEDGEROW_BURN_OTP", raising=False)
    if named is not None:
        monkeypatch.setenv("HEDGEROW_BURN_OTP", named)
    code, _, err = call("anchor", "--burn")
    assert code == 3
    assert f"HEDGEROW_BURN_OTP={SERIAL}" in err
    assert not (board / "burns").exists()


def at_terminal(file, typed, **variables):
    """The command at a real terminal, with somebody who types."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "hedgerow.device.cli", "identity", "anchor", "--burn", "--config", str(file)],
        stdin=follower,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | variables,
    )
    os.close(follower)
    os.write(leader, typed.encode() + b"\n")
    out, err = process.communicate(timeout=60)
    os.close(leader)
    return process.returncode, out, err


def test_a_script_cannot_confirm(file, board, enrolled):
    done = subprocess.run(
        [sys.executable, "-m", "hedgerow.device.cli", "identity", "anchor", "--burn", "--config", str(file)],
        input=f"burn a key into {SERIAL} for ever\n",
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"HEDGEROW_BURN_OTP": SERIAL},
    )
    assert done.returncode == 3, done.stderr
    assert "typed by a person" in done.stderr
    assert not (board / "burns").exists()


@pytest.mark.parametrize("typed", ["yes", "", "burn a key into 10000000ffffffff for ever"])
def test_other_words_burn_nothing(file, board, typed):
    code, _, err = at_terminal(file, typed, HEDGEROW_BURN_OTP=SERIAL)
    assert code == 1
    assert "nothing was burnt" in err
    assert not (board / "burns").exists()


def test_the_boards_own_words_burn_once(file, board):
    code, out, err = at_terminal(file, f"burn a key into {SERIAL} for ever", HEDGEROW_BURN_OTP=SERIAL)
    assert code == 0, err
    assert "BEGIN PUBLIC KEY" in out
    assert "lock_device_private_key=1" in out
    code, _, err = at_terminal(file, f"burn a key into {SERIAL} for ever", HEDGEROW_BURN_OTP=SERIAL)
    assert code == 1
    assert "has a key already" in err
    assert Path(board / "burns").read_text() == "key 1\n"
