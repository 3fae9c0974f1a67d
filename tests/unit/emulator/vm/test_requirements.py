"""What a machine must have for virtual machines, and that one list says it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hedgerow.emulator.vm import checks
from hedgerow.errors import MachineError

ROOT = Path(__file__).parents[4]


def packages(profile: str) -> set[str]:
    """Packages of a section of tools/debian-packages.txt."""
    section, found = "", set()
    for line in (ROOT / "tools/debian-packages.txt").read_text().splitlines():
        word = line.split()[0] if line.split() else "#"
        if word.startswith("["):
            section = word.strip("[]")
        elif word != "#" and section == profile:
            found.add(word)
    return found


def test_the_profile_brings_every_program_and_the_rest_of_the_list_none_of_them():
    essential = {"util-linux", "dpkg", "openssh-client", "mmdebstrap", "swtpm"}  # Debian's own, or of the first part
    assert {package for package, _ in checks.PROGRAMS.values()} - essential == packages("vm")
    assert packages("vm") & packages("") == set()


def test_what_is_missing_is_named_with_its_reason_and_its_package():
    rows = checks.requirements(1000, lambda name: None if name == "swtpm" else f"/usr/bin/{name}")
    missing = [row for row in rows if not row.ok]
    assert [row.name for row in missing] == ["swtpm", "root"]
    assert checks.missing_packages(rows) == ["swtpm"]
    assert all(row.why and row.fix for row in missing)


def test_nothing_is_begun_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(checks, "find_program", lambda name: None if name == "fdtput" else "/x")
    monkeypatch.setattr(checks.os, "geteuid", lambda: 0)
    with pytest.raises(MachineError, match="fdtput: writes the Pi's device tree") as caught:
        checks.require()
    assert caught.value.next_step == "apt-get install device-tree-compiler"


def test_a_full_disk_is_said_before_anything_is_written(monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10 << 30, 10 << 30, 100 << 20))
    with pytest.raises(MachineError, match="3000 MB are needed, 100 MB are free"):
        checks.require_space(tmp_path / "not" / "there", 3000)
