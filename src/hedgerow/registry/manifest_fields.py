"""The parts of ``manifest.json`` that schema 1 has: files, requirements, tensors, golden answers, provenance.

The manifest itself and its rules are ``registry.manifest``; what schema 2 added is ``registry.manifest_parts``. A field
of these structs that came with schema 2 stands in ``NEW_IN_2``: a manifest of schema 1 must not hold it.

This module does no IO.
"""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

FILE_NAME: Final = "manifest.json"
MAX_FILE_BYTES: Final = 1 << 40

# Python's "$" also matches before a final newline; "(?!\n)" closes that, and means the same in JSON Schema.
_END = r"$(?!\n)"
NAME_PATTERN: Final = r"^[a-z0-9]+(?:[._-][a-z0-9]+)*" + _END
# Semantic Versioning 2.0.0 without build metadata: two versions that differ only there have no order.
_NUMBER = r"(?:0|[1-9][0-9]*)"
_PRERELEASE = rf"(?:{_NUMBER}|[0-9]*[a-zA-Z-][0-9a-zA-Z-]*)"
VERSION_PATTERN: Final = rf"^{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRERELEASE}(?:\.{_PRERELEASE})*)?" + _END
SHA256_PATTERN: Final = r"^[0-9a-f]{64}" + _END
# What hedgerow.release.versions.within reads: ">=5.1,<5.2".
_CLAUSE = r"(?:==|!=|>=|<=|<|>) ?[0-9]+(?:\.[0-9]+){0,3}"
RANGE_PATTERN: Final = rf"^{_CLAUSE}(?:, ?{_CLAUSE})*" + _END

MAX_NAME: Final = 63
MAX_VERSION: Final = 64

# Checked by hand in Manifest, so that the message is a sentence and not a regular expression.
Name = Annotated[str, Meta(extra_json_schema={"pattern": NAME_PATTERN, "maxLength": MAX_NAME})]
Version = Annotated[str, Meta(extra_json_schema={"pattern": VERSION_PATTERN, "maxLength": MAX_VERSION})]
Sha256 = Annotated[str, Meta(pattern=SHA256_PATTERN)]
Text = Annotated[str, Meta(min_length=1, max_length=4096)]
Range = Annotated[str, Meta(pattern=RANGE_PATTERN, max_length=256)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]

Format = Literal[
    "onnx", "onnx-genai", "hef", "gguf",
    # Schema 2:
    "tflite", "onnx-adapter", "wheels", "oci-archive", "unit-folder", "unit-root", "files",
]  # fmt: skip
Hat = Literal["none", "hat-plus-13", "hat-plus-26", "hat-plus-2"]
Architecture = Literal["aarch64", "x86_64"]


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

    Schema 2: ``activation_bits`` where activations are quantized too; ``sparsity``, the share of weights that are zero.
    """

    scheme: Text
    bits: Annotated[int, Meta(ge=1, le=32)]
    group_size: Count | None = None
    calibration_sha256: Sha256 | None = None
    activation_bits: Annotated[int, Meta(ge=1, le=32)] | None = None
    sparsity: Annotated[float, Meta(ge=0, lt=1)] | None = None


class Requires(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a host must have. ``hat``: any of these; empty means that every board will do.

    ``hailort``, ``firmware`` and ``runtime`` are version specifiers such as ``>=5.1,<5.2``; None means any.

    Schema 2: ``board``: any of these, as inventories label boards (``labels.board``); ``machine`` as ``uname -m`` says
    it; ``npu_memory_mb`` on the HAT; ``disk_mb`` beside the bundle's own files; ``python`` a version range.
    """

    memory_mb: Count
    hat: tuple[Hat, ...] = ()
    hailort: Text | None = None
    firmware: Text | None = None
    runtime: Text | None = None
    board: tuple[Text, ...] = ()
    machine: Architecture | None = None
    npu_memory_mb: Count | None = None
    disk_mb: Count | None = None
    python: Range | None = None


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

    Schema 2: ``adapter``, the one of the bundle's adapters that has to answer; None asks the model as it is.
    """

    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    expect: Text
    max_tokens: Annotated[int, Meta(ge=1, le=512)] = 32
    match: Literal["exact", "prefix", "contains"] = "contains"
    adapter: Name | None = None


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


NEW_IN_2: Final[dict[type[Struct], tuple[str, ...]]] = {
    Quantization: ("activation_bits", "sparsity"),
    Requires: ("board", "machine", "npu_memory_mb", "disk_mb", "python"),
    GoldenText: ("adapter",),
}


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


def is_name(text: str) -> bool:
    """Whether ``text`` is a bundle name."""
    return len(text) <= MAX_NAME and re.search(NAME_PATTERN, text) is not None


def is_version(text: str) -> bool:
    """Whether ``text`` is a bundle version."""
    return len(text) <= MAX_VERSION and re.search(VERSION_PATTERN, text) is not None
