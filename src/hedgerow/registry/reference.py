"""``NAME@VERSION``: how commands name a bundle, and how versions sort."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hedgerow.errors import UsageError
from hedgerow.registry.manifest import FILE_NAME, is_name, is_version


@dataclass(frozen=True)
class Reference:
    """One version of one bundle."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"

    @property
    def target(self) -> str:
        """The bundle's target path in the TUF metadata."""
        return f"models/{self.name}/{self.version}/{FILE_NAME}"

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read ``name@version``.

        Raises:
            UsageError: not of that form.
        """
        name, separator, version = text.partition("@")
        if not separator or not is_name(name) or not is_version(version):
            raise UsageError(
                f"{text!r} is not NAME@VERSION",
                next_step="write it like assistant@1.0.0 (name in lower case, a semantic version)",
            )
        return cls(name, version)

    @classmethod
    def of_target(cls, path: str) -> Reference | None:
        """Return what a TUF target path names; None for a target that is no bundle."""
        match path.split("/"):
            case ["models", name, version, last] if last == FILE_NAME and is_name(name) and is_version(version):
                return cls(name, version)
        return None


def version_key(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """Sort key with the precedence of Semantic Versioning 2.0.0 (section 11)."""
    core, _, pre = version.partition("-")
    parts = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part if not part.isdigit() else "")
        for part in re.split(r"\.", pre)
        if part
    )
    return tuple(int(number) for number in core.split(".")), not parts, parts
