"""Pairs of model files, an old version and a new one, made with a fixed seed: what `registry_deltas.py` measures on.

A decoder of 28 million parameters, weights drawn from Student's t with five degrees of freedom (real layers have such
tails) in float32 and int8; `registry_delta_real.py` adds pairs of real models.
"""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench import registry_delta_real as real
from bench.registry_delta_real import Pair
from numpy.typing import NDArray

Array = NDArray[Any]
Tensors = dict[str, Array]

LAYERS, HIDDEN, MLP, VOCABULARY, RANK = 8, 512, 1408, 4096, 12
PERTURBED = 1e-3


def make(folder: Path, *, scale: float, wanted: list[str]) -> Iterator[Pair]:
    """Make and yield one pair after the other; each is removed when the next is asked for."""
    for name, maker in _MAKERS.items():
        if wanted and name not in wanted:
            continue
        home = folder / name
        for side in ("old", "new"):
            (home / side).mkdir(parents=True)
        pair = maker(home, scale)
        if pair is not None:
            yield pair
            for path in (pair.old, pair.new):
                path.unlink()


@functools.cache
def decoder(scale: float) -> Tensors:
    """The decoder's weights; ``scale`` shrinks its layers."""
    hidden, mlp = max(int(HIDDEN * scale**0.5), 32), max(int(MLP * scale**0.5), 64)
    random = np.random.default_rng(28)
    shapes: dict[str, tuple[int, ...]] = {"embed": (VOCABULARY, hidden)}
    for layer in range(LAYERS):
        shapes |= {f"layers.{layer}.attention.{name}": (hidden, hidden) for name in "qkvo"}
        shapes |= {f"layers.{layer}.mlp.{name}": (hidden, mlp) for name in ("down", "gate", "up")}
        shapes[f"layers.{layer}.norm"] = (hidden,)
    return {name: random.standard_t(5, shape).astype(np.float32) * np.float32(0.02) for name, shape in shapes.items()}


def write(path: Path, tensors: Tensors) -> None:
    """A safetensors file, as the format's page describes it."""
    kinds = {"float32": "F32", "int8": "I8"}
    header, position = {}, 0
    for name, values in tensors.items():
        offsets = [position, position + values.nbytes]
        header[name] = {"dtype": kinds[values.dtype.name], "shape": values.shape, "data_offsets": offsets}
        position += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for values in tensors.values():
            file.write(values.tobytes())


def _pair(home: Path, name: str, old: Tensors, new: Tensors, bar: float, **changes: Any) -> Pair:
    paths = [home / side / "model.safetensors" for side in ("old", "new")]
    for path, tensors in zip(paths, (old, new), strict=True):
        write(path, tensors)
    return Pair(name, paths[0], paths[1], bar, **changes)


def _tuned(tensors: Tensors) -> Tensors:
    """The last tenth of the layers fine-tuned, one of them at least."""
    random = np.random.default_rng(29)
    first = LAYERS - max(round(real.TAIL * LAYERS), 1)
    chosen = tuple(f"layers.{layer}." for layer in range(first, LAYERS))
    return {
        name: real.stepped(values, random) if name.startswith(chosen) else values for name, values in tensors.items()
    }


def _all_changed(tensors: Tensors) -> Tensors:
    random = np.random.default_rng(30)
    return {
        name: (values * (1 + PERTURBED * random.standard_normal(values.shape))).astype(np.float32)
        for name, values in tensors.items()
    }


def _quantized(tensors: Tensors) -> Tensors:
    """Symmetric int8, a scale a tensor."""
    found: Tensors = {}
    for name, values in tensors.items():
        scale = np.float32(np.abs(values).max() / 127)
        found[name] = np.round(values / scale).astype(np.int8)
        found[f"{name}.scale"] = np.array([scale])
    return found


def _tail(home: Path, scale: float) -> Pair:
    base = decoder(scale)
    return _pair(home, "last 10 % of the layers fine-tuned, float32", base, _tuned(base), 0.085)


def _adapter(home: Path, scale: float) -> Pair:
    base, random = decoder(scale), np.random.default_rng(31)
    hidden = base["embed"].shape[1]
    added = {
        f"adapter.{layer}.{name}": random.standard_normal((RANK, hidden)).astype(np.float32)
        for layer in range(LAYERS)
        for name in ("q.a", "q.b", "v.a", "v.b")
    }
    size = sum(values.nbytes for values in added.values())
    return _pair(home, "adapter added", base, added | base, 0, extra=size + (64 << 10))


def _perturbed(home: Path, scale: float) -> Pair:
    base = decoder(scale)
    return _pair(home, "all weights changed by 1e-3, float32", base, _all_changed(base), 0.60)


def _int8_tail(home: Path, scale: float) -> Pair:
    base = decoder(scale)
    old, new = _quantized(base), _quantized(_tuned(base))
    return _pair(home, "int8 requantized after a change of the tail", old, new, 0.012, bsdiff=True, timed=True)


def _int8_all(home: Path, scale: float) -> Pair:
    base = decoder(scale)
    old, new = _quantized(base), _quantized(_all_changed(base))
    return _pair(home, "int8 requantized after a change of all", old, new, 0.012, bsdiff=True, timed=True)


def _same(home: Path, scale: float) -> Pair:
    base = _quantized(decoder(scale))
    return _pair(home, "released again unchanged", base, base, 0, extra=64 << 10)


_MAKERS: dict[str, Callable[[Path, float], Pair | None]] = {
    "tail": _tail,
    "adapter": _adapter,
    "perturbed": _perturbed,
    "int8-tail": _int8_tail,
    "int8-all": _int8_all,
    "onnx-tail": lambda home, _: real.onnx_tail(home),
    "gguf-tail": lambda home, _: real.gguf_tail(home),
    "same": _same,
}
NAMES = tuple(_MAKERS)
