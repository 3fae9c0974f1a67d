"""Quantize any ONNX model: dynamic int8, static QDQ int8, or 4-bit weights; optionally pruned before.

Rules, by measurement (docs/decisions/0041-proving-models.md):

* A convolution is never quantized dynamically: ``ConvInteger`` was 3.1 times slower than float. A model of
  convolutions alone is refused; where some stand among matrix products, they stay in float, and the result says so.
* Static quantization needs a calibration set, and the set's SHA-256 goes into the manifest.
* The same model, options and tools give the same bytes.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as tool_version
from pathlib import Path
from typing import Any, Final, Literal, get_args

import onnx

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.models import quantize_files as files
from hedgerow.models.quantize import BlockScheme
from hedgerow.models.quantize_calibration import Feed, Inputs
from hedgerow.models.quantize_int4 import quantize_matrices
from hedgerow.models.quantize_prune import prune
from hedgerow.registry.manifest import Quantization

Scheme = Literal["float32", "dynamic-int8", "static-qdq", "int4-weights"]
SCHEMES: Final[tuple[Scheme, ...]] = get_args(Scheme)
TOOLS: Final = ("numpy", "onnx", "onnxruntime")

_CONVOLUTIONS: Final = ("Conv", "ConvTranspose")
_PRODUCTS: Final = ("MatMul", "Gemm", "Attention", "LSTM")
_INTEGER: Final = ("DynamicQuantizeLSTM", "MatMulInteger", "MatMulNBits", "QAttention")
# Below this, products take less time than turning their inputs into integers: tiny models gained nothing.
_TINY_BYTES: Final = 1 << 20
# Scales by output channel need it (DequantizeLinear's axis).
_MIN_STATIC_OPSET: Final = 13
_MAX_PRUNE: Final = 0.95


@dataclass(frozen=True)
class Options:
    """How to quantize.

    ``prune`` is the share of smallest weights set to zero; ``block_size`` in weights, for 4 bits; ``keep`` names nodes
    that stay as they are.

    Raises:
        UsageError: values that make no sense, or no calibration set where the scheme needs one.
    """

    scheme: Scheme
    prune: float = 0.0
    calibration: Inputs | None = None
    block_size: int = 32
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise UsageError(f"no scheme is called {self.scheme!r}", next_step=f"choose one of: {', '.join(SCHEMES)}")
        if not 0 <= self.prune <= _MAX_PRUNE:
            raise UsageError(f"--prune {self.prune:g} is not between 0 and {_MAX_PRUNE}", next_step="--prune 0.3")
        if self.scheme == "static-qdq" and self.calibration is None:
            raise UsageError(
                "static quantization needs inputs to calibrate with",
                next_step="give --calibration FILE.npz or a folder of them",
            )
        if self.block_size < 16 or self.block_size & (self.block_size - 1):  # noqa: PLR2004 -- the kernel's bound
            raise UsageError(f"block size {self.block_size} is no power of two from 16 on", next_step="--block-size 32")


@dataclass(frozen=True)
class Result:
    """What was done to a model. ``quantized`` and ``left`` count nodes by operator; sizes in bytes, of weights."""

    path: Path
    scheme: Scheme
    quantization: Quantization | None
    quantized: dict[str, int]
    left: dict[str, int]
    sparsity: float
    size_before: int
    size_after: int
    warnings: tuple[str, ...]
    tools: dict[str, str]


def quantize_model(source: Path, target: Path, options: Options) -> Result:
    """Quantize the ONNX file ``source`` into ``target`` (and ``<target>.data`` where weights are many).

    Raises:
        UsageError: ``source`` is no usable model, or the calibration set does not fit it.
        RefusedError: every operator that could be quantized is a convolution, and the scheme is dynamic.
        PublisherError: nothing could be quantized, or onnxruntime cannot load what came out.
    """
    model = files.load(source)
    before, size_before = _count(model), files.weight_bytes(model)
    warnings = _remarks(before, size_before, options)
    sparsity = prune(model, options.prune) if options.prune else 0.0
    with tempfile.TemporaryDirectory(prefix="quantize.") as scratch:
        quantized, stayed = _quantize(model, Path(scratch), options)
    if stayed:
        warnings.append(f"left in float: {', '.join(stayed[:5])}{' …' if len(stayed) > 5 else ''}")  # noqa: PLR2004
    done, left = _tally(quantized)
    if not done and options.scheme != "float32":
        raise PublisherError(
            "not one operator could be quantized",
            where=str(source),
            next_step="are the weights float32 constants? hedgerow model import --onnx FILE folds them",
        )
    size_after = files.weight_bytes(quantized)
    if options.scheme != "float32" and size_after >= size_before:
        warnings.append("the quantized weights are no smaller than they were")
    files.save(quantized, target)
    _must_load(target)
    return Result(
        path=target,
        scheme=options.scheme,
        quantization=_described(options, sparsity),
        quantized=done,
        left=left,
        sparsity=sparsity,
        size_before=size_before,
        size_after=size_after,
        warnings=tuple(warnings),
        tools={name: tool_version(name) for name in TOOLS},
    )


def _remarks(before: Counter[str], size: int, options: Options) -> list[str]:
    """What an operator has to know; a refusal where nothing would be left to do."""
    convolutions = sum(before[name] for name in _CONVOLUTIONS)
    products = sum(before[name] for name in _PRODUCTS)
    found = []
    if options.scheme == "dynamic-int8" and convolutions:
        if not products:
            raise RefusedError(
                "rule convolutions-never-dynamic: this model's only weights are those of convolutions, which integer "
                "kernels with dynamic scales run three times slower than float",
                next_step="--scheme static-qdq --calibration FILE.npz",
            )
        found.append(f"convolutions stay in float ({convolutions}): quantized dynamically they would be slower")
    if options.scheme == "int4-weights" and convolutions:
        found.append(f"convolutions stay in float ({convolutions}): there is no 4-bit kernel for them")
    if options.scheme in {"dynamic-int8", "int4-weights"} and not products:
        raise RefusedError(
            f"rule nothing-to-quantize: the model has no matrix product, which {options.scheme} is for",
            next_step="--scheme static-qdq --calibration FILE.npz",
        )
    if options.scheme != "float32" and size < _TINY_BYTES:
        found.append(f"the weights are {size / 1e3:.0f} kB: a model this small gains no speed, measure before release")
    return found


def _quantize(model: onnx.ModelProto, scratch: Path, options: Options) -> tuple[onnx.ModelProto, list[str]]:
    if options.scheme == "float32":
        return model, []
    if options.scheme == "int4-weights":
        scheme = BlockScheme(4, options.block_size)
        _, stayed = quantize_matrices(model, scheme, keep=frozenset(options.keep))
        return model, stayed
    with _quiet():
        if options.scheme == "dynamic-int8":
            return _dynamic(model, scratch, options), []
        return _static(model, scratch, options), []


def _dynamic(model: onnx.ModelProto, scratch: Path, options: Options) -> onnx.ModelProto:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = scratch / "dynamic.onnx"
    quantize_dynamic(
        model,
        target,
        op_types_to_quantize=["MatMul", "Attention", "LSTM"],  # a Gemm becomes a MatMul and an Add first
        per_channel=True,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(options.keep),
        extra_options={"MatMulConstBOnly": True},
    )
    return onnx.load(target)


def _static(model: onnx.ModelProto, scratch: Path, options: Options) -> onnx.ModelProto:
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if opset < _MIN_STATIC_OPSET:
        raise UsageError(
            f"the model has opset {opset}; static quantization by channel needs {_MIN_STATIC_OPSET}",
            next_step="export the model again with a newer opset",
        )
    assert options.calibration is not None  # noqa: S101 -- Options refuses that
    feeds = options.calibration.fitted(files.input_shapes(model))
    plain, prepared, target = (scratch / name for name in ("plain.onnx", "prepared.onnx", "static.onnx"))
    onnx.save(model, plain)
    # Folds batch norms into convolutions, and writes down the shapes that the quantizer asks for.
    quant_pre_process(plain, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        target,
        _Reader(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # What onnxruntime's own guide names for Arm: signed on both sides.
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=list(options.keep),
        # Two numbers a tensor and feed are kept. Never CalibMaxIntermediateOutputs, which should bound that:
        # onnxruntime 1.31 throws the feeds before the last few away unseen.
        calibrate_method=CalibrationMethod.MinMax,
    )
    return onnx.load(target)


class _Reader:
    """The feeds as onnxruntime asks for them: one a call, None at the end."""

    def __init__(self, feeds: tuple[Feed, ...]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feed | None:
        return next(self._left, None)

    def __iter__(self) -> Iterator[Feed]:
        return self._left


def _count(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def _tally(model: onnx.ModelProto) -> tuple[dict[str, int], dict[str, int]]:
    """Nodes with weights by operator: those that compute with integers, and those left in float."""
    dequantized = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    quantized: Counter[str] = Counter()
    left: Counter[str] = Counter()
    for node in model.graph.node:
        if node.op_type in _INTEGER:
            quantized[node.op_type] += 1
        elif node.op_type in {*_CONVOLUTIONS, *_PRODUCTS}:
            # In QDQ form an operator stays itself; the runtime fuses it with what stands around it.
            (quantized if set(node.input[:2]) <= dequantized else left)[node.op_type] += 1
    return dict(sorted(quantized.items())), dict(sorted(left.items()))


def _described(options: Options, sparsity: float) -> Quantization | None:
    pruned = round(sparsity, 4) or None
    match options.scheme:
        case "float32":
            return Quantization("float32", 32, sparsity=pruned) if pruned else None
        case "dynamic-int8":
            return Quantization("int8-dynamic", 8, activation_bits=8, sparsity=pruned)
        case "int4-weights":
            return Quantization("int4-rtn-block", 4, options.block_size, sparsity=pruned)
        case "static-qdq":
            assert options.calibration is not None  # noqa: S101 -- Options refuses that
            return Quantization("int8-qdq", 8, None, options.calibration.sha256, activation_bits=8, sparsity=pruned)


def _must_load(path: Path) -> None:
    import onnxruntime

    try:
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise PublisherError(
            f"onnxruntime cannot load what was quantized: {error}",
            where=str(path),
            next_step="try another scheme, or name the node in the message with --keep NODE",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantizer logs each weight that it leaves alone on the root logger; our result has them."""
    root: Any = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
