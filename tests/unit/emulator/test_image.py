from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest

from hedgerow.emulator import image, standins

RECIPE = image.Recipe({"etc/x": (b"1", False)}, {"Acquire::Check-Date": "false"}, "amd64")


@pytest.mark.parametrize(
    "other",
    [
        replace(RECIPE, overlay={"etc/x": (b"2", False)}),
        replace(RECIPE, overlay={"etc/x": (b"1", True)}),
        replace(RECIPE, overlay={"etc/y": (b"1", False)}),
        replace(RECIPE, apt_options={}),
        replace(RECIPE, architecture="arm64"),
    ],
)
def test_every_input_changes_the_name(other: image.Recipe) -> None:
    assert other.digest() != RECIPE.digest()


def test_the_recipe_itself_changes_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.digest()
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "vim"))
    assert RECIPE.digest() != before


def test_overlay_is_roots_programs_run_and_units_are_masked() -> None:
    with tarfile.open(fileobj=io.BytesIO(image.overlay_archive(image.recipe()))) as archive:
        members = {member.name: member for member in archive}
    assert members["usr/bin/vcgencmd"].mode == 0o755
    assert members["etc/sudoers.d/010_pi-nopasswd"].mode == 0o440
    assert members["boot/firmware/config.txt"].mode == 0o644
    assert {member.uid for member in members.values()} == {0}
    assert members["etc/systemd/system/systemd-binfmt.service"].linkname == "/dev/null"


def test_nothing_of_hailo_is_in_the_base() -> None:
    assert not [path for path in image.recipe().overlay if "hailo" in path]


def test_cmdline_is_one_line() -> None:
    data, _ = image.recipe().overlay["boot/firmware/cmdline.txt"]
    assert data.count(b"\n") == 1


def test_standin_is_a_package_with_the_real_name(tmp_path) -> None:
    package = next(package for package in standins.HAILO_10H if package.name == "h10-hailort")
    built = standins.build(package, tmp_path)
    assert built.name == "h10-hailort_5.1.1_all.deb"
    assert built.read_bytes().startswith(b"!<arch>\n")
    assert [path.name for path in tmp_path.iterdir()] == [built.name]


@pytest.mark.parametrize("packages", standins.STACKS.values())
def test_standins_depend_on_nothing_but_each_other(packages) -> None:
    names = {package.name for package in packages}
    wanted = {name.strip() for package in packages for name in package.relations.get("Depends", "").split(",") if name}
    assert wanted <= names
