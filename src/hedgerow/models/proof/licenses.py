"""Licenses as SPDX expressions: a bundle without one, or with one that nobody knows, is not published."""

from __future__ import annotations

import re
from functools import cache
from typing import Any, Final

from hedgerow.errors import RefusedError

# SPDX specification 2.3, annex D: a license that the list does not have, whose text comes along.
_OWN: Final = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")
_KEYWORDS: Final = {"AND", "OR", "WITH"}


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing  # reads 2,000 licenses, 0.3 s

    return get_spdx_licensing()


def normalized(expression: str) -> str | None:
    """The expression as SPDX writes it (``apache-2.0 or mit`` → ``Apache-2.0 OR MIT``); None where it is none."""
    own = {each.lower(): each for each in _OWN.findall(expression)}
    # Unknown to the list, but well-formed: held by a license's place while the rest is judged.
    plain = _OWN.sub("0BSD", expression)
    try:
        parsed = _licensing().parse(plain, validate=True, strict=True)
    except Exception:  # noqa: BLE001 -- the library raises several kinds, all of them mean "no"
        return None
    if parsed is None:
        return None
    return str(parsed) if not own else " ".join(expression.split())


def check(expression: str, *, has_text: bool, where: str) -> str:
    """Return the normalized expression.

    Raises:
        RefusedError: no valid SPDX expression, or one of the publisher's own (``LicenseRef-…``) without its text.
    """
    found = normalized(expression)
    if found is None:
        raise RefusedError(
            f"rule license-is-spdx: {expression!r} is no SPDX license expression",
            where=where,
            next_step="take an identifier from https://spdx.org/licenses, or LicenseRef-NAME with the text as a file",
        )
    if _OWN.search(expression) and not has_text:
        raise RefusedError(
            f"rule license-has-text: {expression!r} is a license of your own, and its text is not in the bundle",
            where=where,
            next_step="put the text into the bundle: --license-file FILE",
        )
    return found


def as_cyclonedx(text: str) -> list[dict[str, Any]]:
    """CycloneDX's ``licenses``: an expression where it is one, else a license by the name that was stated."""
    found = normalized(text)
    if found is None or _OWN.search(text):
        return [{"license": {"name": text}}]
    if set(found.split()) & _KEYWORDS or "(" in found:
        return [{"expression": found}]
    return [{"license": {"id": found}}]
