"""What is in a bundle and what it was made with, as components: the ground of SBOM and vulnerability check."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import PublisherError, RefusedError
from hedgerow.models.proof import installed
from hedgerow.models.proof.component import MAX_METADATA, Component, normalized, of_metadata
from hedgerow.registry.manifest import Manifest, Proof

# Tools in a manifest's provenance that are packages of PyPI by that name.
_PYTHON_TOOLS: Final = frozenset({
    "ai-edge-litert", "gguf", "hedgerow", "ml-dtypes", "numpy", "onnx", "onnxruntime", "onnxruntime-genai", "onnxslim",
    "protobuf", "safetensors", "tokenizers", "torch", "transformers",
})  # fmt: skip
# Loading one of these runs what it says (docs.python.org/3/library/pickle.html, the warning at the top).
_PROGRAMS: Final = (".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
_ARCHIVE: Final = ".tar"
# Archives that are not looked into.
_OPAQUE: Final = (".tar.gz", ".tgz", ".tar.zst", ".oci", ".zip")
_WHEEL_METADATA: Final = re.compile(r"[^/]+\.dist-info/METADATA")


@dataclass(frozen=True)
class Contents:
    """``unknowns``: sentences about what else is in it, and was not looked into."""

    components: tuple[Component, ...]
    unknowns: tuple[str, ...]

    def packages(self) -> tuple[Component, ...]:
        """Those with a package index behind them and a version."""
        return tuple(each for each in self.components if each.package is not None and each.version is not None)


def of_bundle(folder: Path, document: Manifest) -> Contents:
    """List a bundle's components; its own proofs are none.

    Raises:
        RefusedError: a model or adapter with a file that is a program (a pickle).
        PublisherError: a wheel that says nothing about itself, or an archive whose list of packages is damaged.
    """
    proofs = own_proofs(document)
    found: list[Component] = []
    unknowns: list[str] = []
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
        inside = installed.packages(folder / file.path, file.path) if name.endswith(_ARCHIVE) else None
        if inside is not None:
            found += inside
            unknowns.append(f"{file.path}: what no package of Debian, Alpine or Python brought was not looked into")
        elif name.endswith((_ARCHIVE, *_OPAQUE)) or (
            document.application is not None and file.path == document.application.image
        ):
            unknowns.append(f"{file.path} was not looked into")
    found += [_source(each.name, each.version, each.sha256) for each in document.provenance.sources]
    found += [_tool(name, version) for name, version in sorted(document.provenance.tools.items())]
    if document.base is not None:
        found.append(Component(document.base.name, "base", document.base.version, document.base.sha256))
    unique = {(each.name, each.version, each.role, each.sha256, each.within, each.url): each for each in found}
    return Contents(tuple(unique.values()), tuple(unknowns))


def own_proofs(document: Manifest) -> frozenset[str]:
    """Paths of the files that speak about the bundle: they cannot speak about themselves."""
    return frozenset({proof.path for proof in document.proofs} | ({document.sbom} if document.sbom else set()))


def proof_of(document: Manifest, kind: str) -> Proof | None:
    return next((proof for proof in document.proofs if proof.kind == kind), None)


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
    return of_metadata(text, where=str(path), sha256=sha256)
