"""LiteRT (TensorFlow Lite): arrays in, arrays out. Optional: ``pip install 'hedgerow[litert]'``."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from hedgerow.server import tensors
from hedgerow.server.backends import TensorSpec, the_one
from hedgerow.server.errors import BadRequest

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays


class LitertBackend:
    """One interpreter. It holds the tensors of the run, so that requests go through it one after the other."""

    platform = "tensorflow_lite"

    def __init__(self, folder: Path, *, threads: int) -> None:
        path = the_one(folder, ".tflite")
        self._interpreter = Interpreter(model_path=str(path), num_threads=threads)
        self._interpreter.allocate_tensors()
        self._lock = threading.Lock()
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._indices = {each["name"]: each["index"] for each in (*inputs, *outputs)}
        self.inputs = tuple(_spec(each) for each in inputs)
        self.outputs = tuple(_spec(each) for each in outputs)

    def infer(self, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        names = list(outputs) or [spec.name for spec in self.outputs]
        with self._lock:
            try:
                self._resize(inputs)
                for name, array in inputs.items():
                    self._interpreter.set_tensor(self._indices[name], array)
                self._interpreter.invoke()
            except (RuntimeError, ValueError) as error:
                raise BadRequest(f"the model refuses these inputs: {error}") from error
            # Copies: the interpreter writes the next run's results over these.
            return {name: np.array(self._interpreter.get_tensor(self._indices[name])) for name in names}

    def close(self) -> None:
        del self._interpreter

    def _resize(self, inputs: Arrays) -> None:
        """Make room for what the free dimensions are this time."""
        now = {each["name"]: tuple(each["shape"]) for each in self._interpreter.get_input_details()}
        changed = [name for name, array in inputs.items() if array.shape != now[name]]
        for name in changed:
            self._interpreter.resize_tensor_input(self._indices[name], list(inputs[name].shape))
        if changed:
            self._interpreter.allocate_tensors()


def _spec(described: dict[str, Any]) -> TensorSpec:
    shape = described.get("shape_signature", described["shape"])
    datatype = tensors.datatype_of(np.empty(0, described["dtype"]))
    return TensorSpec(described["name"], datatype, tuple(int(size) for size in shape))
