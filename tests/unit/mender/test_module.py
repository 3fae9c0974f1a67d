"""The update module as the client runs it: a program, a state, a work tree with pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

MODULE = Path(__file__).parents[3] / "roles/mender_client/files/usr/share/mender/modules/v3/hedgerow-bundle"

# What hedgerow-device promises, in one file of state.
DEVICE = """#!{python}
import json, sys
from pathlib import Path

path = Path({state!r})
state = json.loads(path.read_text())
verb, *rest = sys.argv[1:]
state["calls"].append(" ".join(sys.argv[1:]))
code = state["broken"].get(verb, 0)
if not code:
    if verb == "activate":
        state.update(previous=state["serves"], serves=rest[0], pending=True)
    elif verb == "confirm":
        state["pending"] = False
    elif verb == "revert":
        state.update(serves=state["previous"], previous=None, pending=False)
path.write_text(json.dumps(state))
name, _, version = (state["serves"] or "").partition("@")
report = {{
    "model": {{"name": name, "version": version}} if state["serves"] else None,
    "pending": {{"confirm_deadline": "2026-11-21T12:00:00Z"}} if state["pending"] else None,
}}
print(json.dumps(report if verb == "report" else {{"changed": True}}))
sys.exit(code or (1 if verb == "report" and state["serves"] is None else 0))
"""


class Bench:
    """A device and the client's work tree."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state.json"
        self.program = folder / "hedgerow-device"
        self.program.write_text(DEVICE.format(python=sys.executable, state=str(self.state)))
        self.program.chmod(0o755)
        self.work = folder / "work"
        for name in ("tmp", "header", "streams"):
            (self.work / name).mkdir(parents=True)
        self.set(serves="assistant@1.0.0", previous=None, pending=False, calls=[], broken={})

    def set(self, **values: object) -> None:
        known = json.loads(self.state.read_text()) if self.state.exists() else {}
        self.state.write_text(json.dumps(known | values))

    def get(self, key: str) -> object:
        return json.loads(self.state.read_text())[key]

    def run(self, state: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-I", str(MODULE), state, str(self.work)],
            cwd=self.work,
            env=os.environ | {"HEDGEROW_DEVICE": str(self.program)},
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )

    def feed(self, *payloads: bytes) -> subprocess.CompletedProcess[str]:
        """Run Download against pipes, as the client does: one name per opening of stream-next, then an empty one."""
        os.mkfifo(self.work / "stream-next")
        for number in range(len(payloads)):
            os.mkfifo(self.work / "streams" / f"file{number}")

        def client() -> None:
            for number, payload in enumerate(payloads):
                (self.work / "stream-next").write_text(f"streams/file{number}\n")
                (self.work / "streams" / f"file{number}").write_bytes(payload)
            (self.work / "stream-next").write_text("")

        writer = threading.Thread(target=client, daemon=True)
        writer.start()
        done = self.run("Download")
        writer.join(5)
        return done

    def choose(self, text: str) -> None:
        (self.work / "tmp" / "bundle").write_text(text)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_download_keeps_the_payload_and_touches_nothing(bench: Bench) -> None:
    assert bench.feed(b"assistant@1.1.0\n").returncode == 0
    assert (bench.work / "tmp" / "bundle").read_text() == "assistant@1.1.0\n"
    assert bench.get("calls") == ["report --json"]


def test_download_is_refused_while_an_activation_is_pending(bench: Bench) -> None:
    bench.set(pending=True)
    done = bench.run("Download")
    assert done.returncode == 1
    assert "assistant@1.0.0 still waits for its confirmation" in done.stderr


@pytest.mark.parametrize("payloads", [(), (b"a@1.0.0", b"b@1.0.0"), (b"x" * 300,)])
def test_download_refuses_another_payload(bench: Bench, payloads: tuple[bytes, ...]) -> None:
    done = bench.feed(*payloads)
    assert done.returncode == 1
    assert "one file with one line" in done.stderr


def test_install_then_commit(bench: Bench) -> None:
    bench.choose("assistant@1.1.0\n")
    assert bench.run("ArtifactInstall").returncode == 0
    assert (bench.get("serves"), bench.get("pending")) == ("assistant@1.1.0", True)
    assert bench.run("ArtifactCommit").returncode == 0
    assert (bench.get("serves"), bench.get("pending")) == ("assistant@1.1.0", False)
    assert "activate assistant@1.1.0 --confirm-within 3600 --json" in bench.get("calls")


def test_install_then_rollback(bench: Bench) -> None:
    bench.choose("assistant@1.1.0")
    bench.run("ArtifactInstall")
    assert bench.run("ArtifactRollback").returncode == 0
    assert bench.get("serves") == "assistant@1.0.0"
    assert bench.run("ArtifactRollback").returncode == 0  # again, after a power cut
    assert bench.get("serves") == "assistant@1.0.0"


def test_a_second_install_is_refused_while_one_is_pending(bench: Bench) -> None:
    bench.set(serves="assistant@1.1.0", previous="assistant@1.0.0", pending=True)
    bench.choose("assistant@1.2.0")
    done = bench.run("ArtifactInstall")
    assert done.returncode == 1
    assert "assistant@1.1.0 still waits for its confirmation" in done.stderr
    # The client answers a failed install with a rollback: the first one must survive it.
    assert bench.run("ArtifactRollback").returncode == 0
    assert (bench.get("serves"), bench.get("pending")) == ("assistant@1.1.0", True)


def test_a_failed_activation_is_not_reverted_a_version_too_far(bench: Bench) -> None:
    bench.set(previous="assistant@0.9.0", broken={"activate": 1})
    bench.choose("assistant@1.1.0")
    assert bench.run("ArtifactInstall").returncode == 1
    assert bench.run("ArtifactRollback").returncode == 0
    assert bench.get("serves") == "assistant@1.0.0"


def test_the_first_model_of_a_device(bench: Bench) -> None:
    bench.set(serves=None)
    bench.choose("assistant@1.0.0")
    assert bench.run("ArtifactInstall").returncode == 0
    assert bench.run("ArtifactCommit").returncode == 0
    assert bench.get("serves") == "assistant@1.0.0"


def test_what_is_already_served_needs_no_confirmation(bench: Bench) -> None:
    bench.choose("assistant@1.0.0")
    assert bench.run("ArtifactInstall").returncode == 0
    bench.set(pending=False)
    assert bench.run("ArtifactCommit").returncode == 0
    assert not any(str(call).startswith("confirm") for call in bench.get("calls"))


def test_a_commit_after_the_deadline_fails(bench: Bench) -> None:
    bench.choose("assistant@1.1.0")
    bench.run("ArtifactInstall")
    bench.set(serves="assistant@1.0.0", pending=False, broken={"confirm": 3})
    assert bench.run("ArtifactCommit").returncode == 1


@pytest.mark.parametrize("text", ["", "assistant", "../../etc@1.0.0", "a@1.0.0\nb@1.0.0", "--help@1"])
def test_what_is_no_reference_is_refused(bench: Bench, text: str) -> None:
    bench.choose(text)
    assert "is not name@version" in bench.run("ArtifactInstall").stderr
    assert bench.get("calls") == []


def test_the_artifact_may_set_the_deadline(bench: Bench) -> None:
    (bench.work / "header" / "meta-data").write_text('{"confirm_within_s": 90}')
    bench.choose("assistant@1.1.0")
    bench.run("ArtifactInstall")
    assert "activate assistant@1.1.0 --confirm-within 90 --json" in bench.get("calls")


def test_answers_of_the_protocol(bench: Bench) -> None:
    assert bench.run("SupportsRollback").stdout == "Yes\n"
    assert bench.run("NeedsArtifactReboot").stdout == "No\n"
    for state in ("ProvidePayloadFileSizes", "Cleanup", "ArtifactFailure", "SomethingNew"):
        done = bench.run(state)
        assert (done.returncode, done.stdout) == (0, "")
