"""Known vulnerabilities, from a copy of the OSV database on this machine. No network.

The format is OSV's (https://ossf.github.io/osv-schema/): folders of JSON files, or the ``all.zip`` that OSV publishes
for an ecosystem.
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
from hedgerow.models.proof import versions
from hedgerow.models.proof.component import PYPI, Component, normalized

Package = tuple[str, str]
"""Ecosystem and name, as OSV writes them."""

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
    """``newest``: date of the youngest change in it; ``count`` of all advisories read, of whatever package.

    ``ecosystems``: those that it speaks of. What is of another one was not looked up.
    """

    by_package: dict[Package, list[dict[str, Any]]]
    ecosystems: frozenset[str]
    count: int
    newest: date

    def matches(self, component: Component) -> list[Match]:
        """Every advisory that names this version, by its identifier."""
        package, version = package_of(component), component.source_version or component.version
        if package is None or version is None:
            return []
        found = {}
        for advisory in self.by_package.get(package, []):
            entries = [each for each in advisory["affected"] if _spoken_of(each) == package]
            if any(versions.affects(each, version, package[0]) for each in entries):
                found[advisory["id"]] = _match(advisory, entries)
        return [found[name] for name in sorted(found)]


def package_of(component: Component) -> Package | None:
    """What advisories would call it; None where none of them can."""
    if component.package is None or component.ecosystem is None:
        return None
    return component.ecosystem, component.package


def load(places: Iterable[Path], packages: Iterable[Package]) -> Database:
    """Read the advisories about ``packages`` from folders and archives.

    Raises:
        UsageError: nothing there, or no advisory in it: an empty database would find nothing wrong with anything.
    """
    wanted = set(packages)
    by_package: dict[Package, list[dict[str, Any]]] = {}
    ecosystems: set[str] = set()
    count, newest = 0, date.min
    for place in places:
        before = count
        for name, data in _documents(place):
            try:
                advisory = json.loads(data)
                changed = date.fromisoformat(advisory["modified"][:10])
                named = {each for each in map(_spoken_of, advisory.get("affected", [])) if each is not None}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(f"{name} is no OSV advisory: {error!r}", where=str(place), next_step=_HOW) from error
            count, newest = count + 1, max(newest, changed)
            ecosystems |= {ecosystem for ecosystem, _ in named}
            if advisory.get("withdrawn") is None:
                for package in named & wanted:
                    by_package.setdefault(package, []).append(advisory)
        if count == before:
            raise UsageError("no advisory here", where=str(place), next_step=_HOW)
    return Database(by_package, frozenset(ecosystems), count, newest)


def _spoken_of(entry: dict[str, Any]) -> Package | None:
    package = entry.get("package") or {}
    ecosystem, name = package.get("ecosystem"), package.get("name")
    if not isinstance(ecosystem, str) or not isinstance(name, str):
        return None
    return ecosystem, normalized(name) if ecosystem == PYPI else name


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
    # Distributions name what they took over from elsewhere as upstream, not as an alias.
    aliases = tuple(sorted({*advisory.get("aliases", []), *advisory.get("upstream", [])}))
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


_HOW: Final = "give --advisories a folder of OSV files, or an ecosystem's all.zip of OSV's (docs/proving-models.md)"
