"""Whether another machine may answer (``hedgerow.server.fallback``), as callers say it: in a header or metadata."""

from __future__ import annotations

from collections.abc import Callable

from hedgerow.registry.probe import ANSWER_HEADER
from hedgerow.server.errors import BadRequest


def device_only(stated: Callable[[str], str | None]) -> bool:
    """Whether the caller wants no other machine to answer; ``stated`` gives what it says by a name in lower case.

    Raises:
        BadRequest: it wants something else by that name.
    """
    wanted = stated(ANSWER_HEADER)
    if wanted not in {None, "any", "device"}:
        raise BadRequest(f"{ANSWER_HEADER} is {wanted!r}; known: any, device", field=ANSWER_HEADER)
    return wanted == "device"
