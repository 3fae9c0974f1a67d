"""Several builds of one version in one bundle, from one source and in one go.

Each variant has a folder of its own with the quantized model; what the source bundle holds beside its model
(tokenizer, configuration, license) is shared. The first variant is what a host gets that says nothing about itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import onnx

from hedgerow.errors import UsageError
from hedgerow.models import amend, quantize_files
from hedgerow.models.quantize_golden import ask_again
from hedgerow.models.quantize_onnx import Options, Result, quantize_model
from hedgerow.registry import bundle, manifest
from hedgerow.registry.manifest import Calibration, Manifest, Requires, Variant

BUILDER: Final = "hedgerow model quantize"
_MB: Final = 1_000_000


@dataclass(frozen=True)
class Wanted:
    """A variant to build. ``requires`` overrides fields of the source's; ``memory_mb`` is otherwise worked out."""

    name: str
    options: Options
    requires: dict[str, Any]


@dataclass(frozen=True)
class Built:
    """A bundle with its variants; ``results`` are in the order of the variants."""

    place: Path
    document: Manifest
    results: tuple[Result, ...]


def build(
    source: Path,
    output: Path,
    wanted: Sequence[Wanted],
    *,
    version: str | None = None,
    progress: Callable[[str], None] = lambda _step: None,
) -> Built:
    """Quantize the model of the bundle ``source`` once per variant into a new bundle ``output``.

    ``version`` of the new bundle, else the source's. The source's files are verified first.

    Raises:
        UsageError: no bundle, one without a single ONNX model, one with variants already, or two variants of one name.
        RefusedError, PublisherError: as ``quantize_model``.
    """
    origin = bundle.verify_files(source)
    model = _model_of(origin.directory, origin.manifest)
    names = [each.name for each in wanted]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice or not names:
        raise UsageError(
            f"two variants are called {twice[0]!r}" if twice else "no variant was named",
            next_step="--variant small=int4-weights --variant int8=dynamic-int8",
        )
    weights = {each.name for each in quantize_files.files_of(model)}
    shared = [each.path for each in origin.manifest.files if each.path not in weights | _proofs(origin.manifest)]
    with amend.new_folder(output) as folder:
        for path in shared:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / path, folder / path)
        results = []
        variants = []
        for each in wanted:
            progress(f"{each.name}: {each.options.scheme}")
            result, variant = _one(each, model, origin.manifest, folder, shared)
            results.append(result)
            variants.append(variant)
        document = _document(origin.manifest, folder, tuple(variants), results, version)
        data = amend.encode(document, where=str(source))
        (folder / manifest.FILE_NAME).write_bytes(data)
    return Built(output, bundle.load(output).manifest, tuple(results))


def _model_of(folder: Path, document: Manifest) -> Path:
    if document.variants:
        raise UsageError(
            f"{document.reference} has variants already: {', '.join(each.name for each in document.variants)}",
            where=str(folder),
            next_step="quantize the bundle that it was made from",
        )
    if any(getattr(each, "adapter", None) is not None for each in document.golden):
        raise UsageError(
            f"{document.reference} has adapters, which are for the weights as they are",
            where=str(folder),
            next_step="quantize the model without them, then: hedgerow model attach",
        )
    models = [file.path for file in document.files if file.path.endswith(".onnx") and "/" not in file.path]
    if document.format not in {"onnx", "onnx-genai"} or len(models) != 1:
        raise UsageError(
            f"{document.reference} is {document.format} with {len(models)} ONNX models; quantize takes exactly one",
            where=str(folder),
            next_step="hedgerow model import makes such a bundle from ONNX, GGUF and Hugging Face checkpoints",
        )
    return folder / models[0]


def _proofs(document: Manifest) -> set[str]:
    """Files that speak about the source's own bytes and would be wrong in a new bundle."""
    return {proof.path for proof in document.proofs} | ({document.sbom} - {None} if document.sbom else set())


def _one(wanted: Wanted, model: Path, origin: Manifest, folder: Path, shared: Sequence[str]) -> tuple[Result, Variant]:
    own = folder / wanted.name
    own.mkdir()
    result = quantize_model(model, own / model.name, wanted.options)
    calibration = None
    if wanted.options.calibration is not None and wanted.options.scheme == "static-qdq":
        feeds = wanted.options.calibration.fitted(
            quantize_files.input_shapes(onnx.load(model, load_external_data=False))
        )
        calibration = Calibration(wanted.options.calibration.sha256, len(feeds))
    return result, Variant(
        name=wanted.name,
        folder=wanted.name,
        format=origin.format,
        requires=_requires(wanted, origin, result),
        quantization=result.quantization,
        calibration=calibration,
        golden=_golden(own / model.name, shared, origin, result),
    )


def _requires(wanted: Wanted, origin: Manifest, result: Result) -> Requires:
    # What the weights gave up counts once, though a runtime may hold them twice: an upper bound stays one.
    saved = max(0, result.size_before - result.size_after) // _MB
    memory = max(1, origin.requires.memory_mb - saved)
    return msgspec.convert(msgspec.to_builtins(origin.requires) | {"memory_mb": memory} | wanted.requires, Requires)


def _golden(
    model: Path, shared: Sequence[str], origin: Manifest, result: Result
) -> tuple[manifest.GoldenText | manifest.GoldenTensors, ...]:
    """Answers of the variant as a host will have it: its own files and the shared ones in one folder."""
    own, whole = model.parent, model.parent.parent
    links = [path for path in shared if not (own / path).exists()]
    try:
        for path in links:
            (own / path).parent.mkdir(parents=True, exist_ok=True)
            (own / path).symlink_to((whole / path).absolute())
        quantized = result.scheme != "float32"
        return ask_again(model, origin.golden, quantized=quantized)
    finally:
        for path in links:
            (own / path).unlink(missing_ok=True)
        for parent in sorted({(own / path).parent for path in links} - {own}, reverse=True):
            parent.rmdir()


def _document(
    origin: Manifest, folder: Path, variants: tuple[Variant, ...], results: Sequence[Result], version: str | None
) -> Manifest:
    first = variants[0]
    tools = {name: version for result in results for name, version in result.tools.items()}
    source = manifest.Source(origin.name, origin.version, manifest.digest(manifest.encode(origin)))
    return msgspec.structs.replace(
        origin,
        schema=manifest.NEWEST,
        version=version or origin.version,
        files=bundle.describe_files(folder),
        format=first.format,
        requires=first.requires,
        quantization=None,
        calibration=None,
        golden=first.golden,
        # Measured of another build, so neither promised nor expected of these.
        slo=None,
        expectations=(),
        sbom=None,
        proofs=(),
        variants=variants,
        provenance=msgspec.structs.replace(
            origin.provenance,
            builder=BUILDER,
            sources=(*origin.provenance.sources, source),
            tools=origin.provenance.tools | tools,
        ),
    )
