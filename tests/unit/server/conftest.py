from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hedgerow.identity.ca import FleetCA

HERE = Path(__file__).parent


def module(name: str, path: Path) -> ModuleType:
    """A helper module beside the tests; pytest's importlib mode puts nothing on sys.path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


module("server_support", HERE / "support.py")
module("tls_support", HERE / "tls_support.py")
module("server_asking", HERE / "asking.py")
module("hailo_double", HERE / "hailo_double.py")
module("otlp_receiver", HERE / "otlp_receiver.py")
module("openai_double", HERE / "openai_double.py")


@pytest.fixture(scope="session")
def tiny_text(tmp_path_factory) -> dict[str, Path]:
    """A tiny decoder with each kind of graph: logits of all positions (``all``), of the last one (``last``)."""
    import server_support as support

    tiny = module("tiny_llama", HERE.parent / "models" / "conftest.py")
    folder = tmp_path_factory.mktemp("tiny-text")
    gguf = tiny.TinyLlama(tied=False).write(folder / "tiny.gguf")
    return {
        kind: support.write_tiny_text(folder / kind, gguf, last_token_logits=kind == "last") for kind in ("all", "last")
    }


@pytest.fixture(scope="session")
def unit_ca(tmp_path_factory) -> FleetCA:
    import server_support as support

    return FleetCA.init(tmp_path_factory.mktemp("fleet"), support.FLEET)[0]


@pytest.fixture
def running():
    """A list; what a test puts in is closed, last first."""
    import server_support as support

    with support.closing_all() as things:
        yield things
