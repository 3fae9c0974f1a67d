"""Challenges: 256 random bits that a request has to name, each good once and for five minutes.

One file a challenge. It is used by being removed, which the file system grants to one process alone.
"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from pathlib import Path

from hedgerow import atomic
from hedgerow.errors import RefusedError
from hedgerow.identity.ssh import events

LIFE = dt.timedelta(minutes=5)
_FORM = re.compile(r"[0-9a-f]{64}")
# A script that asks and never signs must not fill the disk.
MAXIMUM_OPEN = 1000


def make(folder: Path, *, now: dt.datetime) -> str:
    """A new challenge.

    Raises:
        RefusedError: too many are open.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    forget_expired(folder, now=now)
    if sum(1 for _ in folder.iterdir()) >= MAXIMUM_OPEN:
        raise RefusedError(
            f"{MAXIMUM_OPEN} challenges are open and nobody answers them",
            where=str(folder),
            next_step=f"find out who asks for them; each ends after {LIFE.seconds // 60} minutes",
        )
    challenge = secrets.token_hex(32)
    atomic.write_text(folder / challenge, events.text(now + LIFE), mode=0o600)
    return challenge


def use(folder: Path, challenge: str, *, now: dt.datetime) -> None:
    """Take a challenge; it counts no more, whatever comes of the request.

    Raises:
        RefusedError: the authority did not make it, it was used, or its time is over.
    """
    path = folder / challenge
    good = False
    if _FORM.fullmatch(challenge):
        try:
            good = now <= events.moment(path.read_text(encoding="ascii").strip())
            path.unlink()
        except (FileNotFoundError, ValueError):
            good = False
    if not good:
        raise RefusedError(
            "the request's challenge does not count: unknown, used before, or older than five minutes",
            where="rule: a request opens something once",
            next_step="hedgerow ssh challenge, and sign a new request with it",
        )


def forget_expired(folder: Path, *, now: dt.datetime) -> None:
    """Remove what nobody used in time."""
    for path in folder.iterdir():
        try:
            if events.moment(path.read_text(encoding="ascii").strip()) < now:
                path.unlink()
        except (FileNotFoundError, ValueError):
            path.unlink(missing_ok=True)
