"""``hedgerow-device`` on a host: its command line, and what its answer means. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hedgerow.errors import DeviceError, HedgerowError, NetworkError
from hedgerow.fleet.reported import Report, decode_report

PROGRAM = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
"""By its full path: root's PATH under sudo is the host's own affair."""

NO_TERMINAL = b"\n"
"""Standard input of the command. Without one Ansible's ssh asks for a terminal, which merges stderr into stdout."""

TIMED_OUT = frozenset({124, 137})
"""Exit codes of timeout(1) after it ended a command with TERM, or with KILL."""


@dataclass(frozen=True)
class Completed:
    """How a command on a host ended."""

    code: int
    stdout: str
    stderr: str


CONFIRMED_PROGRAM = "/opt/hedgerow/runtime/confirmed/bin/hedgerow-device"
"""The same, of the runtime before while a new one waits for its confirmation: that one must not judge itself."""


def command_line(arguments: Sequence[str], *, timeout_s: int, program: str = PROGRAM) -> str:
    """Shell text that runs the program with ``arguments`` and ends it after ``timeout_s`` seconds.

    An activation is a transaction, so ending it leaves nothing half-done.
    """
    return shlex.join(["timeout", "--kill-after=10", str(timeout_s), program, *arguments])


def parse_report(done: Completed, *, host: str) -> Report:
    """The report that ``report --json`` printed.

    A failing device reports with a non-zero code, too: what it printed decides.

    Raises:
        DeviceError: There is none.
    """
    if not done.stdout.strip():
        raise _failure(done, host=host, verb="report")
    return decode_report(done.stdout, where=host)


def parse_answer(done: Completed, *, host: str, verb: str) -> dict[str, Any]:
    """The JSON object that a successful command printed.

    Raises:
        NetworkError: The device could not reach its registry, or the line broke on the way: worth another try.
        DeviceError: The command failed for another reason; the message is the device's own.
    """
    if done.code != 0:
        raise _failure(done, host=host, verb=verb)
    try:
        answer = json.loads(done.stdout)
    except ValueError as error:
        raise DeviceError(f"hedgerow-device {verb} printed no JSON", where=f"{host}: {done.stdout[-200:]!r}") from error
    if not isinstance(answer, dict):
        raise DeviceError(f"hedgerow-device {verb} printed {answer!r}", where=host)
    return answer


def _failure(done: Completed, *, host: str, verb: str) -> HedgerowError:
    """The device's own error, which it prints as JSON on stderr, or else the end of what it said."""
    if done.code in TIMED_OUT:
        return DeviceError(f"hedgerow-device {verb} took too long and was ended", where=host)
    last = done.stderr.strip().rpartition("\n")[2]
    try:
        said = json.loads(last)
        text, where, next_step = str(said["what"]), f"{host}: {said.get('where')}", said.get("next")
        # The device says by class who is at fault (hedgerow.errors), and so whether it may pass by itself.
        kind = NetworkError if said.get("error") == NetworkError.__name__ else DeviceError
    except (ValueError, KeyError, TypeError):
        text, where, next_step = f"exit code {done.code}: {done.stderr.strip()[-400:] or 'it said nothing'}", host, None
        kind = DeviceError
    return kind(f"hedgerow-device {verb}: {text}", where=where, next_step=next_step)
