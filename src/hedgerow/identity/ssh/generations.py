"""Which keys of a CA are trusted and which one signs: rotation with overlap. Pure: no files, time is an argument.

A key goes ``next`` → ``current`` → ``old`` → ``gone``. Invariants:

- Of each kind exactly one key is ``current``: it alone signs.
- ``next``, ``current`` and ``old`` are trusted. A new key is on every host before it signs, an old one stays until
  nothing that it signed is alive: nobody is locked out between two converges.
- At most one is ``next``, at most one ``old``.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

from hedgerow.errors import RefusedError
from hedgerow.identity.ssh import events

State = Literal["next", "current", "old", "gone"]
TRUSTED: tuple[State, ...] = ("next", "current", "old")


class CaKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One key. ``public`` is ``<kind> <base64>``; ``module`` the PKCS#11 library of its token, None for a file."""

    kind: events.CaKind
    name: str
    state: State
    public: str
    since: str
    module: str | None = None


class Authority(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``authority.json``."""

    fleet: str
    keys: tuple[CaKey, ...]


def current(keys: Iterable[CaKey], kind: events.CaKind) -> CaKey:
    """The key that signs."""
    return next(key for key in keys if (key.kind, key.state) == (kind, "current"))


def trusted(keys: Iterable[CaKey], kind: events.CaKind) -> list[CaKey]:
    """The keys whose certificates count, the signing one first."""
    order = ("current", "next", "old")
    return sorted(
        (key for key in keys if key.kind == kind and key.state in TRUSTED), key=lambda k: order.index(k.state)
    )


def next_name(keys: Iterable[CaKey], kind: events.CaKind) -> str:
    """``user-1``, ``user-2`` …; a name is never used again."""
    return f"{kind}-{1 + max((int(key.name.rpartition('-')[2]) for key in keys if key.kind == kind), default=0)}"


def _in_state(keys: Iterable[CaKey], kind: events.CaKind, state: State) -> CaKey | None:
    return next((key for key in keys if (key.kind, key.state) == (kind, state)), None)


def require_begin(keys: Sequence[CaKey], kind: events.CaKind) -> None:
    """Raise RefusedError while another rotation of ``kind`` is under way."""
    for state, step in (("next", "switch"), ("old", "finish")):
        under_way = next((key for key in keys if (key.kind, key.state) == (kind, state)), None)
        if under_way is not None:
            raise RefusedError(
                f"a rotation of the {kind} CA is under way: {under_way.name} is {state}",
                where="rule: one rotation at a time",
                next_step=f"hedgerow ssh rotate {step} --kind {kind}",
            )


def switch(keys: Sequence[CaKey], kind: events.CaKind, *, now: dt.datetime) -> tuple[CaKey, ...]:
    """Let the next key sign.

    Raises:
        RefusedError: there is none.
    """
    if _in_state(keys, kind, "next") is None:
        raise RefusedError(
            f"the {kind} CA has no next key",
            where="rule: a key is trusted everywhere before it signs",
            next_step=f"hedgerow ssh rotate begin --kind {kind}, then converge every host, then switch",
        )
    moved: dict[State, State] = {"next": "current", "current": "old"}
    return _moved(keys, kind, moved, now)


def finish(
    keys: Sequence[CaKey], kind: events.CaKind, *, alive: int, now: dt.datetime, force: bool = False
) -> tuple[CaKey, ...]:
    """Trust the old key no more; ``alive`` is how many certificates of it have life left.

    Raises:
        RefusedError: there is none, or some are alive and ``force`` is not set.
    """
    leaving = _in_state(keys, kind, "old")
    if leaving is None:
        raise RefusedError(
            f"no old key of the {kind} CA is waiting to leave",
            where="hedgerow ssh show",
            next_step=f"hedgerow ssh rotate switch --kind {kind} comes first",
        )
    if alive and not force:
        raise RefusedError(
            f"{alive} certificates that {leaving.name} signed are alive, and would count no more",
            where="rule: a key leaves when nothing that it signed is alive",
            next_step="converge (hosts get certificates of the new key), wait for the others to end, or --force",
        )
    return _moved(keys, kind, {"old": "gone"}, now)


def _moved(
    keys: Sequence[CaKey], kind: events.CaKind, moved: dict[State, State], now: dt.datetime
) -> tuple[CaKey, ...]:
    return tuple(
        msgspec.structs.replace(key, state=moved[key.state], since=events.text(now))
        if key.kind == kind and key.state in moved
        else key
        for key in keys
    )
