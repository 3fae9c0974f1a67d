from __future__ import annotations

import json
from pathlib import Path

import pytest

from hedgerow.device import eeprom, state
from hedgerow.device.eeprom import EepromError
from hedgerow.emulator import eeprom as images

BEFORE = images.FACTORY_CONFIG
AFTER = BEFORE + "PSU_MAX_CURRENT=5000\n"
BUILD = 1779807685


class Tools:
    """The vendor's two programs, as far as `write` goes by them."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[tuple[str, ...]] = []
        self.running = BEFORE
        self.says = "EEPROM updates pending. Please reboot to apply the update.\n"
        self.spoil = False
        self.image = folder / "pieeprom-2026-05-26.bin"
        self.image.write_bytes(images.image("2026-05-26", mfg_version=1))

    def __call__(self, *argv: str) -> str:
        self.calls.append(argv)
        match argv:
            case ("rpi-eeprom-config",):
                return self.running
            case ("rpi-eeprom-config", _, "--config", config, "--out", new):
                Path(new).write_bytes(images.image("2026-05-26", config=Path(config).read_text()))
                return ""
            case ("rpi-eeprom-config", new):
                config = state.parse_image(Path(new).read_bytes())["config"]
                return config[:5] if self.spoil else config
            case ("rpi-eeprom-update", "-d", "-f", _):
                return self.says
        raise AssertionError(argv)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tools:
    tools = Tools(tmp_path)
    monkeypatch.setattr(eeprom, "_output", tools)
    monkeypatch.setattr(eeprom, "WRITTEN", tmp_path / "written.json")
    return tools


def write(tools: Tools, folder: Path, **more: object) -> dict[str, object]:
    wanted = {"image": str(tools.image), "timestamp": BUILD, "before": BEFORE, "config": AFTER, "folder": str(folder)}
    return eeprom.write(**(wanted | more))


def test_f26_the_image_is_built_and_flashed_by_name_never_applied(tools: Tools, tmp_path: Path) -> None:
    done = write(tools, tmp_path / "e")
    assert done["changed"]
    assert not done["immediate"]
    assert tools.calls[-1] == ("rpi-eeprom-update", "-d", "-f", str(tmp_path / "e/new.bin"))
    assert not any({"--apply", "--edit", "-a"} & {*call} for call in tools.calls)
    assert (tmp_path / "e/before.conf").read_text() == BEFORE
    assert not (tmp_path / "written.json").exists()


def test_an_immediate_update_leaves_a_note_until_the_next_boot(tools: Tools, tmp_path: Path) -> None:
    tools.says = "UPDATE SUCCESSFUL\n"
    assert write(tools, tmp_path / "e")["immediate"]
    assert json.loads((tmp_path / "written.json").read_text()) == {"timestamp": BUILD, "config": AFTER}


def test_f27_a_board_that_changed_since_it_was_read_is_left_alone(tools: Tools, tmp_path: Path) -> None:
    tools.running = ""
    with pytest.raises(EepromError, match="not what the facts said"):
        write(tools, tmp_path / "e")


def test_a_new_image_that_does_not_hold_what_was_asked_for_is_not_flashed(tools: Tools, tmp_path: Path) -> None:
    tools.spoil = True
    with pytest.raises(EepromError, match="does not hold"):
        write(tools, tmp_path / "e")
    assert tools.calls[-1][0] == "rpi-eeprom-config"


def test_another_build_than_decided_is_refused(tools: Tools, tmp_path: Path) -> None:
    with pytest.raises(EepromError, match="not of the build"):
        write(tools, tmp_path / "e", timestamp=BUILD + 1)


@pytest.mark.parametrize("code, meaning", [(1, "still required"), (2, "it failed"), (3, "frozen")])
def test_exit_codes_are_told_in_words(monkeypatch: pytest.MonkeyPatch, code: int, meaning: str) -> None:
    done = eeprom.subprocess.CompletedProcess([], code, "some words\n", "")
    monkeypatch.setattr(eeprom.subprocess, "run", lambda *_, **__: done)
    with pytest.raises(EepromError, match=meaning) as error:
        eeprom._output("rpi-eeprom-update", "-d", "-f", "x")
    assert error.value.where == "some words"


def test_a_host_without_the_tools_is_told_what_to_install() -> None:
    with pytest.raises(EepromError) as error:
        eeprom._output("/nonexistent/rpi-eeprom-update")
    assert error.value.next_step == "apt-get install rpi-eeprom"
