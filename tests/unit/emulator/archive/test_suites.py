"""What the archive promises to roles: names, versions and relations of facts §1.4 and §3.2."""

from __future__ import annotations

import re

import pytest

from hedgerow.emulator.archive import kernel
from hedgerow.emulator.archive.build import StandIn
from hedgerow.emulator.archive.suites import BASE, SUITES

TRIXIE = {f"{package.name}={package.version}": package for package in SUITES["trixie"].packages}


def depends(package: StandIn) -> list[tuple[str, str | None]]:
    words = [word.strip() for word in package.relations.get("Depends", "").split(",") if word.strip()]
    return [(found[1], found[2]) for word in words if (found := re.fullmatch(r"(\S+)(?: \(= (\S+)\))?", word))]


def test_what_an_image_installs_is_there() -> None:
    assert set(BASE) <= set(TRIXIE)


@pytest.mark.parametrize("codename", SUITES)
def test_dependencies_are_there_in_the_version_that_is_asked_for(codename: str) -> None:
    packages = [*SUITES["trixie"].packages, *SUITES[codename].packages]
    debian = {"kmod", "python3"}
    for package in SUITES[codename].packages:
        for name, version in depends(package):
            found = [other.version for other in packages if other.name == name]
            assert name in debian or (version in found if version else found), f"{package.name} wants {name} {version}"


@pytest.mark.parametrize("version", ["6.18.34", "6.18.50"])
@pytest.mark.parametrize("flavour", ["rpi-2712", "rpi-v8"])
def test_both_kernels_of_both_flavours_are_installable_by_version(version: str, flavour: str) -> None:
    deb = f"1:{version}-1+rpt1"
    for kind in ("image", "headers"):
        meta = TRIXIE[f"linux-{kind}-{flavour}={deb}"]
        assert depends(meta) == [(f"linux-{kind}-{version}+rpt-{flavour}", deb)]
    headers = dict(depends(TRIXIE[f"linux-headers-{version}+rpt-{flavour}={deb}"]))
    assert set(headers) == {f"linux-headers-{version}+rpt-common-rpi", f"linux-kbuild-{version}+rpt"}


def test_a_package_and_version_is_defined_once() -> None:
    names = [f"{package.name}={package.version}" for suite in SUITES.values() for package in suite.packages]
    assert len(names) == len(set(names))


def test_the_next_suite_has_a_newer_kernel() -> None:
    newest = max(kernel.VERSIONS, key=lambda version: tuple(map(int, version.split("."))))
    assert all(tuple(map(int, later.split("."))) > tuple(map(int, newest.split("."))) for later in kernel.NEXT_VERSIONS)
