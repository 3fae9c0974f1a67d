"""What a gateway has of its site's issuing CA and the controller wants: request, list and logs, never its key.

The standard library alone: the controller sends this file to the gateway (``hedgerow.remote_script``).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

REQUEST = "ca.csr"
LIST = "ca.crl"
LOGS = ("issued.jsonl", "renewals.jsonl")
HEAD = ".head"
# What one answer carries of one log at the most: a site of a hundred boards writes 50 KB a month.
PART_BYTES = 1 << 20


class SiteCAError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def read(*, directory: str, state: str, known: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The CA in ``directory`` whose service writes to ``state``; all values are None where there is nothing.

    ``known`` has for each log of ``LOGS`` what the controller has of it: ``size`` in bytes and its ``sha256``. Returns
    ``{"request": PEM, "list": PEM, "logs": {name: {"text", "head", "more"}}}``: whole lines from there on, the anchor,
    and whether there is more to come.

    Raises:
        SiteCAError: a log does not begin with what the controller has of it: it was changed, or is another's.
    """
    return {
        "request": _text(Path(directory) / REQUEST),
        "list": _text(Path(state) / LIST),
        "logs": {name: _log(Path(state) / name, **known[name]) for name in LOGS},
    }


def _log(path: Path, *, size: int, sha256: str) -> dict[str, Any] | None:
    # Before the log: an anchor may lag behind it, and never is ahead.
    head = _text(path.with_name(path.name + HEAD))
    try:
        with path.open("rb") as file:
            before = file.read(size)
            part = file.read(PART_BYTES)
            more = bool(file.read(1))
    except FileNotFoundError:
        if size:
            raise _changed(path, "is gone") from None
        return None
    if hashlib.sha256(before).hexdigest() != sha256:
        raise _changed(path, "does not begin with what the controller has of it")
    whole = part[: part.rfind(b"\n") + 1]
    return {"text": whole.decode(), "head": head, "more": more}


def _changed(path: Path, what: str) -> SiteCAError:
    return SiteCAError(
        f"the gateway's log {path.name} {what}: it was changed, or the card is another one",
        where=str(path),
        next_step="keep both for inquiry; who could write there could certify machines of this site: "
        "hedgerow ca issuing revoke SITE --reason WHY",
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return None
