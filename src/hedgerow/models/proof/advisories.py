"""Known vulnerabilities, from a copy of the OSV database on this machine. No network.

The format is OSV's (https://ossf.github.io/osv-schema/): a folder of JSON files or the ``all.zip`` that OSV publishes
for an ecosystem. Versions are compared as Python does (packaging.python.org, "Version specifiers").
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

from hedgerow.errors import UsageError
from hedgerow.models.proof.contents import Component, normalized

_ECOSYSTEM: Final = "PyPI"
_MAX_ADVISORY: Final = 16 * 1024 * 1024


@dataclass(frozen=True)
class Match:
    """An advisory that speaks of a component's version."""

    id: str
    aliases: tuple[str, ...]
    summary: str
    severity: str | None
    fixed: tuple[str, ...]


@dataclass(frozen=True)
class Database:
    """``newest``: date of the youngest change in it; ``count`` of all advisories read, of whatever package."""

    by_package: dict[str, list[dict[str, Any]]]
    count: int
    newest: date

    def matches(self, component: Component) -> list[Match]:
        """Every advisory that names this version, by its identifier."""
        assert component.package is not None  # noqa: S101 -- Contents.packages
        assert component.version is not None  # noqa: S101 -- same
        found = {}
        for advisory in self.by_package.get(component.package, []):
            entries = [each for each in advisory["affected"] if _is_about(each, component.package)]
            if any(affects(each, component.version) for each in entries):
                found[advisory["id"]] = _match(advisory, entries)
        return [found[name] for name in sorted(found)]


def load(place: Path, packages: Iterable[str]) -> Database:
    """Read the advisories about ``packages`` (normalized names).

    Raises:
        UsageError: nothing there, or no advisory in it: an empty database would find nothing wrong with anything.
    """
    wanted = set(packages)
    by_package: dict[str, list[dict[str, Any]]] = {}
    count, newest = 0, date.min
    for name, data in _documents(place):
        try:
            advisory = json.loads(data)
            changed = date.fromisoformat(advisory["modified"][:10])
            affected = advisory.get("affected", [])
            names = {normalized(each["package"]["name"]) for each in affected if _is_python(each)}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{name} is no OSV advisory: {error!r}", where=str(place), next_step=_HOW) from error
        count, newest = count + 1, max(newest, changed)
        if advisory.get("withdrawn") is None:
            for package in names & wanted:
                by_package.setdefault(package, []).append(advisory)
    if not count:
        raise UsageError("no advisory here", where=str(place), next_step=_HOW)
    return Database(by_package, count, newest)


def affects(entry: dict[str, Any], version: str) -> bool:
    """Whether an ``affected`` entry names ``version``, by its list or by its ranges.

    A version that cannot be compared counts as affected: nothing is passed because it was not understood.
    """
    from packaging.version import InvalidVersion, Version

    if version in entry.get("versions", []):
        return True
    try:
        ours = Version(version)
        listed = {Version(each) for each in entry.get("versions", []) if _is_version(each)}
        if ours in listed:
            return True
        ranges = [each for each in entry.get("ranges", []) if each.get("type") == "ECOSYSTEM"]
        return any(_within(ours, each.get("events", [])) for each in ranges)
    except InvalidVersion:
        return True


def _within(ours: Any, events: list[dict[str, str]]) -> bool:
    """OSV's evaluation of a range: the events in order, the last one that is not after ``ours`` decides."""
    from packaging.version import Version

    points = []
    for event in events:
        for kind, text in event.items():
            if kind in {"introduced", "fixed", "last_affected"}:
                points.append((Version("0.dev0") if text == "0" else Version(text), kind))
    inside = False
    for point, kind in sorted(points, key=lambda each: (each[0], each[1] != "fixed")):
        if kind == "introduced" and ours >= point:
            inside = True
        elif (kind == "fixed" and ours >= point) or (kind == "last_affected" and ours > point):
            inside = False
    return inside


def _is_version(text: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        Version(text)
    except InvalidVersion:
        return False
    return True


def _is_python(entry: dict[str, Any]) -> bool:
    return bool(entry.get("package", {}).get("ecosystem") == _ECOSYSTEM)


def _is_about(entry: dict[str, Any], package: str) -> bool:
    return _is_python(entry) and normalized(entry["package"]["name"]) == package


def _match(advisory: dict[str, Any], entries: list[dict[str, Any]]) -> Match:
    fixed = [
        event["fixed"]
        for entry in entries
        for each in entry.get("ranges", [])
        if each.get("type") == "ECOSYSTEM"
        for event in each.get("events", [])
        if "fixed" in event
    ]
    scores = [each.get("score", "") for each in advisory.get("severity", [])]
    severity = advisory.get("database_specific", {}).get("severity") or next(iter(scores), None)
    summary = advisory.get("summary") or advisory.get("details", "").partition("\n")[0]
    aliases = tuple(sorted(advisory.get("aliases", [])))
    return Match(advisory["id"], aliases, summary[:200], severity, tuple(dict.fromkeys(fixed)))


def _documents(place: Path) -> Iterator[tuple[str, bytes]]:
    try:
        if place.is_dir():
            for path in sorted(place.rglob("*.json")):
                yield path.name, path.read_bytes()
            return
        with zipfile.ZipFile(place) as archive:
            for member in sorted(archive.infolist(), key=lambda each: each.filename):
                if member.filename.endswith(".json") and member.file_size <= _MAX_ADVISORY:
                    yield member.filename, archive.read(member)
    except (OSError, zipfile.BadZipFile) as error:
        raise UsageError(f"no advisories here: {error}", where=str(place), next_step=_HOW) from error


_HOW: Final = "give --advisories a folder of OSV files, or OSV's all.zip for PyPI (docs/proving-models.md)"
