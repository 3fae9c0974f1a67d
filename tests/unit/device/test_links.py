from __future__ import annotations

import pytest

from hedgerow.device import links
from hedgerow.errors import DeviceError


@pytest.fixture
def home(tmp_path):
    for version in ("1.0.0", "1.1.0"):
        (tmp_path / "models" / "assistant" / version).mkdir(parents=True)
    return tmp_path / "models" / "assistant"


def test_point_and_target(home):
    assert links.target(home, links.CURRENT) is None
    links.point(home, links.CURRENT, "1.0.0")
    links.point(home, links.CURRENT, "1.1.0")
    assert links.target(home, links.CURRENT) == "1.1.0"
    assert (home / "current").readlink().parts == ("1.1.0",), "absolute links break when the folder moves"
    links.point(home, links.CURRENT, None)
    links.point(home, links.CURRENT, None)
    assert links.target(home, links.CURRENT) is None


def test_a_link_to_nothing_is_no_version(home):
    links.point(home, links.CURRENT, "9.9.9")
    assert links.target(home, links.CURRENT) is None


def test_removing_from_a_home_that_is_not_there(tmp_path):
    links.point(tmp_path / "nowhere", links.PREVIOUS, None)


def test_a_damaged_note_is_not_taken_for_none(tmp_path):
    assert links.read_pending(tmp_path) is None
    (tmp_path / links.PENDING).write_bytes(b"{")
    with pytest.raises(DeviceError, match="cannot be read") as caught:
        links.read_pending(tmp_path)
    assert links.PENDING in caught.value.where


def test_sweep_takes_temporary_names_alone(home, tmp_path):
    links.point(home, links.CURRENT, "1.0.0")
    (home / ".current.77.new").symlink_to("1.1.0")
    (tmp_path / ".pending.json.abc").touch()
    (tmp_path / "events.jsonl").touch()
    links.sweep([home], tmp_path)
    assert sorted(path.name for path in home.iterdir()) == ["1.0.0", "1.1.0", "current"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["events.jsonl", "models"]
