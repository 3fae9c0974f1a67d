"""One thing that is wrong with an inventory, and how it is said."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

_LINE = 60  # characters of a value that a message repeats
_MANY = 12  # more choices than this are described, not listed


class Problem(msgspec.Struct, frozen=True):
    """``line`` counts from 1; ``allowed`` says what would be right, ``hint`` what to do next."""

    file: str
    what: str
    line: int | None = None
    key: str | None = None
    value: str | int | float | bool | None = None
    allowed: str | None = None
    hint: str | None = None

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        subject = "" if self.key is None else f"{self.key}: "
        more = (("allowed", self.allowed), ("next", self.hint))
        return f"{where}: {subject}{self.what}" + "".join(f"\n    {name}: {text}" for name, text in more if text)


def scalar(value: Any) -> str | int | float | bool | None:
    """Return ``value`` where it is one word, else its JSON."""
    return value if isinstance(value, (str, int, float, bool, type(None))) else brief(value)


def brief(value: Any) -> str:
    """Return ``value`` as JSON, cut to what a line holds."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LINE else text[: _LINE - 1] + "…"


def shown(path: Path) -> str:
    """Return ``path`` as the operator would type it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def choices(names: Iterable[str], otherwise: str) -> str:
    """List ``names``, or say ``otherwise`` where they are too many to read."""
    listed = list(names)
    return ", ".join(listed) if 0 < len(listed) <= _MANY else otherwise


def did_you_mean(word: object, known: Iterable[object]) -> str | None:
    """Return "did you mean …?" where one of ``known`` is close enough."""
    close = difflib.get_close_matches(str(word), [str(choice) for choice in known], n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else None
