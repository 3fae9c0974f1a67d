from __future__ import annotations

import pytest
import server_support as support

from hedgerow.errors import MachineError
from hedgerow.server.errors import NotFound, Unusable
from hedgerow.server.repository import Repository


@pytest.fixture
def root(tmp_path):
    """Both layouts side by side."""
    for place in (
        "numbers/2",
        "numbers/10",
        "semantic/1.9.0",
        "semantic/1.10.0",
        "linked/1.0.0",
        "linked/2.0.0",
        "flat",
        "nested/1/model.onnx",
    ):
        support.write_add(tmp_path / place, 1.0)
    (tmp_path / "linked" / "current").symlink_to("1.0.0")
    (tmp_path / "notes").mkdir()
    (tmp_path / "talker" / "1").mkdir(parents=True)
    (tmp_path / "talker" / "1" / "genai_config.json").write_text("{}")
    return tmp_path


def wanted(root, name: str) -> list[tuple[str, str]]:
    entry = Repository(root).entry(name)
    return [(version.name, version.folder.relative_to(root).as_posix()) for version in entry.wanted()]


def test_which_version_of_each_model_is_served(root) -> None:
    assert {name: wanted(root, name) for name in Repository(root).names()} == {
        "flat": [("1", "flat")],
        "linked": [("1.0.0", "linked/1.0.0")],
        "nested": [("1", "nested/1/model.onnx")],
        "numbers": [("10", "numbers/10")],
        "semantic": [("1.10.0", "semantic/1.10.0")],
        "talker": [("1", "talker/1")],
    }


def test_a_folder_that_is_a_model_itself(root) -> None:
    repository = Repository(root / "flat")
    assert repository.names() == ["flat"]
    assert repository.entry("flat").wanted()[0].folder == root / "flat"


@pytest.mark.parametrize(
    "policy, versions",
    [
        ("", ["10"]),
        ("version_policy { latest { num_versions: 2 } }", ["2", "10"]),
        ("version_policy { latest { num_versions: 9 } }", ["2", "10"]),
        ("version_policy { all { } }", ["2", "10"]),
        ("version_policy { specific { versions: 2 } }", ["2"]),
    ],
)
def test_version_policies(root, policy: str, versions: list[str]) -> None:
    (root / "numbers" / "config.pbtxt").write_text(policy)
    assert [name for name, _ in wanted(root, "numbers")] == versions


@pytest.mark.parametrize(
    "text, says",
    [
        ("version_policy { specific { versions: [2, 3] } }", "numbers has no version 3"),
        ("name: 'other'", "numbers/config.pbtxt is of 'other'"),
        ("nmae: 'numbers'", "numbers/config.pbtxt: .*unknown field `nmae`"),
        ("\udcff", "numbers/config.pbtxt cannot be read"),
    ],
)
def test_configurations_that_cannot_be_obeyed(root, text: str, says: str) -> None:
    (root / "numbers" / "config.pbtxt").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Unusable, match=says):
        wanted(root, "numbers")


@pytest.mark.parametrize("name", ["nobody", "notes", "", ".", "..", "../x", "a/b", "x\0"])
def test_what_is_no_model(root, name: str) -> None:
    with pytest.raises(NotFound):
        Repository(root).entry(name)


def test_a_fingerprint_changes_with_a_file(root) -> None:
    version = Repository(root).entry("numbers").wanted()[0]
    before = version.fingerprint()
    assert version.fingerprint() == before
    (version.folder / "model.onnx").write_bytes(b"other")
    assert version.fingerprint() != before


def test_a_repository_without_models(tmp_path) -> None:
    with pytest.raises(MachineError, match="no model here"):
        Repository(tmp_path).required()
    assert Repository(tmp_path).names() == Repository(tmp_path / "gone").names() == []


@pytest.mark.parametrize("target", ["../flat", "9.9.9", "../notes"])
def test_a_current_that_points_at_no_version(root, target) -> None:
    (root / "linked" / "current").unlink()
    (root / "linked" / "current").symlink_to(target)
    with pytest.raises(Unusable, match="linked/current points at none of the model's versions"):
        wanted(root, "linked")
