"""A real server in a process of its own, for clients that know nothing of Hedgerow."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

UNIT = Path(__file__).parents[1] / "unit"


def module(name: str, path: Path) -> ModuleType:
    """A helper of the unit tests; pytest's importlib mode puts nothing on sys.path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


support = module("server_support", UNIT / "server" / "support.py")


@pytest.fixture(scope="session")
def ports(tmp_path_factory):
    """HTTP's and gRPC's; they serve ``talker`` (a tiny decoder), ``add`` and identities: ``same-fp32`` …"""
    from onnx import TensorProto

    folder = tmp_path_factory.mktemp("repository")
    tiny = module("tiny_llama", UNIT / "models" / "conftest.py")
    gguf = tiny.TinyLlama(tied=False, context=512).write(tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    support.write_tiny_text(folder / "talker" / "1", gguf, last_token_logits=False)
    support.write_add(folder / "add" / "1", 1.0)
    for datatype, kind in {
        "bool": TensorProto.BOOL,
        "uint8": TensorProto.UINT8,
        "uint16": TensorProto.UINT16,
        "uint32": TensorProto.UINT32,
        "uint64": TensorProto.UINT64,
        "int8": TensorProto.INT8,
        "int16": TensorProto.INT16,
        "int32": TensorProto.INT32,
        "int64": TensorProto.INT64,
        "fp16": TensorProto.FLOAT16,
        "bf16": TensorProto.BFLOAT16,
        "fp32": TensorProto.FLOAT,
        "fp64": TensorProto.DOUBLE,
        "bytes": TensorProto.STRING,
    }.items():
        support.write_identity(folder / f"same-{datatype}" / "1", kind)
    number, grpc = support.free_port(), support.free_port()
    log = tmp_path_factory.mktemp("log")
    process = support.Process(
        log, "--repository", str(folder), "--http", f"127.0.0.1:{number}", "--grpc", f"127.0.0.1:{grpc}"
    )
    try:
        process.until(lambda: support.answers(number) == 200, "ready")
        yield number, grpc
    finally:
        process.close()


@pytest.fixture(scope="session")
def port(ports):
    return ports[0]


@pytest.fixture(scope="session")
def grpc_port(ports):
    return ports[1]


@pytest.fixture(scope="session")
def unit_ca(tmp_path_factory):
    """The CA of a fleet of one."""
    from hedgerow.identity.ca import FleetCA

    return FleetCA.init(tmp_path_factory.mktemp("fleet"), support.FLEET)[0]
