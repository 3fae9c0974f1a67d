"""What devices are given first: the file is found wherever the stage's registry lies."""

from __future__ import annotations

import pytest
import stages

from hedgerow import paths
from hedgerow.registry.authority import founding
from hedgerow.registry.authority.anchors import first_root
from hedgerow.registry.authority.keys import Passphrases


@pytest.fixture(autouse=True)
def var(tmp_path, monkeypatch):
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))


def found(**how):
    folder = paths.stage_dir("meadow", "dev")
    return founding.found(folder, "meadow", "dev", passphrases=Passphrases(), unattended=True, **how)[0]


def test_it_is_the_store_s_own_file():
    stage = stages.found(paths.stage_dir("meadow", "production"))
    assert first_root("meadow", "production").read_bytes() == stage.store.get("metadata/1.root.json")


def test_before_the_stage_is_founded_the_path_is_where_it_will_be():
    before = first_root("meadow", "dev")
    assert not before.exists()
    found()
    assert first_root("meadow", "dev") == before
    assert before.exists()


def test_a_store_in_another_folder_is_followed(tmp_path):
    found(store=str(tmp_path / "elsewhere"))
    assert first_root("meadow", "dev") == tmp_path / "elsewhere/metadata/1.root.json"
    assert first_root("meadow", "dev").exists()


def test_of_a_store_behind_an_address_a_copy_is_kept(tmp_path):
    session = found(store=(tmp_path / "elsewhere").as_uri())
    kept = first_root("meadow", "dev")
    assert kept.parent == paths.stage_dir("meadow", "dev")
    assert kept.read_bytes() == session.store.get("metadata/1.root.json")
