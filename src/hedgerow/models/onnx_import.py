"""Import any ONNX model: shapes made static, simplified, and held to the answers it gave before.

Simplifying is onnxslim's. It is trusted as far as it can be checked: the model as it came and the model as it goes get
the same inputs, and an output that differs by more than rounding stops the import.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from hedgerow.errors import HedgerowError, PublisherError, UsageError
from hedgerow.models import onnx_probe, place, quantize_files
from hedgerow.models.describing import Description, make
from hedgerow.models.onnx_probe import Arrays, Session
from hedgerow.registry.manifest import GoldenTensor, GoldenTensors, Manifest, Requires

MODEL_FILE: Final = "model.onnx"
DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
# Older ones onnxruntime does not promise to run (its documentation, "ONNX opset support").
OLDEST_OPSET: Final = 7
FREE: Final = -1
_TOOLS: Final = ("numpy", "onnx", "onnxruntime", "onnxslim")
_RUNTIME_MB: Final = 150
"""What onnxruntime took beside weights and activations, measured with small models: 80 MB, and room to spare."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class OnnxRequest:
    """What to import. ``shapes`` of inputs by name, -1 for a dimension that stays free (a batch).

    ``inputs`` is an ``.npz`` with an array an input: what the model is compared on and asked as its golden question;
    without it, they are made up. ``simplify`` False leaves the graph as it is.
    """

    file: Path
    said: Description
    shapes: Shapes = field(default_factory=dict)
    inputs: Path | None = None
    simplify: bool = True


def import_onnx(request: OnnxRequest, *, cache: Path | None = None, progress: place.Progress = place.silent) -> Path:
    """Build the bundle of ``request``, or find it in the cache; return its folder.

    Raises:
        UsageError: no ONNX model, one that this machine's onnxruntime cannot run, or a shape that is missing or wrong.
        PublisherError: simplified it answers otherwise.
    """
    said, tools = request.said, place.versions_of(*_TOOLS)
    try:
        files = quantize_files.files_of(request.file)
    except HedgerowError:
        raise
    except Exception:  # noqa: BLE001 -- loading it says what is wrong, in words
        files = [request.file]
    others = [request.inputs] if request.inputs is not None else []

    def fill(folder: Path) -> Manifest:
        return _fill(request, folder, files, tools, progress)

    return place.build(
        fill,
        name=said.name,
        version=said.version,
        inputs=said.inputs(*files, *others),
        facts=said.facts(sorted(request.shapes.items()), request.simplify),
        tools=tools,
        cache=cache,
    )


def _fill(
    request: OnnxRequest, folder: Path, files: list[Path], tools: dict[str, str], progress: place.Progress
) -> Manifest:
    model = quantize_files.load(request.file)
    before = open_model(model, request.shapes, request.file)
    feeds = onnx_probe.read(request.inputs, before) if request.inputs else onnx_probe.make_up(before)
    expected = before.run(feeds)
    progress("simplify", 0, 1)
    after = settle(model, folder, feeds, expected, request.file, simplify=request.simplify)
    progress("simplify", 1, 1)
    return make(
        request.said,
        folder,
        files=files,
        tools=tools,
        format="onnx",
        requires=Requires(memory_mb=memory_mb(folder)),
        inputs=after.inputs,
        outputs=after.outputs,
        golden=() if request.said.golden is not None else (golden(feeds, expected, request.file),),
    )


def open_model(model: onnx.ModelProto, shapes: Shapes, path: Path) -> Session:
    """Give ``model``, which came from ``path``, its ``shapes``, and load it.

    Raises:
        UsageError: as ``set_shapes``; or onnxruntime has not all of its operators.
    """
    _check_operators(model, path)
    set_shapes(model, shapes, path)
    return Session.of(model, path)


def settle(
    model: onnx.ModelProto, folder: Path, feeds: Arrays, expected: Arrays, path: Path, *, simplify: bool
) -> Session:
    """Write ``model`` into ``folder``, simplified where that is asked for, held to what it answered before.

    Raises:
        PublisherError: as ``compare``.
    """
    if simplify:
        model = _simplified(model, path)
    quantize_files.save(model, folder / MODEL_FILE)
    after = Session.of_file(folder / MODEL_FILE)
    compare(expected, after.run(feeds), path)
    return after


def _check_operators(model: onnx.ModelProto, path: Path) -> None:
    opsets = {each.domain: each.version for each in model.opset_import}
    foreign = sorted(set(opsets) - set(DOMAINS))
    used = {node.domain for node in model.graph.node}
    if foreign and used & set(foreign):
        raise UsageError(
            f"the model uses operators of {', '.join(foreign)}, which onnxruntime does not have",
            where=str(path),
            next_step="export it with standard operators alone",
        )
    opset = opsets.get("", opsets.get("ai.onnx", OLDEST_OPSET))
    if opset < OLDEST_OPSET:
        raise UsageError(
            f"the model has opset {opset}; onnxruntime runs {OLDEST_OPSET} and later",
            where=str(path),
            next_step="export it again with a newer opset",
        )


def set_shapes(model: onnx.ModelProto, shapes: Shapes, path: Path) -> None:
    """Write ``shapes`` into the model's inputs, and forget what was inferred from the old ones.

    Raises:
        UsageError: no such input, another number of dimensions, a fixed dimension that differs, or a free one that
            nobody gave a size.
    """
    weights = {each.name for each in model.graph.initializer}
    inputs = {each.name: each for each in model.graph.input if each.name not in weights}
    unknown = sorted(set(shapes) - set(inputs))
    if unknown:
        raise UsageError(
            f"the model has no input {unknown[0]!r}; it has {', '.join(inputs)}",
            where=str(path),
            next_step="name one of them: --shape NAME=1,3,224,224",
        )
    for name, value in inputs.items():
        dims = value.type.tensor_type.shape.dim
        wanted = shapes.get(name)
        if wanted is None:
            if any(not dim.HasField("dim_value") for dim in dims):
                listed = ",".join(
                    str(dim.dim_value) if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims
                )
                raise UsageError(
                    f"input {name!r} has free dimensions: {listed}",
                    where=str(path),
                    next_step=f"give it a shape: --shape {name}=… (-1 leaves a dimension free, as for a batch)",
                )
            continue
        _set_shape(name, dims, wanted, path)
    del model.graph.value_info[:]


def _set_shape(name: str, dims: list[onnx.TensorShapeProto.Dimension], wanted: tuple[int, ...], path: Path) -> None:
    have = [dim.dim_value if dim.HasField("dim_value") else FREE for dim in dims]
    fits = len(have) == len(wanted) and all(old in {FREE, new} for old, new in zip(have, wanted, strict=True))
    if not fits:
        raise UsageError(
            f"input {name!r} has the shape {have}, and {list(wanted)} does not fit into it",
            where=str(path),
            next_step="give as many dimensions; only those that are -1 here can be chosen",
        )
    for dim, size in zip(dims, wanted, strict=True):
        if size != FREE:
            dim.dim_value = size  # clears a name that stood there


def _simplified(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    import onnxslim

    try:
        found = onnxslim.slim(model)
    except Exception as error:  # the library raises its base class
        raise PublisherError(
            f"onnxslim could not simplify the model: {error}", where=str(path), next_step="import it with --as-it-is"
        ) from error
    if found is None:
        raise PublisherError("onnxslim gave no model", where=str(path), next_step="import it with --as-it-is")
    return found


def compare(expected: Arrays, got: Arrays, path: Path) -> None:
    """Hold the simplified model to the outputs it gave before.

    Simplifying folds constants and fuses operators, which moves float32's last bits: 1e-4 of the output's range is
    allowed, and nothing in whole numbers.

    Raises:
        PublisherError: an output is gone, has another shape, or other values.
    """
    for name, want in expected.items():
        have = got.get(name)
        if have is None or have.shape != want.shape:
            state = "is gone" if have is None else f"has the shape {have.shape}, not {want.shape}"
            raise PublisherError(
                f"simplified, output {name!r} {state}", where=str(path), next_step="import it with --as-it-is"
            )
        if want.dtype.kind == "f":
            bound = 1e-4 * max(float(np.abs(want).max(initial=0)), 1e-6)
            off = float(np.abs(have.astype(np.float64) - want.astype(np.float64)).max(initial=0))
            same = off <= bound  # False where either is not a number
        else:
            off, same = float("nan"), bool(np.array_equal(have, want))
        if not same:
            raise PublisherError(
                f"simplified, output {name!r} differs by {off:.3g}",
                where=str(path),
                next_step="import it with --as-it-is",
            )


def golden(feeds: Arrays, outputs: Arrays, path: Path) -> GoldenTensors:
    """The golden question: ``feeds`` and what came of them.

    Kernels of another processor add up in another order; a hundredth of the value or a thousandth of the output's
    range is what they may differ by.

    Raises:
        PublisherError: an output is not finite.
        UsageError: there is more than a manifest should carry.
    """
    kept = {name: value for name, value in outputs.items() if value.size <= onnx_probe.MOST_VALUES}
    if not kept or sum(value.size for value in feeds.values()) > onnx_probe.MOST_VALUES:
        raise UsageError(
            f"golden inputs and outputs of these shapes have more than {onnx_probe.MOST_VALUES:,} values",
            where=str(path),
            next_step="give smaller ones: --shape NAME=…, or write them: --golden FILE",
        )
    if not all(np.isfinite(value).all() for value in kept.values() if value.dtype.kind == "f"):
        raise PublisherError(
            "the model answers made-up inputs with values that are not finite",
            where=str(path),
            next_step="give real ones: --inputs FILE.npz with an array an input",
        )
    floats = [float(np.abs(value).max(initial=0)) for value in kept.values() if value.dtype.kind == "f"]
    return GoldenTensors(
        inputs=tuple(_tensor(name, value) for name, value in feeds.items()),
        outputs=tuple(_tensor(name, value) for name, value in kept.items()),
        atol=float(f"{1e-3 * max(floats, default=0.0):.3g}"),
        rtol=1e-2,
    )


def _tensor(name: str, value: np.ndarray) -> GoldenTensor:
    flat = value.ravel()
    # Seven digits are what a float32 holds; more would only fill the manifest.
    data = tuple(float(f"{each:.7g}") for each in flat) if value.dtype.kind == "f" else tuple(flat.tolist())
    return GoldenTensor(name, value.shape, data)


def memory_mb(folder: Path) -> int:
    """An upper estimate: weights twice (mapped file and kernels' own layout), the four largest activations, runtime."""
    model = onnx.load(folder / MODEL_FILE, load_external_data=False)
    weights = sum(path.stat().st_size for path in folder.iterdir())
    try:
        values = onnx.shape_inference.infer_shapes(model).graph.value_info
    except Exception:  # noqa: BLE001 -- an estimate; the operator may say --memory-mb
        values = []
    sizes = sorted((onnx_probe.size_of(value) for value in values), reverse=True)
    return (2 * weights + sum(sizes[:4])) // 1_000_000 + _RUNTIME_MB
