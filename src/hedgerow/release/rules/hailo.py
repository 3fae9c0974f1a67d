"""The HAT's set: driver, library, firmware, packages."""

from __future__ import annotations

from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status
from hedgerow.release.rules.sets import sets
from hedgerow.release.versions import numbers, upstream


def _three_versions(of: Combination) -> Iterator[str]:
    for chip, pin, _ in sets(of):
        versions = {"driver": pin.driver, "library": pin.library, "firmware": pin.firmware}
        if len({version for version in versions.values() if version is not None}) > 1:
            listed = ", ".join(f"{name} {version}" for name, version in versions.items())
            yield f"{chip.row}: {listed}"


def _packages_agree(of: Combination) -> Iterator[str]:
    for chip, pin, _ in sets(of):
        for names, member, wanted in (
            (chip.library, "library", pin.library),
            (chip.driver, "driver", pin.driver),
        ):
            carried = {name: pin.packages[name] for name in names if name in pin.packages}
            if wanted is not None and not carried:
                yield f"{chip.row}.packages: none of {', '.join(names)} is named, {member} is {wanted}"
            for name, version in carried.items():
                if wanted is not None and upstream(version) != wanted:
                    yield f"{chip.row}.packages.{name} is {version}, {member} is {wanted}"


def _set_of_the_chip(of: Combination) -> Iterator[str]:
    for chip, pin, hosts in sets(of):
        for version in {pin.driver, pin.library} - {None}:
            if numbers(str(version))[:1] != (chip.major,):
                yield f"{chip.row}: {version} is not of {chip.major}.x, which {hosts[0]} needs"


def _wrong_packages(of: Combination) -> Iterator[str]:
    for chip, pin, _ in sets(of):
        wrong = "hailo-all" if chip.row == "hailo_10h" else "hailo-h10-all"
        if wrong in pin.packages:
            yield f"{chip.row}.packages.{wrong} is the other NPU's metapackage"


def _set_is_pinned(of: Combination) -> Iterator[str]:
    for chip, pin, hosts in sets(of):
        if pin.driver is None or pin.library is None or not pin.packages:
            yield f"{chip.row} pins nothing, and {', '.join(hosts)} have the HAT"


def _archive_version(of: Combination) -> Iterator[str]:
    for chip, pin, _ in sets(of):
        shipped = known.ARCHIVE[chip.row]
        if pin.driver is not None and pin.driver != shipped and pin.driver in known.SEEN[chip.row]:
            yield f"{chip.row}.driver is {pin.driver}, the archive ships {shipped}"


def _unknown_version(of: Combination) -> Iterator[str]:
    for chip, pin, _ in sets(of):
        if pin.driver is not None and pin.driver not in known.SEEN[chip.row]:
            yield f"{chip.row}.driver {pin.driver} is none of {', '.join(known.SEEN[chip.row])}"


RULES: tuple[Rule, ...] = (
    Rule(
        "hailo-one-version",
        "Driver, library and firmware of a HAT must be equal in major, minor and revision, or every call fails.",
        "§3.4, F1, F2",
        Status.FORBIDDEN,
        _three_versions,
    ),
    Rule(
        "hailo-packages",
        "The packages of a set must carry the very versions that the set names.",
        "§3.2, F1",
        Status.FORBIDDEN,
        _packages_agree,
    ),
    Rule(
        "hailo-chip",
        "Hailo-10H takes 5.x alone, Hailo-8 and 8L take 4.x alone.",
        "§3.1, §3.2, F5",
        Status.FORBIDDEN,
        _set_of_the_chip,
    ),
    Rule(
        "hailo-wrong-stack",
        "hailo-all is Hailo-8's metapackage and hailo-h10-all is Hailo-10H's, although both are called 5.1.1.",
        "§3.2, F5",
        Status.FORBIDDEN,
        _wrong_packages,
    ),
    Rule(
        "hailo-pinned",
        "A HAT whose set is not pinned loses its driver with some upgrade.",
        "§1.4, F1, F6",
        Status.UNVERIFIED,
        _set_is_pinned,
    ),
    Rule(
        "hailo-archive",
        "What Raspberry Pi's archive ships is the known-good lane; any other version is one's own to test.",
        "§3.4",
        Status.OPT_IN,
        _archive_version,
    ),
    Rule(
        "hailo-known",
        "A version of the HAT's stack that nobody is known to have run on these boards.",
        "§3.2, §3.4",
        Status.UNVERIFIED,
        _unknown_version,
    ),
)
