"""A ``torch.export`` archive written without PyTorch: a ReLU, as PyTorch 2.13 lays it out, and whatever a test changes.

``tests/unit/models/test_pytorch.py`` has PyTorch load what is made here, so it is held to the real format.
"""

from __future__ import annotations

import copy
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

_TREE = (
    '[1, {"type": "builtins.tuple", "context": "null", "children_spec": [{"type": "builtins.tuple", "context": "null", '
    '"children_spec": [{"type": null, "context": null, "children_spec": []}]}, {"type": "builtins.dict", '
    '"context": "[]", "children_spec": []}]}]'
)
_LEAF = '[1, {"type": null, "context": null, "children_spec": []}]'


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def meta(*sizes: int | str, dtype: int = 7) -> dict[str, Any]:
    """A tensor's description; a text is the expression of a free dimension. Strides are of a row of ones."""
    shape = [{"as_int": size} if isinstance(size, int) else {"as_expr": {"expr_str": size, "hint": {"as_int": 4}}}
             for size in sizes]  # fmt: skip
    strides: list[int] = [1]
    for size in reversed(sizes[1:]):
        strides.insert(0, strides[0] * (size if isinstance(size, int) else 1))
    return {
        "dtype": dtype, "sizes": shape, "requires_grad": False, "device": {"type": "cpu", "index": None},
        "strides": [{"as_int": stride} for stride in strides], "storage_offset": {"as_int": 0}, "layout": 7,
    }  # fmt: skip


def program(*sizes: int | str) -> dict[str, Any]:
    """``y = relu(x + bias)`` with ``x`` of ``sizes``, whose last is 3."""

    def argument(name: str, of: str) -> dict[str, Any]:
        return {"name": name, "arg": tensor(of), "kind": 1}

    def node(target: str, name: str, *inputs: dict[str, Any]) -> dict[str, Any]:
        return {
            "target": target, "inputs": list(inputs), "outputs": [tensor(name)], "name": name,
            "metadata": {"stack_trace": 'File "/home/somebody/net.py", line 3'}, "is_hop_single_tensor_return": None,
        }  # fmt: skip

    graph = {
        "inputs": [tensor("p_bias"), tensor("x")],
        "outputs": [tensor("y")],
        "nodes": [
            node("torch.ops.aten.add.Tensor", "add", argument("self", "x"), argument("other", "p_bias")),
            node("torch.ops.aten.relu.default", "y", argument("self", "add")),
        ],
        "tensor_values": {"p_bias": meta(3)} | {name: meta(*sizes) for name in ("x", "add", "y")},
        "sym_int_values": {}, "sym_bool_values": {}, "is_single_tensor_return": False, "custom_obj_values": {},
        "sym_float_values": {},
    }  # fmt: skip
    signature = {
        "input_specs": [
            {"parameter": {"arg": {"name": "p_bias"}, "parameter_name": "bias"}},
            {"user_input": {"arg": tensor("x")}},
        ],
        "output_specs": [{"user_output": {"arg": tensor("y")}}],
    }
    call = {"inputs": [], "outputs": [], "in_spec": _TREE, "out_spec": _LEAF, "forward_arg_names": ["x"]}
    return {
        "graph_module": {
            "graph": graph, "signature": signature, "module_call_graph": [{"fqn": "", "signature": call}],
            "metadata": {}, "treespec_namedtuple_fields": {},
        },
        "opset_version": {"aten": 10}, "range_constraints": {}, "schema_version": {"major": 8, "minor": 20},
        "verifiers": ["TRAINING"], "torch_version": "2.13.0+cpu", "guards_code": ["import os"],
    }  # fmt: skip


def entries(*sizes: int | str) -> dict[str, Any]:
    """The archive's entries by path; documents as what they are, to be changed."""
    payload = {"path_name": "weight_0", "is_param": True, "use_pickle": False, "tensor_meta": meta(3)}
    return {
        "data/weights/weight_0": struct.pack("<3f", -1.0, 0.0, 1.0),
        "data/weights/model_weights_config.json": {"config": {"bias": copy.deepcopy(payload)}},
        "data/constants/model_constants_config.json": {"config": {}},
        "models/model.json": program(*(sizes or (2, 3))),
        "data/sample_inputs/model.pt": b"\x80\x02cposix\nsystem\n",
        "archive_format": b"pt2",
        "archive_version": b"0",
        ".data/version": b"3\n",
        "byteorder": b"little",
        ".data/serialization_id": b"1" * 40,
    }


def write(path: Path, found: dict[str, Any], *, root: str = "net", compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in found.items():
            content = data if isinstance(data, bytes) else json.dumps(data).encode()
            archive.writestr(zipfile.ZipInfo(f"{root}/{name}"), content, compression)
    return path
