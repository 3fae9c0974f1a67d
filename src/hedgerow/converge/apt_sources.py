"""From the inventory's list of archives to files below ``/etc/apt``: deb822 sources, each with a key of its own.

The device's own sources stay. Ours are called ``hedgerow-<name>``; one that left the list is removed with its key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hedgerow.errors import UsageError

PREFIX = "hedgerow-"
SOURCES = "/etc/apt/sources.list.d"
KEYS = "/etc/apt/keyrings"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_KEY_SUFFIXES = (".asc", ".gpg", ".pgp")
_URI = re.compile(r"(?:https?|file|copy|mirror\+https?)://?\S+")
# apt's own words: reading the targets parses the file and asks no network.
_VALIDATE = "apt-get indextargets -o Dir::Etc::SourceList=%s -o Dir::Etc::SourceParts=/dev/null"


def files(sources: Sequence[Mapping[str, Any]], folder: str, present: Sequence[str]) -> list[dict[str, Any]]:
    """Entries for ``hedgerow_files``.

    ``folder`` is where relative paths of key files begin, ``present`` the source files that the host has.

    Raises:
        UsageError: a name, URL or key that cannot be.
    """
    found: list[dict[str, Any]] = []
    for source in sources:
        key = _key(source, folder)
        placed = f"{KEYS}/{PREFIX}{source['name']}{key.suffix}"
        found += [
            {"file": str(key), "dest": placed},
            {"content": text(source, placed), "dest": f"{SOURCES}/{_file(source['name'])}", "validate": _VALIDATE},
        ]
    wanted = {_file(source["name"]) for source in sources}
    for name in present:
        if name.startswith(PREFIX) and name not in wanted:
            stem = name.removesuffix(".sources")
            found += [{"absent": f"{SOURCES}/{name}"}, *({"absent": f"{KEYS}/{stem}{end}"} for end in _KEY_SUFFIXES)]
    return found


def text(source: Mapping[str, Any], key: str) -> str:
    """The source in deb822 (sources.list(5))."""
    fields = {
        "Types": "deb",
        "URIs": " ".join(source["uris"]),
        "Suites": " ".join(source["suites"]),
        "Components": " ".join(source.get("components") or []),
        "Architectures": " ".join(source.get("architectures") or []),
        "Signed-By": key,
    }
    lines = [f"{name}: {value}\n" for name, value in fields.items() if value]
    return "# Written by Hedgerow (role os_pinning); changes here are overwritten.\n" + "".join(lines)


def _file(name: str) -> str:
    return f"{PREFIX}{name}.sources"


def _key(source: Mapping[str, Any], folder: str) -> Path:
    where = f"os_pinning_sources: {source['name']}"
    if not _NAME.fullmatch(source["name"]):
        raise UsageError(
            f"{source['name']!r} is no name of a source", where=where, next_step="lower-case letters, digits, -"
        )
    for uri in source["uris"]:
        if "@" in uri.partition("//")[2].partition("/")[0]:
            raise UsageError(
                "a password stands in the URL of an archive, where every user of the host would read it",
                where=where,
                next_step="write it to /etc/apt/auth.conf.d on the hosts (apt_auth.conf(5))",
            )
        if not _URI.fullmatch(uri):
            raise UsageError(f"{uri!r} is no URL of an archive", where=where, next_step="https://HOST/PATH")
    key = Path(folder) / str(source["key"])
    if key.suffix not in _KEY_SUFFIXES or not key.is_file():
        raise UsageError(
            f"the archive's key {source['key']} is not there, or not named {', '.join(_KEY_SUFFIXES)}",
            where=where,
            next_step=f"put the public key at {key}: .asc if it is text, else .gpg or .pgp",
        )
    return key
