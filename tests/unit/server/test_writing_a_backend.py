"""The backend of docs/writing-a-backend.md, installed as another package would be, and served."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import server_support as support

from hedgerow.server import backends
from hedgerow.server.config import Limits
from hedgerow.server.errors import Unusable
from hedgerow.server.models import Slot
from hedgerow.server.repository import Repository

PAGE = Path(__file__).parents[3] / "docs" / "writing-a-backend.md"
LINES = 60


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The page's module and its entry point on Python's path."""
    site = tmp_path / "site"
    (site / "hedgerow_matrix-1.0.dist-info").mkdir(parents=True)
    (site / "hedgerow_matrix.py").write_text(blocks("python")[0])
    head, point = blocks("toml")[0].strip().splitlines()
    assert head == f'[project.entry-points."{backends.ENTRY_POINTS}"]'
    entry = point.replace('"', "")
    info = site / "hedgerow_matrix-1.0.dist-info"
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hedgerow-matrix\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{backends.ENTRY_POINTS}]\n{entry}\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    yield site
    sys.modules.pop("hedgerow_matrix", None)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "double" / "1").mkdir(parents=True)
    np.save(tmp_path / "double" / "1" / "weights.npy", np.array([[2, 0, 1], [0, 2, 1]]))
    return tmp_path / "double" / "1"


def test_it_has_sixty_lines_at_the_most() -> None:
    assert len(blocks("python")[0].splitlines()) <= LINES


@pytest.mark.usefixtures("installed")
def test_it_is_found_and_answers_over_http(folder, running) -> None:
    backend = backends.load(folder)
    assert backend.platform == "numpy_matrix"
    server = support.InProcess(
        lambda plane: plane._slots.update(double=Slot("double", support.served(backend, "double"))), folder, Limits()
    )
    running.append(server)
    row = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]}
    with httpx.Client(base_url=server.url, timeout=support.PATIENCE_S) as client:
        answer = client.post("/v2/models/double/infer", json={"inputs": [row]}).json()
        assert answer["outputs"][0]["data"] == [6.0, 8.0, 7.0]
        wrong = client.post("/v2/models/double/infer", json={"inputs": [{**row, "shape": [2, 1]}]})
        assert wrong.status_code == 400
        described = client.get("/v2/models/double").json()
        assert (described["platform"], described["outputs"][0]["shape"]) == ("numpy_matrix", [-1, 3])


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    "matrix, says", [(np.zeros(3), "has 1 dimensions; a matrix has 2"), (np.array([{}]), "allow_pickle=False")]
)
def test_what_it_cannot_load_is_said(folder, matrix, says: str) -> None:
    np.save(folder / "weights.npy", matrix)
    with pytest.raises(Unusable, match=says) as caught:
        backends.load(folder)
    assert caught.value.code == "load_failed"


@pytest.mark.usefixtures("installed")
def test_a_repository_finds_it_beside_all_other_kinds(folder) -> None:
    root = folder.parents[1]
    for place in ("seen/1/net.hef", "small/1/net.tflite", "large/1/net.gguf", "two/1/a.gguf", "two/1/b.gguf"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()
    assert Repository(root).names() == ["double", "large", "seen", "small"]


def test_without_it_the_folder_is_no_model(folder) -> None:
    with pytest.raises(Unusable, match="holds neither"):
        backends.load(folder)


@pytest.mark.usefixtures("installed")
def test_a_package_that_it_misses_is_named(folder, installed) -> None:
    module = installed / "hedgerow_matrix.py"
    (installed / "matrix_runtime.py").write_text("import not_there\nMatrixBackend = None\n")
    module.write_text(module.read_text().replace("hedgerow_matrix:MatrixBackend", "matrix_runtime:MatrixBackend"))
    with pytest.raises(Unusable, match="not_there is not installed: pip install hedgerow-matrix brings it"):
        backends.load(folder)
