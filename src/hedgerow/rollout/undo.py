"""Bring one host back to the version before, whatever state it was left in.

- Looking comes first, in every try. A device that serves another version than
  the release (its activation failed, it went back by itself, somebody changed
  it since) is left alone: one more ``revert`` would take it a version too far,
  and a line that broke does not say whether the command had come through.
- A first installation has nothing to go back to. The device then keeps the
  release rather than serve nothing; an application that still waits for its
  confirmation goes again, for nobody misses it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.reported import Report
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.hostline import HostLine


class Return(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. ``outcome`` None: the host serves what it is to serve; else kept or lost."""

    outcome: Outcome | None
    text: str
    changed: bool = False


@dataclass(frozen=True)
class Way:
    """From what a host leaves to what it had before (None: nothing), as ``hedgerow-device`` names them.

    ``had`` reads of a report what it has; ``command`` brings it back; ``drain`` is called before that, for who is out
    of service meanwhile.
    """

    release: str
    before: str | None
    had: Callable[[Report], str | None]
    command: Sequence[str]
    drain: Callable[[], None] = lambda: None
    first_goes: bool = False
    """Whether a first installation may be taken away again while it waits for its confirmation."""


def bring_back(
    line: HostLine,
    way: Way,
    *,
    timeout_s: int,
    again: Callable[[NetworkError], bool] = lambda _: False,
) -> Return:
    """Have the host go ``way``.

    ``again`` is asked, after a line broke, whether to begin anew; it waits as long as it sees fit. Never raises for
    what a host or a network does.
    """
    before = way.before
    changed = False
    while True:
        try:
            report = line.settled_report(before)
            if way.had(report) == way.release != before:
                if before is None and not (way.first_goes and report.pending is not None):
                    text = f"nothing was served before, so {way.release} stays"
                    return Return(outcome=Outcome.KEPT, text=text)
                way.drain()
                line.run_once(way.command, timeout_s=timeout_s)
                changed = True
                report = line.settled_report(before)
            return _judged(report, way, changed=changed)
        except NetworkError as error:
            if not again(error):
                return Return(outcome=Outcome.LOST, text=f"it cannot be reached to go back: {error.what}")
        except DeviceError as error:
            return Return(outcome=Outcome.LOST, text=f"it did not go back: {error.what}")


def _judged(report: Report, way: Way, *, changed: bool) -> Return:
    before, found = way.before, way.had(report)
    now = found or "nothing"
    if found == before:
        if before is not None and report.model is None:
            return Return(outcome=Outcome.LOST, text=f"has {now}, as before, and serves no model", changed=changed)
        return Return(outcome=None, text=f"serves {now if before else 'nothing, as before'}", changed=changed)
    if found in {way.release, None}:
        text = f"{'after its revert it ' if changed else ''}serves {now}, not {before or 'nothing'}"
        return Return(outcome=Outcome.LOST, text=text, changed=changed)
    return Return(outcome=None, text=f"serves {now}, which is not this rollout's doing", changed=changed)
