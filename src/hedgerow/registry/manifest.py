"""What a bundle says about itself: ``manifest.json``, typed and strict. Reading the files is ``registry.bundle``.

Invariants
----------
* A manifest is decoded strictly: an unknown field is an error, so a misspelt limit can never be silently ignored.
* A version is immutable. The SHA-256 of the manifest's bytes is the bundle's identity, and through the files' hashes
  it fixes every byte of the bundle.
* No path can leave the bundle's folder: relative, ``/``-separated, no ``.`` or ``..``, no control character, no file
  that is also a folder, no two equal ones.
* New fields raise ``SCHEMA``. A device that is too old then says so, instead of complaining about an unknown field.

This module does no IO.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct

from hedgerow import json_schema as schemas
from hedgerow.errors import PublisherError

SCHEMA: Final = 1
FILE_NAME: Final = "manifest.json"

# Bounds on what a device reads before it knows whom to trust. The slice's bundles have about ten files.
MAX_MANIFEST_BYTES: Final = 4 * 1024 * 1024
MAX_FILES: Final = 10_000
MAX_FILE_BYTES: Final = 1 << 40

# Python's "$" also matches before a final newline; "(?!\n)" closes that, and means the same in JSON Schema.
_END = r"$(?!\n)"
NAME_PATTERN: Final = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*" + _END
# Semantic Versioning 2.0.0 without build metadata: two versions that differ only there have no order.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
VERSION_PATTERN: Final = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRERELEASE}(?:\.{_PRERELEASE})*)?" + _END
SHA256_PATTERN: Final = r"^[0-9a-f]{64}" + _END

MAX_NAME: Final = 63
MAX_VERSION: Final = 64

# Checked by hand in Manifest, so that the message is a sentence and not a regular expression.
Name = Annotated[str, Meta(extra_json_schema={"pattern": NAME_PATTERN, "maxLength": MAX_NAME})]
Version = Annotated[str, Meta(extra_json_schema={"pattern": VERSION_PATTERN, "maxLength": MAX_VERSION})]
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]

Format = Literal["onnx", "onnx-genai", "hef", "gguf"]
Hat = Literal["none", "hat-plus-13", "hat-plus-26", "hat-plus-2"]


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the bundle: ``path`` below its folder, ``size`` in bytes, ``sha256`` of its content."""

    path: Annotated[str, Meta(min_length=1, max_length=512)]
    sha256: Sha256
    size: Annotated[int, Meta(ge=0, le=MAX_FILE_BYTES)]

    def __post_init__(self) -> None:
        check_path(self.path)


class Quantization(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How weights were made smaller.

    ``scheme`` is ``int4-rtn-block``, ``int8-qdq`` …; ``bits`` a weight; ``group_size`` in weights;
    ``calibration_sha256`` of the calibration set, where there was one.
    """

    scheme: Text
    bits: Annotated[int, Meta(ge=1, le=32)]
    group_size: Count | None = None
    calibration_sha256: Sha256 | None = None


class Requires(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a host must have. ``hat``: any of these; empty means that every board will do.

    ``hailort``, ``firmware`` and ``runtime`` are version specifiers such as ``>=5.1,<5.2``; None means any.
    """

    memory_mb: Count
    hat: tuple[Hat, ...] = ()
    hailort: Text | None = None
    firmware: Text | None = None
    runtime: Text | None = None


class Tensor(Struct, frozen=True, forbid_unknown_fields=True):
    """A tensor at the model's border, ``dtype`` as Open Inference Protocol v2 spells it; -1 is a free dimension."""

    name: Text
    dtype: Literal[
        "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
        "BF16", "BYTES",
    ]  # fmt: skip
    shape: tuple[Annotated[int, Meta(ge=-1)], ...]


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """One chat message of a golden conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class GoldenText(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="kind", tag="text"):
    """A conversation and what greedy decoding must answer.

    ``match`` is the tolerance: kernels differ between processors in the last bit, so an ``exact`` answer is asked only
    where it was seen on every board that the bundle allows.
    """

    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    expect: Text
    max_tokens: Annotated[int, Meta(ge=1, le=512)] = 32
    match: Literal["exact", "prefix", "contains"] = "contains"


class GoldenTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """Values of one tensor in row-major order; ``len(data)`` is the product of ``shape``."""

    name: Text
    shape: tuple[Natural, ...]
    data: tuple[float | int | bool | str, ...]


class GoldenTensors(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="tensors"):
    """Input tensors and the outputs they must give: ``|got - want| <= atol + rtol * |want|``, element by element."""

    inputs: Annotated[tuple[GoldenTensor, ...], Meta(min_length=1)]
    outputs: Annotated[tuple[GoldenTensor, ...], Meta(min_length=1)]
    atol: Annotated[float, Meta(ge=0)]
    rtol: Annotated[float, Meta(ge=0)]


class Slo(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the publisher expects on one board: milliseconds at the 95th percentile, tokens a second at least."""

    p95_ms: Positive | None = None
    ttft_p95_ms: Positive | None = None
    tokens_per_s: Positive | None = None


class Thermal(Struct, frozen=True, forbid_unknown_fields=True):
    """Board temperature in °C above which the server serves this model in its degraded way."""

    degrade_above_c: Annotated[float, Meta(gt=0, lt=120)]


class RecommendedRollout(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The publisher's advice; the rollout policy decides. ``canary`` in hosts, ``soak_s`` in seconds."""

    canary: Count = 1
    soak_s: Natural = 0


class Source(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Something the bundle was made from: a URI or package name, with its version and hash where known."""

    name: Text
    version: Text | None = None
    sha256: Sha256 | None = None


class Provenance(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where it came from. ``tools`` maps a program to its version. No build time: the same input gives the same bytes.

    ``builder`` says which command built it, ``commit`` which revision of it.
    """

    sources: Annotated[tuple[Source, ...], Meta(min_length=1)]
    builder: Text
    tools: dict[str, str]
    commit: Text | None = None
    dataset_sha256: Sha256 | None = None


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """``manifest.json``. ``license`` is an SPDX expression; ``sbom`` and ``license_file`` name files of the bundle.

    ``features`` are flags that applications may read through the server (``chat``, ``tools`` …).
    """

    schema: Literal[1]
    name: Name
    version: Version
    format: Format
    license: Text
    files: Annotated[tuple[File, ...], Meta(min_length=1, max_length=MAX_FILES)]
    requires: Requires
    provenance: Provenance
    golden: Annotated[tuple[GoldenText | GoldenTensors, ...], Meta(min_length=1)]
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

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(
                f"name {self.name!r} is not lower-case words joined by '.', '_' or '-', {MAX_NAME} at most"
            )
        if not is_version(self.version):
            raise ValueError(f"version {self.version!r} is not a semantic version such as 1.2.0 or 1.2.0-rc.1")
        paths = [file.path for file in self.files]
        check_paths(paths)
        for field, path in (("license_file", self.license_file), ("sbom", self.sbom)):
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


def check_path(path: str) -> None:
    """Raise ValueError where ``path`` could name anything but a file inside the bundle's folder."""
    if path.startswith("/"):
        raise ValueError(f"path {path!r} is absolute; write it relative to the bundle's folder")
    if "\\" in path or not path.isprintable():
        raise ValueError(f"path {path!r} holds a backslash or a control character")
    if any(part in {"", ".", ".."} for part in path.split("/")):
        raise ValueError(f"path {path!r} has an empty, '.' or '..' part")
    if path == FILE_NAME:
        raise ValueError(f"path {path!r} is the manifest itself; a file cannot hold its own hash")


def check_paths(paths: list[str]) -> None:
    """Raise ValueError where two paths are equal or one would have to be a file and a folder."""
    seen: set[str] = set()
    for path in paths:
        if path in seen:
            raise ValueError(f"path {path!r} stands twice in files")
        seen.add(path)
    for path in paths:
        parts = path.split("/")
        for end in range(1, len(parts)):
            parent = "/".join(parts[:end])
            if parent in seen:
                raise ValueError(f"path {parent!r} is a file and a folder of {path!r}")


class _Peek(Struct):
    schema: int


def decode(data: bytes, *, where: str) -> Manifest:
    """Decode ``manifest.json``; ``where`` names the file or URL in the error.

    Raises:
        PublisherError: too large, not JSON, another schema, or a field that breaks a rule (named with its path).
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise PublisherError(f"the manifest has {len(data)} bytes; {MAX_MANIFEST_BYTES} are allowed", where=where)
    try:
        schema = msgspec.json.decode(data, type=_Peek).schema
        if schema > SCHEMA:
            raise PublisherError(
                f"the manifest has schema {schema}; this Hedgerow knows {SCHEMA}",
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
    return schemas.of(Manifest, "Hedgerow bundle manifest")


def is_name(text: str) -> bool:
    """Whether ``text`` is a bundle name."""
    return len(text) <= MAX_NAME and re.search(NAME_PATTERN, text) is not None


def is_version(text: str) -> bool:
    """Whether ``text`` is a bundle version."""
    return len(text) <= MAX_VERSION and re.search(VERSION_PATTERN, text) is not None


if __name__ == "__main__":  # python -m hedgerow.registry.manifest > src/hedgerow/registry/manifest.schema.json
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201 -- this is the output
