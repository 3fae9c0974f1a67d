"""Where a device's versions lie, and which runtime may go on commanding it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.device import links
from hedgerow.device.assembled import identity, outdated, slot_home
from hedgerow.device.change import Change
from hedgerow.device.config import DeviceConfig
from hedgerow.device.restarting import CONFIRMED


@pytest.fixture
def config(tmp_path: Path) -> DeviceConfig:
    for version in ("1", "2"):
        (tmp_path / "runtime" / version).mkdir(parents=True)
    return DeviceConfig(
        fleet="f", site="s", host="h", serial="0", registry_url="https://r", serving_model="assistant",
        models_dir=tmp_path / "models", runtime_dir=tmp_path / "runtime", configuration_dir=tmp_path / "configuration",
    )  # fmt: skip


def test_a_process_of_another_runtime_than_the_confirmed_one_is_outdated(config: DeviceConfig) -> None:
    home = config.runtime_dir
    assert not outdated(config, home / "1"), "nothing is confirmed: a device of before"
    links.point(home, CONFIRMED, "1")
    assert not outdated(config, home / "1")
    assert outdated(config, home / "2")
    assert not outdated(config, Path("/usr")), "no runtime of this device"
    links.point(home, links.CURRENT, "2")
    assert not outdated(config, home / "1"), "an unconfirmed runtime takes over"


def test_each_kind_has_its_place(config: DeviceConfig) -> None:
    assert slot_home(config, Change("model", "runtime", "1.0.0")) == config.models_dir / "runtime"
    assert slot_home(config, Change.of("runtime", "1")) == config.runtime_dir
    assert slot_home(config, Change.of("configuration", "1")) == config.configuration_dir
    assert identity(config) == {"fleet": "f", "site": "s", "host": "h", "serial": "0", "model": "assistant"}
