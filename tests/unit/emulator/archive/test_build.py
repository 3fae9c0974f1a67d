from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from hedgerow.emulator.archive.build import File, Link, StandIn, build, text
from hedgerow.errors import MachineError

PACKAGE = StandIn(
    "raspi-something",
    "1:2.3-1+rpt1",
    relations={"Depends": "kmod", "Conflicts": "other"},
    files={"etc/thing": text("x\n"), "usr/bin/thing": text("#!/bin/sh\n", 0o755), "usr/lib/link": Link("/etc/thing")},
    scripts={"postinst": "#!/bin/sh\nexit 0\n"},
)


def field(file: Path, name: str) -> str:
    return subprocess.run(
        ["dpkg-deb", "-f", str(file), name], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_package_says_what_it_was_told_to(tmp_path: Path) -> None:
    file = build(PACKAGE, tmp_path, "amd64")
    assert file.name == "raspi-something_2.3-1+rpt1_amd64.deb"
    assert field(file, "Version") == "1:2.3-1+rpt1"
    assert (field(file, "Architecture"), field(file, "Depends"), field(file, "Conflicts")) == ("amd64", "kmod", "other")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_files_have_their_modes_and_roots_ownership(tmp_path: Path) -> None:
    file = build(PACKAGE, tmp_path, "amd64")
    tar = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(file)], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        members = {member.name.removeprefix("./"): member for member in archive}
    assert (members["usr/bin/thing"].mode, members["etc/thing"].mode, members["usr"].mode) == (0o755, 0o644, 0o755)
    assert members["usr/lib/link"].linkname == "/etc/thing"
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}


def test_what_an_administrator_may_change_is_a_conffile(tmp_path: Path) -> None:
    file = build(PACKAGE, tmp_path, "amd64")
    assert subprocess.run(
        ["dpkg-deb", "-I", str(file), "conffiles"], capture_output=True, text=True, check=True
    ).stdout.split() == ["/etc/thing"]


def test_the_same_definition_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    assert build(PACKAGE, first, "amd64").read_bytes() == build(PACKAGE, second, "amd64").read_bytes()


def test_arm64_is_the_guests_own_and_all_is_all() -> None:
    assert PACKAGE.filename("amd64").endswith("_amd64.deb")
    assert replace(PACKAGE, architecture="all").filename("amd64").endswith("_all.deb")


@pytest.mark.parametrize(
    "other",
    [
        replace(PACKAGE, version="1:2.4-1"),
        replace(PACKAGE, relations={}),
        replace(PACKAGE, files={**PACKAGE.files, "etc/thing": File(b"y\n")}),
        replace(PACKAGE, files={**PACKAGE.files, "etc/thing": File(b"x\n", 0o600)}),
        replace(PACKAGE, files={**PACKAGE.files, "usr/lib/link": Link("/etc/other")}),
        replace(PACKAGE, scripts={}),
    ],
)
def test_every_part_counts_as_an_input(other: StandIn) -> None:
    assert other.inputs() != PACKAGE.inputs()


def test_a_package_that_dpkg_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as error:
        build(replace(PACKAGE, version="not a version"), tmp_path, "amd64")
    assert error.value.where == "raspi-something"
