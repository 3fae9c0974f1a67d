"""A part of a bundle, or what it was made with: what a bill of materials lists and advisories are asked about."""

from __future__ import annotations

import email
import re
from dataclasses import dataclass
from typing import Final, Literal

from hedgerow.errors import PublisherError

Role = Literal["inside", "source", "tool", "base"]

PYPI: Final = "PyPI"
MAX_METADATA: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Component:
    """``package`` is its name in the advisories of ``ecosystem`` (OSV's name; None where OSV has none for it).

    ``source_version`` is what these compare, where it is not ``version``. ``within`` is the archive of the bundle that
    holds it. ``url`` is its Package URL where name and version do not say it.
    """

    name: str
    role: Role
    version: str | None = None
    sha256: str | None = None
    license: str | None = None
    package: str | None = None
    ecosystem: str | None = PYPI
    source_version: str | None = None
    within: str | None = None
    url: str | None = None

    @property
    def purl(self) -> str:
        """Package URL (github.com/package-url/purl-spec)."""
        from packageurl import PackageURL

        if self.url is not None:
            return self.url
        kind = "pypi" if self.package is not None else "generic"
        qualifiers = {"checksum": f"sha256:{self.sha256}"} if kind == "generic" and self.sha256 else None
        return PackageURL(kind, name=self.package or self.name, version=self.version, qualifiers=qualifiers).to_string()


def of_metadata(text: str, *, where: str, sha256: str | None = None, within: str | None = None) -> Component:
    """A Python package, by its METADATA (packaging.python.org, "Core metadata").

    Raises:
        PublisherError: it has no name or version.
    """
    head = email.message_from_string(text)
    name, version = head.get("Name"), head.get("Version")
    if not name or not version:
        raise PublisherError("this Python package has no name or version", where=where, next_step="build it again")
    stated = head.get("License-Expression") or head.get("License")
    license_ = " ".join(stated.split())[:200] if stated and stated.strip() not in {"", "UNKNOWN"} else None
    return Component(str(name), "inside", str(version), sha256, license_, normalized(str(name)), within=within)


def normalized(name: str) -> str:
    """A package's name as indexes compare it (packaging.python.org, "Names and normalization")."""
    return re.sub(r"[-_.]+", "-", name).lower()
