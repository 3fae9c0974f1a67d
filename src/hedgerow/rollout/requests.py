"""What operators ask of a rollout, beside its journal: ``rollouts/<id>/requests.jsonl``.

- Any ``hedgerow`` command may add a line (flock, fsync); the process that rolls
  out takes lines in order, each once: the journal's count of taken lines is the
  cursor, so a controller that was killed goes on with the next one.
- A request counts when the journal says so. Whether it may count is
  ``decide.refusal``'s; whether a signature holds is asked of ``ssh-keygen -Y
  verify``, against the public keys that the inventory names (``rollout_approvers``).
- Signatures are OpenSSH's (PROTOCOL.sshsig), made with the key that a person
  has anyway, file or agent. Namespace: ``hedgerow-rollout``.
"""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from hedgerow.errors import MachineError, RefusedError, UsageError
from hedgerow.rollout import decide
from hedgerow.rollout.events import OperatorAsked, Request, RequestKind, State
from hedgerow.rollout.journal import Journal, timestamp

FILE = "requests.jsonl"
NAMESPACE = "hedgerow-rollout"
_NAME = re.compile(r"[A-Za-z0-9_.@-]+")

__all__ = ["FILE", "NAMESPACE", "Approvers", "Request", "RequestKind", "add", "pending", "sign", "take", "verify"]

Approvers = Mapping[str, list[str]]
"""Name → OpenSSH public keys, as the inventory's ``rollout_approvers`` has them."""


@contextmanager
def _locked(folder: Path) -> Iterator[BinaryIO]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / FILE).open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def add(folder: Path, request: Request) -> int:
    """Append a request to the rollout in ``folder``; its number, from 1. It is on the disk when this returns."""
    with _locked(folder) as file:
        file.seek(0)
        data = file.read()
        if data and not data.endswith(b"\n"):
            # Cut off before its ``add`` returned: nobody was told that it counts.
            file.truncate(data.rfind(b"\n") + 1)
        file.write(msgspec.json.encode(request) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return data.count(b"\n") + 1


def pending(folder: Path, taken: int) -> list[Request]:
    """Whole lines after the first ``taken``."""
    try:
        lines = (folder / FILE).read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [msgspec.json.decode(line, type=Request) for line in lines[taken:]]


def take(journal: Journal, approvers: Approvers, *, now: Callable[[], str] = timestamp) -> list[OperatorAsked]:
    """Journal every new request with what follows from it. Workers of one playbook may call it side by side.

    Raises:
        RefusedError: This process does not hold the lease.
    """
    file = journal.folder / FILE
    if not file.exists():
        return []
    taken: list[OperatorAsked] = []
    with _locked(journal.folder):
        state = journal.state()
        if state is None:
            return []
        for request in pending(journal.folder, state.asked):
            asked = _weigh(state, request, approvers, now(), rollout=journal.folder.name)
            state = journal.record(asked)
            taken.append(asked)
    return taken


def _weigh(state: State, request: Request, approvers: Approvers, at: str, *, rollout: str) -> OperatorAsked:
    refused = decide.refusal(state, request)
    if request.rollout != rollout:
        refused = f"rule one-rollout: it was made for {request.rollout}"
    key = None
    if refused is None and request.kind is RequestKind.APPROVE:
        try:
            key = _signer(state, request, approvers)
        except (RefusedError, MachineError) as error:
            refused = error.what
    return OperatorAsked(at=at, request=request, refused=refused, key=key)


def _signer(state: State, request: Request, approvers: Approvers) -> str | None:
    """The key behind an approval; None where the policy asks for none and there is none."""
    wave = decide.approved_wave(state, request)
    if request.signature is None and not decide.needs_signature(state, wave, request.by):
        return None
    if request.wave is None:
        raise RefusedError("rule signed-approval: the approval names no wave, so that it could serve for any")
    return verify(request, approvers)


def sign(request: Request, key: Path) -> Request:
    """``request`` with a signature of the SSH key in ``key`` (a private key, or a public one held by the agent).

    Raises:
        UsageError: ssh-keygen could not sign with it.
        MachineError: There is no ssh-keygen.
    """
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder) / "request"
        text.write_bytes(request.signed_bytes())
        done = _ssh_keygen("-Y", "sign", "-q", "-f", str(key), "-n", NAMESPACE, str(text))
        if done.returncode != 0:
            raise UsageError(
                f"the request could not be signed: {done.stderr.decode(errors='replace').strip()}",
                where=str(key),
                next_step="name your SSH key: --key ~/.ssh/id_ed25519 (or its .pub, with the key in your agent)",
            )
        return msgspec.structs.replace(request, signature=text.with_suffix(".sig").read_text(encoding="ascii"))


def verify(request: Request, approvers: Approvers) -> str:
    """The fingerprint of the key that signed it, which is one of ``request.by``'s.

    Raises:
        RefusedError: It has no signature, or none of that person's keys made it.
        MachineError: There is no ssh-keygen.
    """
    keys = approvers.get(request.by, [])
    if not keys or _NAME.fullmatch(request.by) is None:
        raise RefusedError(
            f"rule signed-approval: the inventory has no key of {request.by}",
            next_step="rollout_approvers: {NAME: [ssh-ed25519 AAAA…]} in group_vars/all",
        )
    if request.signature is None:
        raise RefusedError(
            f"rule signed-approval: {request.by}'s approval has no signature",
            next_step="sign it: hedgerow rollout approve --key ~/.ssh/id_ed25519",
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = [f'{request.by} namespaces="{NAMESPACE}" {key.strip()}\n' for key in keys]
        (folder / "allowed").write_text("".join(lines), encoding="utf-8")
        (folder / "signature").write_text(request.signature, encoding="utf-8")
        words = ["-f", str(folder / "allowed"), "-I", request.by, "-n", NAMESPACE, "-s", str(folder / "signature")]
        done = _ssh_keygen("-Y", "verify", *words, data=request.signed_bytes())
    if done.returncode != 0:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().rpartition("\n")[2]
        raise RefusedError(f"rule signed-approval: the signature is not {request.by}'s ({said})")
    found = re.search(r"key (SHA256:\S+)", done.stdout.decode(errors="replace"))
    return found.group(1) if found else "unknown"


def _ssh_keygen(*words: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            ["ssh-keygen", *words],
            input=data or b"",
            capture_output=True,
            check=False,
            timeout=30,
        )
    except FileNotFoundError as error:
        raise MachineError("there is no ssh-keygen here", next_step="install OpenSSH's client") from error
