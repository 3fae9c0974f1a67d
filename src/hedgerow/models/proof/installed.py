"""Packages that are installed in an archive of files: Debian's and Alpine's by their databases, Python's by metadata.

Where they stand: ``/var/lib/dpkg/status`` (``dpkg(1)``, fields in ``deb-control(5)``; images without dpkg have a folder
``status.d``), ``/lib/apk/db/installed`` (letters in ``apk-package(5)``, files behind F: and R:), and for Python
``*.dist-info/METADATA`` (packaging.python.org, "Recording installed projects"). Which distribution it is:
``os-release(5)``. Nothing is unpacked.

The names of indexes are OSV's (https://ossf.github.io/osv-schema/, "Defined ecosystems"). Distributions' advisories
speak of source packages and their versions.
"""

from __future__ import annotations

import contextlib
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import PublisherError
from hedgerow.models.proof.component import MAX_METADATA, Component, of_metadata

_RELEASES: Final = ("etc/os-release", "usr/lib/os-release")
_DPKG: Final = re.compile(r"var/lib/dpkg/(status|status\.d/[^/]+)")
_APK: Final = ("lib/apk/db/installed", "usr/lib/apk/db/installed")
_METADATA: Final = re.compile(r"(.+/)?[^/]+\.dist-info/METADATA")
# Debian's own (Debian Python Policy, "Module Path"); pip installs elsewhere. dpkg lists them, with Debian's versions.
_DEBIANS_PYTHON: Final = "usr/lib/python3/dist-packages/"
_MAX_DATABASE: Final = 64 * 1024 * 1024
_SOURCE: Final = re.compile(r"(\S+)(?: \((\S+)\))?")
_DEBIAN_NAME: Final = re.compile(r"[a-z0-9][a-z0-9+.-]*")
_ALPINE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


@dataclass(frozen=True)
class _Release:
    """``id`` and ``version`` as ``os-release(5)`` has them; ``ecosystem`` is None where OSV has none for it."""

    id: str = "linux"
    version: str = ""
    ecosystem: str | None = None


def packages(archive: Path, within: str) -> tuple[Component, ...] | None:
    """The packages in the tar file ``archive``, which is the bundle's ``within``; None where it is no such file.

    Raises:
        PublisherError: a database of packages is damaged or too large.
    """
    try:
        texts = _texts(archive, within)
    except tarfile.TarError:
        return None
    release = _release(next((texts[path] for path in _RELEASES if path in texts), ""))
    found: list[Component] = []
    owned: set[str] = set()
    for path, text in sorted(texts.items()):
        if _DPKG.fullmatch(path):
            found += [_debian(stanza, release, within) for stanza in _stanzas(text) if _is_installed(stanza)]
        elif path in _APK:
            owned |= _files(text)
            found += [_alpine(stanza, release, within) for stanza in _alpine_stanzas(text)]
    for path, text in sorted(texts.items()):
        if _METADATA.fullmatch(path) and path not in owned and not path.startswith(_DEBIANS_PYTHON):
            # What somebody else's file leaves out is among what was not looked into, and no reason to refuse the rest.
            with contextlib.suppress(PublisherError):
                found.append(of_metadata(text, where=path, within=within))
    return tuple(found)


def _texts(archive: Path, within: str) -> dict[str, str]:
    found = {}
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            path = member.name.removeprefix("./")
            known = path in _RELEASES or path in _APK or _DPKG.fullmatch(path)
            if not member.isreg() or not (known or _METADATA.fullmatch(path)):
                continue
            limit = _MAX_DATABASE if known else MAX_METADATA
            if member.size > limit:
                raise PublisherError(
                    f"{path} has {member.size} bytes; {limit} are allowed",
                    where=within,
                    next_step="build the image without it",
                )
            file = tar.extractfile(member)
            assert file is not None  # noqa: S101 -- a regular file
            found[path] = file.read().decode("utf-8", "replace")
    return found


def _release(text: str) -> _Release:
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    said = {key: value.strip().strip("\"'") for key, value in said.items()}
    name, version = said.get("ID", "linux"), said.get("VERSION_ID", "")
    match name:
        case "debian" if version:
            ecosystem = f"Debian:{version}"
        case "ubuntu" if version:
            ecosystem = f"Ubuntu:{version}" + (":LTS" if "LTS" in said.get("VERSION", "") else "")
        case "alpine" if version.count(".") >= 1:
            ecosystem = f"Alpine:v{'.'.join(version.split('.')[:2])}"
        case _:
            return _Release(name, version)
    return _Release(name, version, ecosystem)


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    """Fields of each paragraph; of those that go over several lines, the first line (``deb822(5)``)."""
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields = {}
        for line in paragraph.splitlines():
            key, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t", "#")):
                fields[key.strip().lower()] = value.strip()
        if fields:
            yield fields


def _is_installed(stanza: dict[str, str]) -> bool:
    """Images without dpkg say no status: they list what is there."""
    return stanza.get("status", "install ok installed").split()[-1] == "installed"


def _debian(stanza: dict[str, str], release: _Release, within: str) -> Component:
    name, version = stanza.get("package", ""), stanza.get("version", "")
    source = _SOURCE.match(stanza.get("source", "")) or _SOURCE.match(name)
    if not _DEBIAN_NAME.fullmatch(name) or not version or source is None:
        raise _damaged(within, "dpkg", name)
    return Component(
        name, "inside", version, package=source[1], ecosystem=release.ecosystem,
        source_version=source[2] or version, within=within,
        url=_url("deb", release, name, version, stanza.get("architecture")),
    )  # fmt: skip


def _alpine_stanzas(text: str) -> Iterator[dict[str, str]]:
    for paragraph in text.split("\n\n"):
        # Keys are one letter and tell case apart; files come behind the first folder (F:).
        head = re.split(r"^F:", paragraph, maxsplit=1, flags=re.MULTILINE)[0]
        fields = dict(line.split(":", 1) for line in head.splitlines() if line[1:2] == ":")
        if fields:
            yield fields


def _files(text: str) -> set[str]:
    """Paths of the files that Alpine's packages brought."""
    found, folder = set(), ""
    for line in text.splitlines():
        if line.startswith("F:"):
            folder = line[2:]
        elif line.startswith("R:"):
            found.add(f"{folder}/{line[2:]}".lstrip("/"))
    return found


def _alpine(stanza: dict[str, str], release: _Release, within: str) -> Component:
    name, version = stanza.get("P", ""), stanza.get("V", "")
    if not _ALPINE_NAME.fullmatch(name) or not version:
        raise _damaged(within, "apk", name)
    return Component(
        name, "inside", version, license=stanza.get("L") or None, package=stanza.get("o") or name,
        ecosystem=release.ecosystem, within=within, url=_url("apk", release, name, version, stanza.get("A")),
    )  # fmt: skip


def _url(kind: str, release: _Release, name: str, version: str, architecture: str | None) -> str:
    """Package URL (github.com/package-url/purl-spec, types ``deb`` and ``apk``)."""
    from packageurl import PackageURL

    qualifiers = {"distro": f"{release.id}-{release.version}" if release.version else release.id}
    if architecture:
        qualifiers["arch"] = architecture
    return PackageURL(kind, release.id, name, version, qualifiers).to_string()


def _damaged(within: str, database: str, name: str) -> PublisherError:
    return PublisherError(
        f"its database of {database} has an entry without a proper name and version: {name[:80]!r}",
        where=within,
        next_step="build the image again, or without that database",
    )
