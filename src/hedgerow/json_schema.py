"""JSON Schema of our structs, the same bytes on every Python."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def of(kind: type, title: str) -> dict[str, Any]:
    """Return the schema of ``kind``; docstrings become descriptions.

    Python 3.13 strips a docstring's indentation and earlier ones do not, so descriptions are brought to one form.
    """
    # Through JSON once, because msgspec leaves defaults as the Python tuples they are.
    schema: dict[str, Any] = _cleaned(msgspec.json.decode(msgspec.json.encode(msgspec.json.schema(kind))))
    return {"$schema": DIALECT, "title": title, **schema}


def _cleaned(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: inspect.cleandoc(item) if key == "description" and isinstance(item, str) else _cleaned(item)
            for key, item in value.items()
        }
    return [_cleaned(item) for item in value] if isinstance(value, list) else value
