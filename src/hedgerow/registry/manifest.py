"""What a bundle says about itself: ``manifest.json``, typed and strict. Reading the files is ``registry.bundle``.

Invariants
----------
* A manifest is decoded strictly: an unknown field is an error, so a misspelt limit can never be silently ignored.
* A version is immutable. The SHA-256 of the manifest's bytes is the bundle's identity, and through the files' hashes
  it fixes every byte of the bundle.
* No path can leave the bundle's folder: relative, ``/``-separated, no ``.`` or ``..``, no control character, no file
  that is also a folder, no two equal ones.
* New fields raise the schema. A device that is too old then says so, instead of complaining about an unknown field.
  A manifest of schema 1 holds no field of schema 2, so it means the same to a device of any age.

Schema 2 is schema 1 and more: one struct holds both, and ``upgrade`` gives readers one shape. The parts are
``registry.manifest_fields`` (schema 1) and ``registry.manifest_parts`` (schema 2).

This module does no IO.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from hedgerow import json_schema as schemas
from hedgerow.errors import PublisherError
from hedgerow.registry.manifest_fields import (
    FILE_NAME,
    MAX_NAME,
    NAME_PATTERN,
    NEW_IN_2,
    SHA256_PATTERN,
    VERSION_PATTERN,
    File,
    Format,
    GoldenTensor,
    GoldenTensors,
    GoldenText,
    Hat,
    Message,
    Name,
    Provenance,
    Quantization,
    RecommendedRollout,
    Requires,
    Slo,
    Source,
    Tensor,
    Text,
    Thermal,
    Version,
    check_path,
    check_paths,
    is_name,
    is_version,
)
from hedgerow.registry.manifest_parts import (
    ASKED,
    FORMATS,
    OLD_FORMATS,
    Application,
    Base,
    Calibration,
    Expectation,
    Hailo,
    Kind,
    Machine,
    Port,
    Proof,
    Variant,
    adapter_path,
    check_folders,
)

__all__ = [
    "FILE_NAME", "NAME_PATTERN", "NEW", "NEWEST", "NEW_IN_2", "ONLY", "SCHEMA", "SHA256_PATTERN", "VERSION_PATTERN",
    "Application", "Base", "Calibration", "Expectation", "File", "Format", "GoldenTensor", "GoldenTensors",
    "GoldenText", "Hailo", "Hat", "Kind", "Machine", "Manifest", "Message", "Port", "Proof", "Provenance",
    "Quantization", "RecommendedRollout", "Requires", "Slo", "Source", "Tensor", "Thermal", "Variant", "check_path",
    "check_paths", "decode", "digest", "encode", "is_name", "is_version", "json_schema", "newer_fields", "upgrade",
]  # fmt: skip

SCHEMA: Final = 1
"""What a builder writes that needs nothing newer: every device reads it."""
NEWEST: Final = 2
"""The newest schema that is read here."""
ONLY: Final = "default"
"""Name of the variant of a bundle that has no others (as ``hedgerow.rollout.variants`` calls it)."""

# Bounds on what a device reads before it knows whom to trust. The slice's bundles have about ten files.
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_FILES: Final = 10_000
MAX_VARIANTS: Final = 64


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``manifest.json``. ``license`` is an SPDX expression; ``sbom`` and ``license_file`` name files of the bundle.

    ``features`` are flags that applications may read through the server (``chat``, ``tools`` …).

    Schema 2: ``kind`` of bundle; ``variants``, of which the first is what ``format`` and ``requires`` describe, or
    ``variant``, the name of the one that this manifest was taken out of such a bundle for; ``base`` of an adapter;
    ``proofs`` name files of the bundle.
    """

    schema: Literal[1, 2]
    name: Name
    version: Version
    format: Format
    license: Text
    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=MAX_FILES)]
    requires: Requires
    provenance: Provenance
    golden: tuple[GoldenText | GoldenTensors, ...] = ()
    description: str = ""
    quantization: Quantization | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    slo: Slo | None = None
    thermal: Thermal | None = None
    features: dict[str, bool] = msgspec.field(default_factory=dict)
    recommended_rollout: RecommendedRollout | None = None
    license_file: str | None = None
    sbom: str | None = None
    kind: Kind = "model"
    variants: Annotated[tuple[Variant, ...], Meta(max_length=MAX_VARIANTS)] = ()
    variant: Name | None = None
    base: Base | None = None
    application: Application | None = None
    hailo: Hailo | None = None
    calibration: Calibration | None = None
    expectations: tuple[Expectation, ...] = ()
    proofs: tuple[Proof, ...] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name!r} is not lower-case words joined by '.', '_' or '-', {MAX_NAME} at most"
            )
        if not is_version(self.version):
            raise ValueError(f"version {self.version!r} is not a semantic version such as 1.2.0 or 1.2.0-rc.1")
        if self.schema < NEWEST and (newer := newer_fields(self)):
            raise ValueError(f"{newer[0]} needs schema 2, and the manifest has schema {self.schema}")
        check_paths([file.path for file in self.files])
        self._check_kind()
        self._check_files_named()
        if self.variants:
            self._check_variants()

    def _check_kind(self) -> None:
        if self.format not in FORMATS[self.kind]:
            raise ValueError(f"format {self.format!r} is none of {self.kind}: {', '.join(FORMATS[self.kind])}")
        if self.kind in ASKED and not self.golden:
            raise ValueError(f"golden is empty; of kind {self.kind} it must be an array of length >= 1")
        for field, kind, value in (("base", "adapter", self.base), ("application", "application", self.application)):
            if (self.kind == kind) != (value is not None):
                raise ValueError(f"{field} belongs to kind {kind} and to no other; this is of kind {self.kind}")

    def _check_variants(self) -> None:
        if self.variant is not None:
            raise ValueError("variant is of a bundle that was taken out of one with variants; this has variants itself")
        if (self.format, self.requires) != (self.variants[0].format, self.variants[0].requires):
            raise ValueError(f"format and requires are not those of the first variant, {self.variants[0].name!r}")
        for variant in self.variants:
            if variant.format not in FORMATS[self.kind]:
                raise ValueError(f"format {variant.format!r} of variant {variant.name!r} is none of {self.kind}")
        shared = check_folders(self.variants, [file.path for file in self.files])
        for field, path in (("license_file", self.license_file), ("sbom", self.sbom)):
            if path is not None and path not in shared:
                raise ValueError(f"{field} {path!r} lies in a variant's folder, so the others would lack it")

    def _check_files_named(self) -> None:
        named = [("license_file", self.license_file), ("sbom", self.sbom)]
        named += [("proofs", proof.path) for proof in self.proofs]
        if self.application is not None:
            named += [(f"application.{name}", getattr(self.application, name)) for name in ("image", "unit", "root")]
        questions = [*self.golden, *(golden for variant in self.variants for golden in variant.golden)]
        asked = {each.adapter for each in questions if isinstance(each, GoldenText)} - {None}
        named += [("golden.adapter", adapter_path(str(name))) for name in sorted(asked, key=str)]
        paths = {file.path for file in self.files}
        for field, path in named:
            if path is not None and path not in paths:
                raise ValueError(f"{field} names {path!r}, which is not in files")

    @property
    def size(self) -> int:
        """Bytes of all files together, without the manifest."""
        return sum(file.size for file in self.files)

    @property
    def reference(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"


def newer_fields(manifest: Manifest) -> list[str]:
    """What of ``manifest`` schema 1 does not have, as ``requires.board``; empty where schema 1 can say it all."""
    found = [name for name in NEW if getattr(manifest, name) != NEW[name]]
    if manifest.format not in OLD_FORMATS:
        found.append(f"format {manifest.format!r}")
    for name in ("requires", "quantization"):
        part = getattr(manifest, name)
        for field in NEW_IN_2.get(type(part), ()):
            if getattr(part, field) not in {None, ()}:
                found.append(f"{name}.{field}")  # noqa: PERF401 -- two loops deep, this reads better
    if any(isinstance(golden, GoldenText) and golden.adapter is not None for golden in manifest.golden):
        found.append("golden.adapter")
    return found


NEW: Final[dict[str, Any]] = {
    "kind": "model",
    "variants": (),
    "variant": None,
    "base": None,
    "application": None,
    "hailo": None,
    "calibration": None,
    "expectations": (),
    "proofs": (),
}
"""Manifest's own fields of schema 2, with what they are where nobody sets them."""


def upgrade(manifest: Manifest) -> Manifest:
    """Return ``manifest`` as schema 2 has it, with one variant at least: what readers of any schema may work with.

    The variant of a bundle without variants is ``ONLY`` (or the one it was taken out for) and has all files: its folder
    is empty. The result is another manifest with another identity: for reading, never to be written in its place.
    """
    if manifest.variants:
        return manifest
    fields = ("format", "requires", "description", "quantization", "calibration", "hailo", "inputs", "outputs")
    same = {name: getattr(manifest, name) for name in (*fields, "golden", "slo", "expectations")}
    whole = Variant(name=manifest.variant or ONLY, folder="", **same)
    return msgspec.structs.replace(manifest, schema=NEWEST, variants=(whole,), variant=None)


class _Peek(Struct):
    schema: int


def decode(data: bytes, *, where: str) -> Manifest:
    """Decode ``manifest.json``, of any schema up to ``NEWEST``; ``where`` names the file or URL in the error.

    Raises:
        PublisherError: too large, not JSON, another schema, or a field that breaks a rule (named with its path).
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise PublisherError(f"the manifest has {len(data)} bytes; {MAX_MANIFEST_BYTES} are allowed", where=where)
    try:
        schema = msgspec.json.decode(data, type=_Peek).schema
        if schema > NEWEST:
            raise PublisherError(
                f"the manifest has schema {schema}; this Hedgerow knows {NEWEST}",
                where=where,
                next_step="update the runtime of this host first",
            )
        return msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:  # ValidationError is one too
        raise PublisherError(
            f"the manifest is not valid: {error}",
            where=where,
            next_step="build the bundle again: hedgerow model --help",
        ) from error


def encode(manifest: Manifest) -> bytes:
    """Return the one byte form of ``manifest``: sorted keys, two spaces, a final newline.

    Raises:
        msgspec.ValidationError: ``manifest`` was built with values that decoding would refuse.
    """
    data = msgspec.json.encode(manifest, order="sorted")
    msgspec.json.decode(data, type=Manifest)  # constructors do not check types and patterns; decoding does
    return msgspec.json.format(data, indent=2) + b"\n"


def digest(data: bytes) -> str:
    """Return the identity of a bundle: SHA-256 (hex) of its manifest's bytes."""
    return hashlib.sha256(data).hexdigest()


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of ``manifest.json``, kept beside this module as ``manifest.schema.json``."""
    schema = schemas.of(Manifest, "Hedgerow bundle manifest")
    # What a struct cannot say: the rules of kinds, and that schema 1 has no field of schema 2.
    kinds: list[dict[str, Any]] = [
        {
            "if": {"properties": {"kind": {"const": kind}}, **({} if kind == "model" else {"required": ["kind"]})},
            "then": {
                "properties": {
                    "format": {"enum": list(formats)},
                    **({"golden": {"minItems": 1}} if kind in ASKED else {}),
                },
                "required": [
                    *(["golden"] if kind in ASKED else []),
                    *(["base"] if kind == "adapter" else []),
                    *(["application"] if kind == "application" else []),
                ],
            },
        }
        for kind, formats in FORMATS.items()
    ]
    refused: dict[str, Any] = dict.fromkeys(NEW, False)
    refused["format"] = {"enum": list(OLD_FORMATS)}
    for field, part in (("requires", Requires), ("quantization", Quantization)):
        refused[field] = {"properties": dict.fromkeys(NEW_IN_2[part], False)}
    refused["golden"] = {"items": {"properties": dict.fromkeys(NEW_IN_2[GoldenText], False)}}
    old = {"if": {"properties": {"schema": {"const": SCHEMA}}}, "then": {"properties": refused}}
    schema["$defs"]["Manifest"]["allOf"] = [*kinds, old]
    return schema


if __name__ == "__main__":  # python -m hedgerow.registry.manifest > src/hedgerow/registry/manifest.schema.json
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201 -- this is the output
