"""An adapter bundle: LoRA weights for onnxruntime-genai, and the range of bases that they fit.

The file is onnxruntime's own (``.onnx_adapter``, made by ``onnxruntime.AdapterFormat`` or Olive): named tensors, each
of which is an input of the base's graph. So an adapter is checked against a base without running either.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import place
from hedgerow.models.describing import Description, Golden, make
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Base, Manifest, Requires
from hedgerow.release.versions import within

ADAPTER_FILE: Final = "adapter.onnx_adapter"
BUILDER: Final = "hedgerow model pack-adapter"


@dataclass(frozen=True)
class AdapterRequest:
    """``base`` names the bundle and the range of its versions; ``base_folder`` is one such bundle, to check against."""

    file: Path
    base: Base
    base_folder: Path
    said: Description


def pack(request: AdapterRequest, *, cache: Path | None = None) -> Path:
    """Build the bundle of an adapter; return its folder.

    Raises:
        UsageError: no adapter, no golden questions, or the folder is no bundle of the base.
        PublisherError: the base's graph has no place for one of the adapter's tensors.
    """
    parameters = read(request.file)
    if request.said.golden is None:
        raise UsageError(
            "nobody says what the model answers with this adapter",
            where=str(request.file),
            next_step="ask it, and give what it answered: --golden FILE (docs/building-models.md)",
        )
    base = _check_base(request, parameters)
    tools = place.versions_of("onnxruntime")

    def fill(folder: Path) -> Manifest:
        shutil.copyfile(request.file, folder / ADAPTER_FILE)
        size_mb = request.file.stat().st_size // 1_000_000 + 1
        needs = Requires(memory_mb=base.manifest.requires.memory_mb + 2 * size_mb)
        golden: tuple[Golden, ...] = ()
        return make(
            request.said,
            folder,
            files=[request.file],
            tools=tools,
            kind="adapter",
            format="onnx-adapter",
            requires=needs,
            base=request.base,
            golden=golden,
        )

    return place.build(
        fill,
        name=request.said.name,
        version=request.said.version,
        inputs=request.said.inputs(request.file),
        facts=request.said.facts("adapter", request.base, base.sha256),
        tools=tools,
        cache=cache,
    )


def read(path: Path) -> dict[str, tuple[int, ...]]:
    """The adapter's tensors: name → shape.

    Raises:
        UsageError: no such file, or none of onnxruntime's adapters.
    """
    import onnxruntime

    if not path.is_file():
        raise UsageError("no adapter here", where=str(path), next_step="give the path of a .onnx_adapter file")
    try:
        found: Any = onnxruntime.AdapterFormat.read_adapter(str(path)).get_parameters()
    except Exception as error:  # the library's errors have no common base but this
        raise UsageError(
            f"onnxruntime cannot read it as an adapter: {error}",
            where=str(path),
            next_step="convert it first: onnxruntime.AdapterFormat().export_adapter(FILE)",
        ) from error
    if not found:
        raise UsageError("the adapter holds no tensor", where=str(path), next_step="convert it again")
    return {str(name): tuple(value.shape()) for name, value in found.items()}


def unfit(wanted: Base, base: bundle.Bundle) -> str | None:
    """Why ``base`` is not what an adapter names; None where it is."""
    found = base.manifest
    if found.name != wanted.name or not within(found.version, wanted.version):
        return f"this is {found.reference}, and the adapter is for {wanted.name} {wanted.version}"
    if wanted.sha256 not in {None, base.sha256}:
        return f"the identity of {found.reference} is {base.sha256}, and the adapter is for {wanted.sha256}"
    return None


def check_places(parameters: dict[str, tuple[int, ...]], base: bundle.Bundle) -> None:
    """Look whether each graph of ``base`` has an input for every tensor of the adapter.

    Raises:
        PublisherError: it has none, or one of another shape.
    """
    for file in base.manifest.files:
        if file.path.endswith(".onnx"):
            _check_graph(parameters, base.directory / file.path)


def _check_graph(parameters: dict[str, tuple[int, ...]], path: Path) -> None:
    inputs: dict[str, list[int]] = {}
    for value in onnx.load(path, load_external_data=False).graph.input:
        inputs[value.name] = [dim.dim_value or -1 for dim in value.type.tensor_type.shape.dim]
    for name, shape in parameters.items():
        have = inputs.get(name)
        if have is None:
            raise PublisherError(
                f"the base's graph has no input {name!r} for the adapter",
                where=str(path),
                next_step="build the base with this adapter's places as inputs, or choose its own base",
            )
        if len(have) != len(shape) or any(want not in {-1, size} for want, size in zip(have, shape, strict=True)):
            raise PublisherError(
                f"{name!r} has the shape {list(shape)} in the adapter and {have} in the base",
                where=str(path),
                next_step="choose the base that the adapter was trained on",
            )


def _check_base(request: AdapterRequest, parameters: dict[str, tuple[int, ...]]) -> bundle.Bundle:
    base = bundle.load(request.base_folder)
    wrong = unfit(request.base, base)
    if wrong is not None:
        raise UsageError(
            wrong,
            where=str(request.base_folder),
            next_step="name a folder of a version in that range, or mend --base-version or --base-sha256",
        )
    check_places(parameters, base)
    return base
