"""What the lines of other logs say, in the audit log's words. Pure: lines in, ``Did`` out.

A line that no reader knows is counted, never dropped: a log of a newer release is still sealed as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from hedgerow.audit.events import Did

Line = Mapping[str, Any]


class Said(NamedTuple):
    """One line: what was done, to or for whom, by whom, when."""

    what: str
    about: str = ""
    by: str = ""
    at: str = ""


Reader = Callable[[Iterable[Line]], Iterator[Said | None]]


def merged(said: Iterable[Said | None]) -> list[Did]:
    """Neighbours that say the same of several hosts become one."""
    found: list[Did] = []
    for each in said:
        if each is None:
            continue
        about = [each.about] if each.about else []
        last = found[-1] if found else None
        if last is not None and (last.what, last.by) == (each.what, each.by):
            found[-1] = Did(what=last.what, by=last.by, at=each.at or last.at, about=last.about + about)
        else:
            found.append(Did(what=each.what, by=each.by, at=each.at, about=about))
    return found


def issued(lines: Iterable[Line]) -> Iterator[Said | None]:
    """The fleet CA's certificates."""
    for line in lines:
        what = f"signed a certificate ({line.get('profile', 'no profile')})"
        yield Said(what, str(line.get("name", "")), _by(line), _at(line))


def revocations(lines: Iterable[Line]) -> Iterator[Said | None]:
    """Who may hold no certificate any more."""
    for line in lines:
        what = f"{line.get('event', 'changed')} a {line.get('kind', 'holder')}: {line.get('reason', '')}"
        yield Said(what, str(line.get("holder", "")), _by(line), _at(line))


def rollout(lines: Iterable[Line]) -> Iterator[Said | None]:
    """A rollout's journal: begun, asked for, activated, undone, stopped, ended; who runs it is in its first line."""
    by = bundle = ""
    for line in lines:
        event, host = str(line.get("event", "")), str(line.get("host", ""))
        if event in {"opened", "resumed"}:
            by = str(line.get("by", ""))
            release = (line.get("plan") or {}).get("release") or {}
            bundle = str(release.get("bundle", bundle))
        what = _ROLLOUT.get(event)
        if event == "operator_asked":
            yield _asked(line)
        elif event == "host_finished":
            yield Said(f"{bundle} ended {line.get('outcome')}", host, by, _at(line))
        else:
            yield None if what is None else Said(f"{what} {bundle}".strip(), host, by, _at(line))


_ROLLOUT: Final = {
    "opened": "began the rollout of",
    "resumed": "went on with the rollout of",
    "host_activated": "activated",
    "host_undone": "brought back from",
    "host_resolved": "resolved",
    "stopped": "stopped the rollout of",
    "rolled_back": "rolled back",
    "superseded": "gave way in the rollout of",
    "closed": "ended the rollout of",
}


def _asked(line: Line) -> Said:
    request = line.get("request") or {}
    what = f"asked for {request.get('kind', 'something')}"
    if request.get("kind") == "approve":
        signed = f", signed by {line['key']}" if line.get("key") else ""
        what = f"approved wave {request.get('wave')}{signed}"
    if line.get("refused"):
        what += f" (refused: {line['refused']})"
    return Said(what, "", str(request.get("by", "")), _at(line))


def promotions(lines: Iterable[Line]) -> Iterator[Said | None]:
    """A stage's promotion log: who built, who approved, who released."""
    for line in lines:
        event = line.get("event") or {}
        signers = ", ".join(
            f"{role} by {each.get('owner')} ({str(each.get('keyid'))[:8]})"
            for role in ("built", "approved")
            for each in event.get(role) or []
        )
        what = str(event.get("what", "changed"))
        yield Said(f"{what}: {signers}" if signers else what, str(event.get("subject", "")),
                   str(line.get("operator", "")), _at(line))  # fmt: skip


def plain(lines: Iterable[Line]) -> Iterator[Said | None]:
    """Any log whose lines name what happened (``event`` or ``kind``) and to whom (``host``, ``name``, ``key_id``)."""
    for line in lines:
        what = str(line.get("event") or line.get("kind") or line.get("type") or "a line")
        about = next((str(line[key]) for key in ("host", "name", "holder", "key_id", "identity") if line.get(key)), "")
        reason = f": {line['reason']}" if isinstance(line.get("reason"), str) and line["reason"] else ""
        yield Said(f"{what}{reason}", about, _by(line), _at(line))


def _by(line: Line) -> str:
    return str(line.get("by") or line.get("operator") or "")


def _at(line: Line) -> str:
    return str(line.get("at") or line.get("time") or "")
