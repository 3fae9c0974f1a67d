"""The parts of ``manifest.json`` that schema 2 added: variants, expectations, bases, applications, proofs.

This module does no IO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from hedgerow.registry.manifest_fields import (
    Count,
    Format,
    GoldenTensors,
    GoldenText,
    Hat,
    Name,
    Positive,
    Quantization,
    Range,
    Requires,
    Sha256,
    Slo,
    Tensor,
    Text,
    check_path,
    check_paths,
    is_name,
)

Kind = Literal["model", "adapter", "runtime", "application", "configuration"]

OLD_FORMATS: Final = ("onnx", "onnx-genai", "hef", "gguf")
"""Those of schema 1."""
FORMATS: Final[dict[Kind, tuple[Format, ...]]] = {
    "model": (*OLD_FORMATS, "tflite"),
    "adapter": ("onnx-adapter",),
    "runtime": ("wheels",),
    "application": ("unit-folder", "unit-root", "oci-archive"),
    "configuration": ("files",),
}
ASKED: Final[tuple[Kind, ...]] = ("model", "adapter")
"""Kinds that answer golden questions."""


class Machine(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What something was measured on. ``model`` as the board calls itself; ``emulated``: no figure for a real one."""

    model: Text
    processor: Text
    memory_mb: Count
    hat: Hat = "none"
    hailort: Text | None = None
    kernel: Text | None = None
    emulated: bool = False


class Expectation(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What was measured under one condition: milliseconds, tokens a second, MB (10^6 bytes) at the peak.

    ``threads`` the model computed with; ``requests`` the figures come from; ``load_ms`` from asking for the model until
    its first answer; ``how`` it was throttled or made cold. ``measured`` is a date, given by who measures: builds have
    no clock.
    """

    condition: Literal["full-power", "throttled", "cold-start"]
    machine: Machine
    requests: Count
    threads: Count = 1
    p50_ms: Positive | None = None
    p95_ms: Positive | None = None
    p99_ms: Positive | None = None
    ttft_p50_ms: Positive | None = None
    ttft_p95_ms: Positive | None = None
    tokens_per_s: Positive | None = None
    peak_memory_mb: Positive | None = None
    load_ms: Positive | None = None
    how: Text | None = None
    measured: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$(?!\n)")] | None = None


class Calibration(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The set that ranges of activations were taken from; ``samples`` of it were used."""

    sha256: Sha256
    samples: Count
    method: Literal["minmax", "entropy", "percentile", "distribution"] = "minmax"
    source: Text | None = None


class Hailo(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """For which chip a HEF was compiled. ``evidence``: who says so.

    ``file``: the file itself, by the header that HailoRT publishes; ``operator``: a person, and nobody has checked.
    """

    architecture: Literal["hailo8", "hailo8l", "hailo10h", "hailo15h", "hailo15l", "hailo15m"]
    evidence: Literal["file", "operator"]
    compiler: Text | None = None


class Base(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bundle that an adapter needs: any version in the range; ``sha256`` (of a manifest) pins one."""

    name: Name
    version: Range
    sha256: Sha256 | None = None

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"base {self.name!r} is no bundle name")


class Port(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A port that an application listens on. Below 1024 it would need a right that it does not get."""

    number: Annotated[int, Meta(ge=1024, le=65535)]
    protocol: Literal["tcp", "udp"] = "tcp"
    purpose: Text | None = None


def is_root(user: str) -> bool:
    """Whether ``user`` or ``user:group``, by name or number, is root, or cannot be told before it runs (``%i``)."""
    name = user.partition(":")[0].strip().removeprefix("+")
    return name in {"", "root"} or "%" in name or (name.isdigit() and int(name) == 0)


class Application(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What runs beside the server: files with a systemd unit.

    ``unit`` is a path in the bundle, and so is ``root``: a tar of a whole root file system, of an OCI image. ``image``
    is an archive of one as it was built, which no device starts: of bundles from before there was ``root``. ``user`` is
    who it runs as, never root. ``ports`` are all it listens on; ``models`` are the bundles that it asks for answers.
    """

    user: Text
    image: str | None = None
    unit: str | None = None
    root: str | None = None
    ports: tuple[Port, ...] = ()
    models: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        if (self.image is None) == (self.unit is None):
            raise ValueError("application names an image or a unit, one of the two")
        if self.root is not None and self.unit is None:
            raise ValueError("application names a root without a unit that starts something in it")
        if is_root(self.user):
            raise ValueError("application.user is root; applications run unprivileged")
        numbers = [(port.protocol, port.number) for port in self.ports]
        if len(set(numbers)) < len(numbers):
            raise ValueError("application.ports names one port twice")


class Proof(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of the bundle that says something about it; ``date`` where what it says ages."""

    kind: Literal["provenance", "vulnerabilities", "validation", "benchmark"]
    path: str
    media_type: Text = "application/json"
    date: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}$(?!\n)")] | None = None


class Variant(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One build of a version: the files below ``folder``, beside those that lie in no variant's folder.

    What is empty or None is as the manifest says for all. A variant that stands alone may have an empty folder: then it
    has all files. ``registry.variants`` takes one out as a bundle of its own.
    """

    name: Name
    folder: Annotated[str, Meta(max_length=128)]
    format: Format
    requires: Requires
    description: str = ""
    quantization: Quantization | None = None
    calibration: Calibration | None = None
    hailo: Hailo | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    golden: tuple[GoldenText | GoldenTensors, ...] = ()
    slo: Slo | None = None
    expectations: tuple[Expectation, ...] = ()

    def __post_init__(self) -> None:
        if not is_name(self.name):
            raise ValueError(f"variant {self.name!r} is not lower-case words joined by '.', '_' or '-'")
        if self.folder:
            check_path(self.folder)
        if "/" in self.folder:
            raise ValueError(f"folder {self.folder!r} of variant {self.name!r} is not directly in the bundle")


def adapter_path(name: str) -> str:
    """Where a model's bundle has adapter ``name``; servers load every file of that folder (``backends.genai``)."""
    return f"adapters/{name}.onnx_adapter"


def is_shared(path: str, folders: set[str]) -> bool:
    """Whether a file lies in no variant's folder, so that all variants have it."""
    folder, separator, _ = path.partition("/")
    return "" in folders or not (separator and folder in folders)


def check_folders(variants: Sequence[Variant], paths: Sequence[str]) -> list[str]:
    """Return the paths that all variants share.

    Raises:
        ValueError: two variants have one name or one folder, one has no files, or its files and the shared ones would
            have one path once its folder's name is taken away.
    """
    folders = {variant.folder for variant in variants}
    if len(folders) < len(variants) or len({variant.name for variant in variants}) < len(variants):
        raise ValueError("two variants have the same name or the same folder")
    if "" in folders and len(variants) > 1:
        raise ValueError("a variant has no folder, which one that stands alone may do")
    shared = [path for path in paths if is_shared(path, folders)]
    for variant in variants:
        if not variant.folder:
            continue
        prefix = f"{variant.folder}/"
        own = [path.removeprefix(prefix) for path in paths if path.startswith(prefix)]
        if not own:
            raise ValueError(f"variant {variant.name!r} has no file in {variant.folder!r}")
        for path in own:
            check_path(path)
        check_paths(shared + own)
    return shared
