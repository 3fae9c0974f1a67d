"""Typed YAML configuration: what daemons read at start and what the controller checks before it writes.

Both sides go through ``convert``, so a file that the controller accepts is one that the daemon reads.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


def convert(values: Any, struct: type[T]) -> T:
    """``values`` (plain data) as ``struct``; text becomes a path where the struct has one.

    Raises:
        msgspec.ValidationError: a key or value is not allowed; the message names its path.
    """
    return msgspec.convert(values, struct, dec_hook=_decode)


def decode(data: bytes, struct: type[T]) -> T:
    """YAML as ``struct``.

    Raises:
        msgspec.DecodeError: no YAML, or as ``convert``.
    """
    return msgspec.yaml.decode(data, type=struct, dec_hook=_decode)


def _decode(kind: type, value: Any) -> Any:
    # msgspec knows no paths.
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise TypeError(f"Expected `{kind.__name__}`, got `{type(value).__name__}`")
