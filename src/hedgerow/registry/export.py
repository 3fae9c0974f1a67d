"""A bundle as a model of Triton Inference Server's repository: ``<repository>/<name>/<number>/`` and ``config.pbtxt``.

Layout and fields: Triton's user guide, "Model Repository" and "Model Configuration" (``model_config.proto``). Names of
tensors, types and shapes come from the manifest; nothing is converted. ONNX alone: what else bundles hold (genai, HEF,
GGUF, TFLite) no backend of Triton's own serves.

A bundle's version is semantic and Triton's is a number, so the caller says which number; the manifest goes along and
says the rest. One configuration speaks for every version of a model, so all must have the same tensors. All files keep
their names, because ONNX names the file of its weights; the model's own is told by ``default_model_filename``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path
from types import MappingProxyType
from typing import Final

from hedgerow import atomic
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import FILE_NAME, Manifest, Tensor
from hedgerow.registry.variants import names as variant_names
from hedgerow.registry.variants import take, where_from

CONFIG: Final = "config.pbtxt"
# Open Inference Protocol v2's types and Triton's (model_config.proto, enum DataType) differ in two names.
TYPES: Final = MappingProxyType(
    {
        name: f"TYPE_{'STRING' if name == 'BYTES' else name}"
        for name in (
            "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
            "BF16", "BYTES",
        )
    }
)  # fmt: skip


def triton(
    bundle: Bundle, repository: Path, *, number: int = 1, variant: str | None = None, max_batch: int = 0
) -> Path:
    """Write the verified ``bundle`` below ``repository`` as version ``number``; the version's folder.

    ``variant``: which build of a bundle that has several (default: its first one in ONNX). ``max_batch`` 0: shapes are
    given whole; more: Triton may batch up to it, and every tensor must have a free first dimension.

    Raises:
        UsageError: the number is taken, the variant unknown, or the shapes cannot be batched.
        RefusedError: the bundle is not in ONNX, or its manifest does not say its tensors.
    """
    if number < 1:
        raise UsageError(f"Triton numbers versions from 1 on, not {number}", next_step="give --number 1")
    chosen = _chosen(bundle, variant)
    manifest = take(bundle.manifest, chosen)
    model = _model_file(manifest, bundle)
    text = config(manifest, model, max_batch=max_batch)
    home = repository / manifest.name
    final = home / str(number)
    if final.exists():
        raise UsageError(
            f"there is a version {number} of {manifest.name} already",
            where=str(final),
            next_step=f"give --number {_next_number(home)}, or remove the folder",
        )
    if (home / CONFIG).exists() and (home / CONFIG).read_text(encoding="utf-8") != text:
        raise UsageError(
            f"the {manifest.name} there has another configuration",
            where=str(home / CONFIG),
            next_step="export to another repository; one configuration speaks for every version of a model",
        )
    paths = (
        where_from(bundle.manifest, chosen) if bundle.manifest.variants else {each: each for each in _paths(manifest)}
    )
    home.mkdir(parents=True, exist_ok=True)
    # Hidden and beside its place: Triton ignores it, and one rename makes the version appear.
    staging = Path(tempfile.mkdtemp(dir=home, prefix=".new-"))
    try:
        for path, whole in {**paths, FILE_NAME: FILE_NAME}.items():
            target = staging / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(bundle.directory / whole, target)
        staging.chmod(0o755)
        # Before the version: Triton reads a version only where there is a configuration.
        atomic.write_text(home / CONFIG, text)
        staging.rename(final)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    return final


def config(manifest: Manifest, model: str, *, max_batch: int) -> str:
    """``config.pbtxt`` of ``manifest``, whose model is the file ``model``; protobuf's text form of ``ModelConfig``.

    Raises:
        UsageError: ``max_batch`` and the shapes do not fit.
    """
    lines = [
        f"name: {_text(manifest.name)}",
        'backend: "onnxruntime"',
        f"default_model_filename: {_text(model)}",
        f"max_batch_size: {max_batch}",
    ]
    for field, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            dims = ", ".join(map(str, _dims(tensor, max_batch, manifest)))
            lines += [
                f"{field} {{",
                f"  name: {_text(tensor.name)}",
                f"  data_type: {TYPES[tensor.dtype]}",
                f"  dims: [ {dims} ]",
                "}",
            ]
    return "\n".join(lines) + "\n"


def _chosen(bundle: Bundle, variant: str | None) -> str:
    """The variant's name; of a bundle without variants its only one.

    Raises:
        RefusedError: nothing of it is in ONNX.
    """
    manifest = bundle.manifest
    known = variant_names(manifest)
    wanted = known if variant is None else (variant,)
    formats = {name: take(manifest, name).format for name in wanted}
    for name, form in formats.items():
        if form == "onnx":
            return name
    raise RefusedError(
        f"Triton serves onnx, and {manifest.reference} is {', '.join(sorted(set(formats.values())))}",
        where=str(bundle.directory),
        next_step="import the model as onnx: hedgerow model import --help; or serve the bundle with: hedgerow serve",
    )


def _model_file(manifest: Manifest, bundle: Bundle) -> str:
    models = [file.path for file in manifest.files if file.path.endswith(".onnx")]
    if len(models) != 1:
        raise RefusedError(
            f"{manifest.reference} has {len(models)} files *.onnx; Triton wants one", where=str(bundle.directory)
        )
    if not manifest.inputs or not manifest.outputs:
        raise RefusedError(
            f"the manifest of {manifest.reference} does not say its tensors",
            where=str(bundle.directory),
            next_step="build it again with inputs and outputs: hedgerow model import --help",
        )
    return models[0]


def _dims(tensor: Tensor, max_batch: int, manifest: Manifest) -> tuple[int, ...]:
    if max_batch == 0:
        return tensor.shape
    if not tensor.shape or tensor.shape[0] != -1:
        raise UsageError(
            f"{tensor.name} of {manifest.reference} has no free first dimension ({list(tensor.shape)})",
            next_step="leave --max-batch out: requests then have whole shapes",
        )
    return tensor.shape[1:]


def _paths(manifest: Manifest) -> Iterable[str]:
    return (file.path for file in manifest.files)


def _next_number(home: Path) -> int:
    return 1 + max(int(path.name) for path in home.iterdir() if path.name.isdigit())


def _text(value: str) -> str:
    # Protobuf's text form knows JSON's escapes of ASCII; manifests hold no lone surrogates.
    return json.dumps(value, ensure_ascii=False)
