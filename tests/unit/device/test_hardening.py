from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from hedgerow.device import hardening
from hedgerow.device.hardening import HardeningError

EFFECTIVE = "port 22\npasswordauthentication no\nallowusers admin\nallowusers second\nloglevel VERBOSE\n"


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, str]]:
    """What programs answer, by their last word or first two; /proc/sys and the note are files here."""
    said = {"sshd -T": (0, EFFECTIVE), "sshd -t": (0, ""), "nft --stateless": (0, "table inet hedgerow {}")}

    def run(command: list[str]) -> tuple[int, str]:
        return said[f"{Path(command[0]).name} {command[1]}"]

    monkeypatch.setattr(hardening, "_run", run)
    monkeypatch.setattr(hardening, "PROC_SYS", tmp_path / "sys")
    monkeypatch.setattr(hardening, "RULESET_NOTE", tmp_path / "note/ruleset.sha256")
    return said


def sshd(**wanted: str) -> dict[str, Any]:
    return {"user": "admin", "address": "10.0.0.1", "wanted": wanted}


def test_sshd_does_what_the_file_says(programs: dict[str, Any]) -> None:
    wanted = sshd(PasswordAuthentication="no", AllowUsers="admin second", LogLevel="VERBOSE")
    assert hardening.judge_sshd(**wanted) == {"changed": False}


def test_another_file_that_decides_is_found_before_sshd_is_reloaded(programs: dict[str, Any]) -> None:
    programs["sshd -T"] = (0, EFFECTIVE.replace("authentication no", "authentication yes"))
    with pytest.raises(HardeningError, match="PasswordAuthentication is yes, our file says no"):
        hardening.judge_sshd(**sshd(PasswordAuthentication="no"))


def test_the_whole_configuration_is_sshd_s_to_judge(programs: dict[str, Any]) -> None:
    programs["sshd -t"] = (255, "/etc/ssh/sshd_config.d/50-x.conf: line 1: Bad configuration option: Foo")
    with pytest.raises(HardeningError, match="Bad configuration option: Foo"):
        hardening.judge_sshd(**sshd())


def test_a_keyword_that_sshd_does_not_print_is_a_difference() -> None:
    assert hardening.effective_problems({}, {"AllowUsers": "admin"}) == ["AllowUsers is unknown, our file says admin"]


def test_kernel_settings_are_compared_by_words_and_missing_ones_are_told(
    tmp_path: Path, programs: dict[str, Any]
) -> None:
    for key, text in {"a/b": "1\n", "a/c": "4\t8  16\n"}.items():
        path = tmp_path / "sys" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    hardening.note_ruleset()
    found = hardening.probe(sysctls={"a.b": "0", "a.c": "4 8 16", "a.d": "1"}, firewall=True, sshd=sshd())
    assert found == {"differs": {"sysctl": ["a.b is 1, not 0"]}, "absent": ["a.d"]}


@pytest.mark.parametrize(
    "wanted,loaded,text",
    [
        (True, None, "it is not loaded"),
        (False, "x", "it is loaded"),
        (True, "changed", "not the ones"),
        (False, None, None),
    ],
)
def test_a_ruleset_that_is_not_the_one_that_was_applied_is_seen(
    programs: dict[str, Any], wanted: Any, loaded: str | None, text: str | None
) -> None:
    hardening.note_ruleset()
    programs["nft --stateless"] = (1, "No such file") if loaded is None else (0, loaded)
    found = hardening.probe(sysctls={}, firewall=wanted, sshd=sshd())["differs"].get("firewall", [None])[0]
    assert (found is None) == (text is None)
    assert text is None or text in found


def test_the_note_is_of_the_rules_without_counters(tmp_path: Path, programs: dict[str, Any]) -> None:
    hardening.note_ruleset()
    assert (tmp_path / "note/ruleset.sha256").read_text() == hashlib.sha256(b"table inet hedgerow {}").hexdigest()


def test_a_unit_that_cannot_be_masked_is_no_success(programs: dict[str, Any]) -> None:
    programs["systemctl mask"] = (1, "Failed to mask unit")
    with pytest.raises(HardeningError, match="Failed to mask"):
        hardening.mask(["cups.service"])
