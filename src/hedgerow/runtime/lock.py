"""Locks with hashes, narrowed to one target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from packaging.requirements import InvalidRequirement, Requirement

from hedgerow.errors import UsageError
from hedgerow.runtime.target import Target


@dataclass(frozen=True, slots=True)
class Locked:
    """One package: ``name==version`` and the sha256 sums of the files that may stand for it."""

    requirement: str
    hashes: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.requirement.partition("==")[0]

    def line(self) -> str:
        """The line of a requirements file that pip takes under ``--require-hashes``."""
        return " ".join([self.requirement, *(f"--hash={digest}" for digest in self.hashes)])


def parse(text: str, target: Target, *, where: str) -> list[Locked]:
    """The packages of a requirements file that ``target`` installs, without markers.

    Markers are evaluated for the target: pip evaluates them for the Python that
    runs it, which on a controller is another one.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        stripped = line.partition("#")[0].strip()
        if not stripped:
            continue
        words = stripped.split("--hash=")
        try:
            requirement = Requirement(words[0].strip())
        except InvalidRequirement as error:
            raise UsageError(f"not a requirement: {error}", where=where, next_step="make lock") from error
        if requirement.marker is not None and not requirement.marker.evaluate(target.marker_environment):
            continue
        hashes = tuple(word.strip() for word in words[1:])
        pinned = [spec for spec in requirement.specifier if spec.operator == "=="]
        if not hashes or not pinned:
            raise UsageError(
                f"{requirement.name} is not locked to one version with hashes", where=where, next_step="make lock"
            )
        found.append(Locked(f"{requirement.name}{requirement.specifier}", hashes))
    return found


def union(locks: Mapping[str, Sequence[Locked]]) -> list[Locked]:
    """All packages of several locks (file → its packages), each once, in the order of the first that has it.

    Raises:
        UsageError: they do not agree on one.
    """
    found: dict[str, Locked] = {}
    for where, packages in locks.items():
        for each in packages:
            if (other := found.setdefault(each.name, each)) != each:
                raise UsageError(
                    f"{each.requirement} here is {other.requirement}, or has other hashes, in another lock",
                    where=where,
                    next_step="make lock",
                )
    return list(found.values())
