"""Bytes of a recipe and of a patch index: bounded before they are expanded, strict when they are decoded.

This module does no IO.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final, TypeVar

import msgspec
import zstandard
from msgspec import Struct

from hedgerow import json_schema as schemas
from hedgerow.errors import PublisherError
from hedgerow.registry.transfer.recipe import AGAIN, MAX_JSON_BYTES, MAX_RECIPE_BYTES, SCHEMA, PatchIndex, Recipe

_LEVEL: Final = 9  # recipes are small; above this nothing shrinks
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
Decoded = TypeVar("Decoded", Recipe, PatchIndex)


def decode(data: bytes, *, where: str) -> Recipe:
    """Decode a recipe, as zstd or as plain JSON; ``where`` names the file or URL in the error.

    Raises:
        PublisherError: too large, damaged, another schema, or a field that breaks a rule.
    """
    if data[:4] == _ZSTD_MAGIC:
        data = _expanded(data, where)
    return _decoded(data, Recipe, where)


def encode(recipe: Recipe) -> bytes:
    """The recipe's bytes as they are published.

    Raises:
        msgspec.ValidationError: ``recipe`` holds values that decoding would refuse.
    """
    return _compressor().compress(to_json(recipe))


def decode_index(data: bytes, *, where: str) -> PatchIndex:
    """Decode a patch index as ``packs.unframe`` returns it.

    Raises:
        PublisherError: as ``decode``.
    """
    return _decoded(data, PatchIndex, where)


def to_json(value: Recipe | PatchIndex) -> bytes:
    """The one JSON form of ``value``; this is what the frame of a patch index holds.

    Raises:
        msgspec.ValidationError: ``value`` holds values that decoding would refuse.
    """
    data = msgspec.json.encode(value, order="sorted")
    msgspec.json.decode(data, type=type(value))  # constructors do not check types and bounds; decoding does
    return data


def json_schema(kind: type[Recipe | PatchIndex]) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a recipe or a patch index, kept beside this module."""
    return schemas.of(kind, "Hedgerow transfer recipe" if kind is Recipe else "Hedgerow patch index")


def _expanded(data: bytes, where: str) -> bytes:
    if len(data) > MAX_RECIPE_BYTES:
        raise PublisherError(f"the recipe has {len(data)} bytes; {MAX_RECIPE_BYTES} are allowed", where=where)
    try:
        size = zstandard.get_frame_parameters(data).content_size
        if size in {zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR} or size > MAX_JSON_BYTES:
            raise PublisherError(f"the recipe would expand to more than {MAX_JSON_BYTES} bytes", where=where)
        return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise PublisherError(f"the recipe is damaged: {error}", where=where, next_step=AGAIN) from error


class _Peek(Struct):
    schema: int


def _decoded(data: bytes, kind: type[Decoded], where: str) -> Decoded:
    what = "recipe" if kind is Recipe else "patch index"
    if len(data) > MAX_JSON_BYTES:
        raise PublisherError(f"the {what} has {len(data)} bytes; {MAX_JSON_BYTES} are allowed", where=where)
    try:
        schema = msgspec.json.decode(data, type=_Peek).schema
        if schema > SCHEMA:
            raise PublisherError(
                f"the {what} has schema {schema}; this Hedgerow knows {SCHEMA}",
                where=where,
                next_step="update the runtime of this host first",
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:  # ValidationError is the first too
        raise PublisherError(f"the {what} is not valid: {error}", where=where, next_step=AGAIN) from error


def _compressor() -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(level=_LEVEL, write_checksum=False, write_content_size=True)


# python -m hedgerow.registry.transfer.codec Recipe > src/hedgerow/registry/transfer/recipe.schema.json
# python -m hedgerow.registry.transfer.codec PatchIndex > src/hedgerow/registry/transfer/patch_index.schema.json
if __name__ == "__main__":
    chosen: type[Recipe | PatchIndex] = Recipe if sys.argv[1] == "Recipe" else PatchIndex
    print(json.dumps(json_schema(chosen), indent=2, sort_keys=True))  # noqa: T201 -- this is the output
