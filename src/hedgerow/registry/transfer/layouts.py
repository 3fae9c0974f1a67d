"""Where tensors lie in a file: safetensors, ONNX (in the file and beside it), GGUF. Other files have no layout.

Only large tensors are of interest; small ones are cut with what lies between. A file whose header is damaged or
hostile has no layout either: a layout decides where chunks end, never what they hold, so nothing depends on it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from hedgerow.registry.transfer import layout_gguf, layout_onnx, layout_safetensors
from hedgerow.registry.transfer.reading import DamagedError, Window
from hedgerow.registry.transfer.recipe import Tensor

# Below this a chunk of its own would cost more in the recipe than it saves.
MIN_TENSOR_BYTES: Final = 4096
MAX_TENSORS: Final = 100_000


def of_folder(directory: Path, paths: Sequence[str]) -> dict[str, tuple[Tensor, ...]]:
    """The layout of every file of a bundle that has one, by its path below ``directory``."""
    found: dict[str, list[Tensor]] = {}
    known = set(paths)
    for path in sorted(paths):
        for place, tensors in _of_file(directory / path).items():
            # ONNX names the file of its weights relative to itself; one outside the bundle is none of ours.
            target = path if place is None else posixpath.normpath(posixpath.join(posixpath.dirname(path), place))
            if target in known:
                found.setdefault(target, []).extend(tensors)
    layouts = {path: tidy(tensors, (directory / path).stat().st_size) for path, tensors in found.items()}
    return {path: tensors for path, tensors in layouts.items() if tensors}


def tidy(tensors: Iterable[Tensor], size: int) -> tuple[Tensor, ...]:
    """Large tensors in order; of two that overlap (weights that are shared) the first stays."""
    kept: list[Tensor] = []
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: (tensor.offset, -tensor.size, tensor.name)):
        if tensor.size >= MIN_TENSOR_BYTES and end <= tensor.offset and tensor.offset + tensor.size <= size:
            kept.append(tensor)
            end = tensor.offset + tensor.size
    return tuple(kept[:MAX_TENSORS])


def _of_file(path: Path) -> dict[str | None, list[Tensor]]:
    """Tensors by the file that holds them: None is ``path`` itself, else as ONNX spells the location."""
    readers = {".safetensors": layout_safetensors.read, ".gguf": layout_gguf.read, ".onnx": layout_onnx.read}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        return {}
    with path.open("rb") as file:
        try:
            return reader(Window(file, path.stat().st_size))
        except DamagedError:
            return {}
