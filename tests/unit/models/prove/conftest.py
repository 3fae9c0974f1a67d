"""Small ONNX models made by hand, and bundles of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hedgerow.cli import cli, run
from hedgerow.registry import bundle, manifest

SIZE = 8


def weights(*shape: int, seed: int) -> Any:
    return np.random.default_rng(seed).normal(0, 0.2, shape).astype(np.float32)


def model_of(nodes: list[onnx.NodeProto], constants: dict[str, Any], *, inputs: dict[str, Any], opset: int = 17) -> Any:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def cnn(*, opset: int = 17, fully_convolutional: bool = False) -> onnx.ModelProto:
    """A convolution, a norm, pooling; and a matrix product unless ``fully_convolutional``."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y" if fully_convolutional else "f"], name="flat"),
    ]
    constants = {"kernel": weights(16, 3, 3, 3, seed=1), "bias": weights(16, seed=2)}
    if not fully_convolutional:
        nodes.append(helper.make_node("MatMul", ["f", "head"], ["y"], name="head"))
        constants["head"] = weights(16, 10, seed=3)
    return model_of(nodes, constants, inputs={"x": ["n", 3, SIZE, SIZE]}, opset=opset)


def mlp(*, hidden: int = 64, scale: float = 1.0) -> onnx.ModelProto:
    """Two layers: a product, and a Gemm with bias and transposed weights."""
    nodes = [
        helper.make_node("MatMul", ["x", "first"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "second", "bias"], ["y"], name="second", transB=1),
    ]
    constants = {
        "first": weights(32, hidden, seed=4),
        "second": weights(10, hidden, seed=5) * np.float32(scale),
        "bias": weights(10, seed=6),
    }
    return model_of(nodes, constants, inputs={"x": ["n", 32]})


def samples(name: str, *, count: int = 8, seed: int = 9) -> dict[str, Any]:
    shape = (count, 3, SIZE, SIZE) if name == "cnn" else (count, 32)
    return {"x": np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """``cnn.onnx``, ``mlp.onnx`` and inputs of both, ``cnn.npz`` and ``mlp.npz``."""
    onnx.save(cnn(), tmp_path / "cnn.onnx")
    onnx.save(mlp(), tmp_path / "mlp.onnx")
    for name in ("cnn", "mlp"):
        np.savez(tmp_path / f"{name}.npz", **samples(name))
    return tmp_path


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """``make_bundle("mlp", field=value, …)`` → folder of a bundle of that model, with its golden answer."""

    def make(kind: str = "mlp", *, folder: str | None = None, model: Any = None, **fields: Any) -> Path:
        place = tmp_path / (folder or f"{kind}-bundle")
        place.mkdir()
        onnx.save(model if model is not None else {"cnn": cnn, "mlp": mlp}[kind](), place / "model.onnx")
        (place / "LICENSE").write_text("do as you like\n")
        values = fields | {"files": bundle.describe_files(place)}
        (place / manifest.FILE_NAME).write_bytes(manifest.encode(document(place, kind, **values)))
        return place

    return make


def document(place: Path, kind: str, **fields: Any) -> manifest.Manifest:
    import onnxruntime

    feed = samples(kind, count=1, seed=11)
    session = onnxruntime.InferenceSession(place / "model.onnx", providers=["CPUExecutionProvider"])
    answer = session.run(None, feed)[0]
    values: dict[str, Any] = {
        "schema": 1,
        "name": kind,
        "version": "1.0.0",
        "format": "onnx",
        "license": "MIT",
        "license_file": "LICENSE",
        "requires": manifest.Requires(memory_mb=100),
        "golden": (
            manifest.GoldenTensors(
                (manifest.GoldenTensor("x", feed["x"].shape, tuple(feed["x"].ravel().tolist())),),
                (manifest.GoldenTensor("y", answer.shape, tuple(answer.ravel().tolist())),),
                atol=1e-4,
                rtol=1e-3,
            ),
        ),
        "provenance": manifest.Provenance((manifest.Source(f"{kind}.onnx"),), "a test", {"onnx": "1.0"}),
    }
    return manifest.Manifest(**(values | fields))


@pytest.fixture
def hedgerow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Any]:
    """``hedgerow("model", …)`` → exit code, stdout, stderr."""
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    monkeypatch.setenv("COLUMNS", "160")  # tables wrap at the width of whatever runs the tests

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["hedgerow", *map(str, arguments)])
        code = run(cli, "hedgerow")
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def tiny() -> Any:
    """``tiny.cnn(…)``, ``tiny.mlp(…)``: the models themselves; ``tiny.samples(name)``: inputs."""
    return SimpleNamespace(cnn=cnn, mlp=mlp, samples=samples)
