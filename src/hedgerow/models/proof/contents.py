"""What is in a bundle and what it was made with, as components: the ground of SBOM and vulnerability check."""

from __future__ import annotations

import email
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from hedgerow.errors import PublisherError, RefusedError
from hedgerow.registry.manifest import Manifest, Proof

Role = Literal["inside", "source", "tool", "base"]

# Tools in a manifest's provenance that are packages of PyPI by that name.
_PYTHON_TOOLS: Final = frozenset({
    "ai-edge-litert", "gguf", "hedgerow", "ml-dtypes", "numpy", "onnx", "onnxruntime", "onnxruntime-genai", "onnxslim",
    "protobuf", "safetensors", "tokenizers", "torch", "transformers",
})  # fmt: skip
# Loading one of these runs what it says (docs.python.org/3/library/pickle.html, the warning at the top).
_PROGRAMS: Final = (".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
# Archives that are not looked into.
_OPAQUE: Final = (".tar", ".tar.gz", ".tgz", ".tar.zst", ".oci", ".zip")
_WHEEL_METADATA: Final = re.compile(r"[^/]+\.dist-info/METADATA")
MAX_METADATA: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Component:
    """``package`` is the normalized name on PyPI, where it is a package of that index."""

    name: str
    role: Role
    version: str | None = None
    sha256: str | None = None
    license: str | None = None
    package: str | None = None

    @property
    def purl(self) -> str:
        """Package URL (github.com/package-url/purl-spec)."""
        from packageurl import PackageURL

        kind = "pypi" if self.package is not None else "generic"
        qualifiers = {"checksum": f"sha256:{self.sha256}"} if kind == "generic" and self.sha256 else None
        return PackageURL(kind, name=self.package or self.name, version=self.version, qualifiers=qualifiers).to_string()


@dataclass(frozen=True)
class Contents:
    """``opaque``: files that hold more than their name says and were not looked into."""

    components: tuple[Component, ...]
    opaque: tuple[str, ...]

    def packages(self) -> tuple[Component, ...]:
        """Those with a package index behind them and a version."""
        return tuple(each for each in self.components if each.package is not None and each.version is not None)


def of_bundle(folder: Path, document: Manifest) -> Contents:
    """List a bundle's components; its own proofs are none.

    Raises:
        RefusedError: a model or adapter with a file that is a program (a pickle).
        PublisherError: a wheel that says nothing about itself.
    """
    proofs = own_proofs(document)
    found: list[Component] = []
    opaque: list[str] = []
    for file in document.files:
        if file.path in proofs:
            continue
        name = file.path.lower()
        if document.kind in {"model", "adapter"} and name.endswith(_PROGRAMS):
            raise RefusedError(
                f"rule no-pickles: {file.path} runs code when it is loaded",
                where=str(folder / file.path),
                next_step="convert it: hedgerow model import takes safetensors, GGUF, ONNX and TFLite",
            )
        if name.endswith(".whl"):
            found.append(_wheel(folder / file.path, file.sha256))
        else:
            found.append(Component(file.path, "inside", sha256=file.sha256))
        if name.endswith(_OPAQUE) or (document.application is not None and file.path == document.application.image):
            opaque.append(file.path)
    found += [_source(each.name, each.version, each.sha256) for each in document.provenance.sources]
    found += [_tool(name, version) for name, version in sorted(document.provenance.tools.items())]
    if document.base is not None:
        found.append(Component(document.base.name, "base", document.base.version, document.base.sha256))
    unique = {(each.name, each.version, each.role, each.sha256): each for each in found}
    return Contents(tuple(unique.values()), tuple(opaque))


def own_proofs(document: Manifest) -> frozenset[str]:
    """Paths of the files that speak about the bundle: they cannot speak about themselves."""
    return frozenset({proof.path for proof in document.proofs} | ({document.sbom} if document.sbom else set()))


def proof_of(document: Manifest, kind: str) -> Proof | None:
    return next((proof for proof in document.proofs if proof.kind == kind), None)


def normalized(name: str) -> str:
    """A package's name as indexes compare it (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _tool(name: str, version: str) -> Component:
    package = normalized(name)
    return Component(name, "tool", version, package=package if package in _PYTHON_TOOLS else None)


def _source(name: str, version: str | None, sha256: str | None) -> Component:
    return Component(name, "source", version, sha256)


def _wheel(path: Path, sha256: str) -> Component:
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(each for each in archive.namelist() if _WHEEL_METADATA.fullmatch(each))
            with archive.open(member) as file:
                text = file.read(MAX_METADATA).decode("utf-8", "replace")
    except (OSError, zipfile.BadZipFile, StopIteration) as error:
        raise PublisherError(
            "this wheel says nothing about itself (no METADATA)",
            where=str(path),
            next_step="build the wheelhouse again: hedgerow runtime build",
        ) from error
    head = email.message_from_string(text)
    name, version = head.get("Name"), head.get("Version")
    if not name or not version:
        raise PublisherError("this wheel has no name or version", where=str(path), next_step="build it again")
    stated = head.get("License-Expression") or head.get("License")
    license_ = " ".join(stated.split())[:200] if stated and stated.strip() not in {"", "UNKNOWN"} else None
    return Component(str(name), "inside", str(version), sha256, license_, normalized(str(name)))
