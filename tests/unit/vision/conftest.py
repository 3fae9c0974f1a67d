from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

from hedgerow import paths

HERE = Path(__file__).parent
MODEL = "ddddocr/common_det.onnx"


def module(name: str, path: Path) -> ModuleType:
    """A helper module beside the tests; pytest's importlib mode puts nothing on sys.path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


module("server_support", HERE.parent / "server" / "support.py")
module("hailo_double", HERE.parent / "server" / "hailo_double.py")
module("vision_support", HERE / "support.py")


@pytest.fixture(scope="session")
def real_model(tmp_path_factory) -> Path:
    """A repository with a real YOLOX network as ``detector``: it finds characters in a picture (20 MB, MIT)."""
    wheels = sorted((paths.cache_dir() / "wheels").glob("ddddocr-1.6.1-*.whl"))
    if not wheels:
        pytest.skip("the wheel is not in var/cache/wheels; run: make detector")
    repository = tmp_path_factory.mktemp("repository")
    folder = repository / "detector" / "1"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(wheels[0]) as wheel:
        (folder / "model.onnx").write_bytes(wheel.read(MODEL))
    return repository


@pytest.fixture
def running():
    """A list; what a test puts in is closed, last first."""
    import server_support as support

    with support.closing_all() as things:
        yield things
