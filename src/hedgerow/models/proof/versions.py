"""Whether an OSV entry names a version, compared as the ecosystem compares its own (https://ossf.github.io/osv-schema/)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from hedgerow.models.proof.component import PYPI

# apk-package(5) sorts these behind the release, as Gentoo does ``_p``, which univers knows.
_AFTER_RELEASE: Final = re.compile(r"_(cvs|svn|git|hg)(?=\d|$|[-_])")


def affects(entry: dict[str, Any], version: str, ecosystem: str = PYPI) -> bool:
    """Whether an ``affected`` entry names ``version``, by its list or by its ranges.

    A version that cannot be compared counts as affected: nothing is passed because it was not understood.
    """
    if version in entry.get("versions", []):
        return True
    try:
        read = _reader(ecosystem)
        ours = read(version)
        if any(ours == other for other in map(partial(_read_or_none, read), entry.get("versions", []))):
            return True
        ranges = [each for each in entry.get("ranges", []) if each.get("type") == "ECOSYSTEM"]
        return any(_within(ours, each.get("events", []), read) for each in ranges)
    except ValueError:  # the libraries' InvalidVersion
        return True


def _reader(ecosystem: str) -> Callable[[str], Any]:
    """What makes a comparable version of a text; raises ValueError where it is none."""
    family = ecosystem.partition(":")[0]
    if family == PYPI:
        from packaging.version import Version

        return Version
    from univers.versions import AlpineLinuxVersion, DebianVersion

    if family in {"Debian", "Ubuntu"}:
        return DebianVersion
    if family == "Alpine":
        return lambda text: AlpineLinuxVersion(_AFTER_RELEASE.sub("_p", text))
    raise ValueError(f"{ecosystem} has no known order of versions")


def _read_or_none(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError:
        return None


def _within(ours: Any, events: list[dict[str, str]], read: Callable[[str], Any]) -> bool:
    """OSV's evaluation of a range: the events in order, the last one that is not after ``ours`` decides.

    Asked by ``<`` and ``==`` alone: univers 32 compares texts where Alpine's versions are asked by ``>=``.
    """
    points = []
    inside = False
    for event in events:
        for kind, text in event.items():
            if kind == "introduced" and text == "0":  # before all others, whatever their order
                inside = True
            elif kind in {"introduced", "fixed", "last_affected"}:
                points.append((read(text), kind))
    for point, kind in sorted(points, key=lambda each: (each[0], each[1] != "fixed")):
        if kind == "introduced" and not ours < point:
            inside = True
        elif (kind == "fixed" and not ours < point) or (kind == "last_affected" and point < ours):
            inside = False
    return inside
