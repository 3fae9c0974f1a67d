"""Collect an ONNX graph and write it as ``model.onnx`` plus one file of weights, byte for byte the same each time.

Weights of 1 KiB or more stand in the external file, each at a page boundary, so that onnxruntime maps them instead of
copying: a Pi pays for the model once, in the page cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

CONTRIB: Final = "com.microsoft"
# Opset 21 is the newest that every onnxruntime since 1.20 knows; contrib operators have had version 1 ever since.
OPSET: Final = 21
IR_VERSION: Final = 10
_PAGE: Final = 4096
_EXTERNAL_FROM: Final = 1024
Array = NDArray[Any]


class GraphWriter:
    """Nodes in order, and weights streamed into ``data_path`` as they are added; a context manager."""

    def __init__(self, data_path: Path) -> None:
        self._path = data_path
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._data = data_path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._data.close()

    def input(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, kind: int, shape: Sequence[int | str]) -> str:
        self._outputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def constant(self, name: str, values: Array) -> str:
        """Add a weight once; a second call with the same name returns the first."""
        if name in self._initializers:
            return name
        values = np.ascontiguousarray(values)
        tensor = TensorProto(name=name, dims=values.shape, data_type=helper.np_dtype_to_tensor_dtype(values.dtype))
        if values.nbytes < _EXTERNAL_FROM:
            tensor.raw_data = values.tobytes()
        else:
            self._data.write(b"\0" * (-self._data.tell() % _PAGE))
            place = {"location": self._path.name, "offset": self._data.tell(), "length": values.nbytes}
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
            tensor.data_location = TensorProto.EXTERNAL
            values.tofile(self._data)
        self._initializers[name] = tensor
        return name

    def node(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: str | Sequence[str],
        *,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Add a node named after its first output, and return that output."""
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        self._nodes.append(helper.make_node(operator, inputs, names, name=names[0], domain=domain, **attributes))
        return names[0]

    def save(self, path: Path, *, graph_name: str, producer: str) -> None:
        """Write ``path``, in the same folder as the weights; nothing can be added after that."""
        self._data.close()
        graph = helper.make_graph(
            self._nodes, graph_name, self._inputs, self._outputs, initializer=list(self._initializers.values())
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(CONTRIB, 1)],
            ir_version=IR_VERSION,
            producer_name=producer,
        )
        path.write_bytes(model.SerializeToString(deterministic=True))
