from __future__ import annotations

import io
import tarfile
from dataclasses import replace

import pytest

from hedgerow.emulator import image
from hedgerow.emulator.archive import repository, suites

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


def test_a_guest_file_or_a_package_does_not_build_debian_again(monkeypatch: pytest.MonkeyPatch) -> None:
    before = RECIPE.digest()
    assert replace(RECIPE, overlay={"etc/x": (b"2", False)}).base_digest() == RECIPE.base_digest()
    monkeypatch.setattr(repository, "digest", lambda: "another archive")
    assert RECIPE.digest() != before
    certificate = {f"{image.MACHINE_CERTIFICATES.relative_to('/')}/x.crt": (b"1", False)}
    assert replace(RECIPE, overlay=certificate).base_digest() != RECIPE.base_digest()


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
    assert not [name for name in suites.BASE if "hailo" in name or "dkms" in name]


def test_the_source_is_raspberry_pis_but_for_its_place() -> None:
    data, _ = image.recipe().overlay["etc/apt/sources.list.d/raspi.sources"]
    fields = dict(line.split(": ") for line in data.decode().splitlines() if not line.startswith("#"))
    assert fields == {
        "Types": "deb",
        "URIs": f"file:/{repository.FOLDER}/",
        "Suites": "trixie",
        "Components": "main",
        "Signed-By": f"/{repository.KEYRING}",
    }


def test_cmdline_is_one_line() -> None:
    data, _ = image.recipe().overlay["boot/firmware/cmdline.txt"]
    assert data.count(b"\n") == 1
