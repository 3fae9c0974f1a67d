"""The models that the benches of the server ask: made here, the same weights every time, in no file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from hedgerow.registry import manifest as manifests

IMAGE = (1, 3, 224, 224)
"""602 KB of float32."""
ROW = (1, 8)
# Expansion, channels, repetitions, stride of the first. Source: Sandler et al., "MobileNetV2" (2018), table 2.
_BLOCKS = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1),
)  # fmt: skip
_STEM, _HEAD, _CLASSES = 32, 1280, 1000
_HIDDEN, _LABELS = 16, 4


class _Graph:
    """A graph that grows a node at a time."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._bounds: list[str] = []
        self._weights: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, name: str | None = None, **attributes: object) -> str:
        output = name or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def weight(self, *shape: int, fan_in: int) -> str:
        """Normal, of a size that keeps the values' size from layer to layer (He et al., 2015)."""
        values = (self._random.standard_normal(shape) * (2 / fan_in) ** 0.5).astype(np.float32)
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(
        self, data: str, channels: int, into: int, *, kernel: int, stride: int = 1, depthwise: bool = False
    ) -> str:
        per_group = 1 if depthwise else channels
        weight = self.weight(into, per_group, kernel, kernel, fan_in=per_group * kernel * kernel)
        bias = self.weight(into, fan_in=10_000)
        padding, group = [kernel // 2] * 4, channels if depthwise else 1
        sizes: dict[str, Any] = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": padding, "group": group}
        return self.add("Conv", data, weight, bias, **sizes)

    def relu6(self, data: str) -> str:
        if not self._bounds:
            self._bounds = ["zero", "six"]
            self._weights += [numpy_helper.from_array(np.float32([0, 6][at]), self._bounds[at]) for at in (0, 1)]
        return self.add("Clip", data, *self._bounds)

    def save(self, folder: Path, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> None:
        folder.mkdir(parents=True)
        sides = [
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))]
            for name, shape in (("x", inputs), ("y", outputs))
        ]
        graph = helper.make_graph(self._nodes, folder.parent.name, *sides, self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        onnx.save(model, folder / "model.onnx")

    @property
    def parameters(self) -> int:
        return sum(int(np.prod(weight.dims)) for weight in self._weights)


def write_cnn(folder: Path, *, seed: int = 1) -> int:
    """MobileNetV2 with its batch norms folded: a picture to 1,000 scores; returns how many parameters it has."""
    graph = _Graph(seed)
    data, channels = graph.relu6(graph.conv("x", 3, _STEM, kernel=3, stride=2)), _STEM
    for expansion, into, repetitions, first_stride in _BLOCKS:
        for number in range(repetitions):
            data = _block(graph, data, channels, into, expansion=expansion, stride=first_stride if number == 0 else 1)
            channels = into
    data = graph.relu6(graph.conv(data, channels, _HEAD, kernel=1))
    data = graph.add("Flatten", graph.add("GlobalAveragePool", data))
    graph.add("MatMul", data, graph.weight(_HEAD, _CLASSES, fan_in=_HEAD), name="y")
    graph.save(folder, IMAGE, (1, _CLASSES))
    return graph.parameters


def _block(graph: _Graph, data: str, channels: int, into: int, *, expansion: int, stride: int) -> str:
    """An inverted residual."""
    wide = channels * expansion
    inner = data if expansion == 1 else graph.relu6(graph.conv(data, channels, wide, kernel=1))
    inner = graph.relu6(graph.conv(inner, wide, wide, kernel=3, stride=stride, depthwise=True))
    inner = graph.conv(inner, wide, into, kernel=1)
    return graph.add("Add", data, inner) if stride == 1 and channels == into else inner


def write_mlp(folder: Path, *, seed: int = 1) -> None:
    """Two layers over one row of eight values: next to nothing to compute."""
    graph = _Graph(seed)
    hidden = graph.add("Relu", graph.add("MatMul", "x", graph.weight(ROW[1], _HIDDEN, fan_in=ROW[1])))
    graph.add("MatMul", hidden, graph.weight(_HIDDEN, _LABELS, fan_in=_HIDDEN), name="y")
    graph.save(folder, ROW, (1, _LABELS))


def make_bundle(folder: Path, shape: tuple[int, ...]) -> None:
    """Give ``<model>/<version>`` a manifest, as a device wants it; its golden input is all noughts."""
    import onnxruntime

    file = folder / "model.onnx"
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    (answer,) = session.run(["y"], {"x": np.zeros(shape, np.float32)})
    golden = manifests.GoldenTensors(
        inputs=(manifests.GoldenTensor("x", shape, (0.0,) * math.prod(shape)),),
        outputs=(manifests.GoldenTensor("y", answer.shape, tuple(answer.ravel().tolist())),),
        atol=1e-5,
        rtol=1e-4,
    )
    manifest = manifests.Manifest(
        schema=1,
        name=folder.parent.name,
        version=folder.name,
        format="onnx",
        license="Apache-2.0",
        files=(manifests.File(file.name, manifests.digest(file.read_bytes()), file.stat().st_size),),
        requires=manifests.Requires(memory_mb=64),
        provenance=manifests.Provenance((manifests.Source("bench"),), "bench/server_models.py", {}),
        golden=(golden,),
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))


def serve(models: Path, model: str, version: str = "1") -> None:
    """Make ``version`` the one in service, as activation does."""
    (models / model / "current").symlink_to(version)


def values(shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    """A tensor to ask with."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
