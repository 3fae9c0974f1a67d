"""Bring one host back to the version before, whatever state it was left in.

- Looking comes first, in every try. A device that serves another version than
  the release (its activation failed, it went back by itself, somebody changed
  it since) is left alone: one more ``revert`` would take it a version too far,
  and a line that broke does not say whether the command had come through.
- A first installation has nothing to go back to. The device then keeps the
  release rather than serve nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet.endpoint import Report
from hedgerow.rollout.events import Outcome
from hedgerow.rollout.hostline import HostLine


class Return(msgspec.Struct, frozen=True, kw_only=True):
    """How it went. ``outcome`` None: the host serves what it is to serve; else kept or lost."""

    outcome: Outcome | None
    text: str
    changed: bool = False


def bring_back(
    line: HostLine,
    release: str,
    before: str | None,
    reason: str,
    *,
    timeout_s: int,
    again: Callable[[NetworkError], bool] = lambda _: False,
) -> Return:
    """Have the host serve ``before`` (``name@version``, None: nothing) instead of ``release``.

    ``again`` is asked, after a line broke, whether to begin anew; it waits as long as it sees fit. Never raises for
    what a host or a network does.
    """
    changed = False
    while True:
        try:
            report = line.settled_report(before)
            if report.reference == release != before:
                if before is None:
                    text = f"nothing was served before, so {release} stays"
                    return Return(outcome=Outcome.KEPT, text=text)
                line.run_once(["revert", "--reason", reason], timeout_s=timeout_s)
                changed = True
                report = line.settled_report(before)
            return _judged(report, release, before, changed=changed)
        except NetworkError as error:
            if not again(error):
                return Return(outcome=Outcome.LOST, text=f"it cannot be reached to go back: {error.what}")
        except DeviceError as error:
            return Return(outcome=Outcome.LOST, text=f"it did not go back: {error.what}")


def _judged(report: Report, release: str, before: str | None, *, changed: bool) -> Return:
    now = report.reference or "nothing"
    if report.reference == before:
        return Return(outcome=None, text=f"serves {now if before else 'nothing, as before'}", changed=changed)
    if report.reference == release or report.reference is None:
        text = f"{'after its revert it ' if changed else ''}serves {now}, not {before or 'nothing'}"
        return Return(outcome=Outcome.LOST, text=text, changed=changed)
    return Return(outcome=None, text=f"serves {now}, which is not this rollout's doing", changed=changed)
