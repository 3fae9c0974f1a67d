"""Import a PyTorch program (``torch.export.save``): to ONNX in a process of its own, then as any ONNX model.

PyTorch's own answers are the reference: the ONNX form is held to them before anything else is done with it, they are
the bundle's golden answers, and how near the two came stands in the bundle (``conversion.json``).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import helper

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import onnx_import, onnx_probe, place, quantize_files, torch_archive, torch_run
from hedgerow.models.describing import Description, make
from hedgerow.models.onnx_import import Shapes
from hedgerow.models.onnx_probe import Arrays, Session
from hedgerow.models.torch_archive import Archive
from hedgerow.registry.manifest import Manifest, Requires

CONVERSION: Final = "conversion.json"
_OURS: Final = ("onnxruntime", "onnxslim")
# What an output may be off by, as a part of its range, and the least cosine. Kernels add up in another order: small
# networks came to 1e-7 of it, and a wrong operator is off by tenths. Half floats have three digits.
LIMITS: Final[Mapping[str, tuple[float, float]]] = {"float16": (1e-2, 0.9999), "other": (1e-3, 0.99999)}


@dataclass(frozen=True)
class PyTorchRequest:
    """What to import. ``shapes``, ``inputs`` and ``simplify`` as an ``OnnxRequest`` has them.

    ``tools`` are the converter's versions, which the worker has to confirm; ``command`` runs it (default: here).
    """

    file: Path
    said: Description
    tools: Mapping[str, str]
    shapes: Shapes = field(default_factory=dict)
    inputs: Path | None = None
    simplify: bool = True
    command: torch_run.Command | None = None
    time_limit_s: float = torch_run.TIME_LIMIT_S


@dataclass(frozen=True)
class Drift:
    """How far one output of the ONNX form is from PyTorch's: the largest difference, of which range, and the cosine."""

    name: str
    max_abs_error: float
    range: float
    cosine: float


def import_pytorch(
    request: PyTorchRequest, *, cache: Path | None = None, progress: place.Progress = place.silent
) -> Path:
    """Build the bundle of ``request``, or find it in the cache; return its folder.

    Raises:
        UsageError: no archive of ``torch.export``, one that PyTorch cannot convert, or a shape is missing or wrong.
        RefusedError: loading the file could run what it says; the message names the rule.
        PublisherError: the ONNX form does not answer as PyTorch does, or the conversion did not come to its end.
    """
    archive = torch_archive.read(request.file)
    tools = dict(request.tools) | place.versions_of(*_OURS)
    others = [request.inputs] if request.inputs is not None else []

    def fill(folder: Path) -> Manifest:
        return _fill(request, archive, folder, tools, progress)

    return place.build(
        fill,
        name=request.said.name,
        version=request.said.version,
        inputs=request.said.inputs(request.file, *others),
        facts=request.said.facts("pytorch", sorted(request.shapes.items()), request.simplify),
        tools=tools,
        cache=cache,
    )


def _fill(
    request: PyTorchRequest, archive: Archive, folder: Path, tools: dict[str, str], progress: place.Progress
) -> Manifest:
    feeds = ask_with(archive, request.shapes, request.inputs)
    progress("convert", 0, 1)
    limit = request.time_limit_s
    with torch_run.convert(archive, feeds, command=request.command, time_limit_s=limit) as answer:
        _check_tools(answer.tools, request)
        model = quantize_files.load(answer.model)
        _forget_origin(model)
    before = onnx_import.open_model(model, request.shapes, request.file)
    converted = before.run(feeds)
    figures = [drift(name, want, converted.get(name)) for name, want in answer.outputs.items()]
    check(figures, answer.outputs, request.file)
    progress("convert", 1, 1)
    progress("simplify", 0, 1)
    after = onnx_import.settle(model, folder, feeds, converted, request.file, simplify=request.simplify)
    progress("simplify", 1, 1)
    _write_conversion(folder / CONVERSION, archive, answer, figures)
    golden = () if request.said.golden is not None else (onnx_import.golden(feeds, answer.outputs, request.file),)
    return make(
        request.said,
        folder,
        files=[request.file],
        tools=tools,
        format="onnx",
        requires=Requires(memory_mb=onnx_import.memory_mb(folder)),
        inputs=after.inputs,
        outputs=after.outputs,
        golden=golden,
    )


def ask_with(archive: Archive, shapes: Shapes, inputs: Path | None) -> Arrays:
    """What the program is asked with: the arrays of ``inputs``, or made up, in the shapes asked for.

    Raises:
        UsageError: a shape is missing, does not fit, or lies outside what the program was exported for.
    """
    # A model that hands its inputs on has the program's inputs, and every rule of ONNX imports holds for it.
    names = [each.name for each in archive.inputs]
    given = [helper.make_tensor_value_info(each.name, each.dtype, each.shape) for each in archive.inputs]
    taken = [helper.make_tensor_value_info(f"{each.name}.out", each.dtype, each.shape) for each in archive.inputs]
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in names]
    graph = helper.make_graph(nodes, "inputs", given, taken)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx_import.set_shapes(model, shapes, archive.path)
    session = Session.of(model, archive.path)
    feeds = onnx_probe.read(inputs, session) if inputs is not None else onnx_probe.make_up(session)
    for each in archive.inputs:
        _check_range(archive, each.name, each.shape, feeds[each.name].shape)
    return feeds


def _check_range(archive: Archive, name: str, shape: tuple[int | str, ...], have: tuple[int, ...]) -> None:
    for symbol, size in zip(shape, have, strict=True):
        least, most = archive.ranges.get(symbol, (None, None)) if isinstance(symbol, str) else (None, None)
        if (least is not None and size < least) or (most is not None and size > most):
            raise UsageError(
                f"input {name!r} has a dimension of {size}; the program was exported for {least or 0} to "
                f"{'any size' if most is None else most}",
                where=str(archive.path),
                next_step=f"choose another: --shape {name}=…, or export it again with other dynamic_shapes",
            )


def _check_tools(have: Mapping[str, str], request: PyTorchRequest) -> None:
    """Raise unless the worker's tools are those that the bundle's name and provenance were made of."""
    other = {name: version for name, version in have.items() if request.tools.get(name) != version}
    if other:
        name, version = min(other.items())
        raise PublisherError(
            f"the conversion was made with {name} {version}, and {request.tools.get(name)} was asked for",
            where=str(request.file),
            next_step="install requirements/torch.txt again; for a container, leave --in-container to build it anew",
        )


def _forget_origin(model: onnx.ModelProto) -> None:
    """Drop remarks about how the exporter came to each node: no part of the model, and not the same every time."""
    del model.metadata_props[:]
    for each in (*model.graph.node, *model.graph.value_info, *model.graph.initializer):
        each.doc_string = ""
        del each.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    del model.graph.metadata_props[:]


def drift(name: str, want: np.ndarray[Any, Any], have: np.ndarray[Any, Any] | None) -> Drift:
    """Compare one output with PyTorch's, in float64. What is gone, shaped otherwise or no number is infinitely far."""
    largest = float(np.abs(want.astype(np.float64)).max(initial=0))
    if have is None or have.shape != want.shape or have.dtype != want.dtype:
        return Drift(name, math.inf, largest, 0.0)
    one, two = want.astype(np.float64).ravel(), have.astype(np.float64).ravel()
    error = float(np.abs(one - two).max(initial=0))
    if not math.isfinite(error):
        return Drift(name, math.inf, largest, 0.0)
    length = float(np.linalg.norm(one) * np.linalg.norm(two))
    # Two outputs of zeros point nowhere, and are the same.
    cosine = float(one @ two) / length if length else float(error == 0)
    return Drift(name, error, largest, min(cosine, 1.0))


def check(figures: list[Drift], outputs: Arrays, path: Path) -> None:
    """Hold every output to ``LIMITS``; whole numbers have to be the same.

    Raises:
        PublisherError: one is not PyTorch's; the message has both figures and what was allowed.
    """
    for each in figures:
        kind = outputs[each.name].dtype
        part, least = LIMITS.get(str(kind), LIMITS["other"]) if kind.kind == "f" else (0.0, 0.0)
        bound = part * each.range
        if each.max_abs_error > bound or each.cosine < least:
            raise PublisherError(
                f"the ONNX form does not answer as PyTorch does: output {each.name!r} is off by "
                f"{each.max_abs_error:.3g} (allowed {bound:.3g}), cosine {each.cosine:.6f} (allowed {least})",
                where=str(path),
                next_step="give real inputs (--inputs FILE.npz), where made-up ones hide everything, as a mask may; "
                "if it stays, an operator is converted wrong: export the model without it",
            )


def _write_conversion(file: Path, archive: Archive, answer: torch_run.Answer, figures: list[Drift]) -> None:
    document = {
        "from": "torch.export",
        "written_by": f"torch {archive.torch}",
        "opset": answer.opset,
        "outputs": [
            {
                "name": each.name,
                "max_abs_error": float(f"{each.max_abs_error:.2g}"),
                "range": float(f"{each.range:.3g}"),
                "cosine": float(f"{each.cosine:.9f}"),
            }
            for each in figures
        ],
    }
    file.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n", encoding="utf-8")
