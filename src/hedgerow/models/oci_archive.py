"""Check an OCI image archive without running it: whose user, which ports, nothing in it that gains rights.

Layout: https://github.com/opencontainers/image-spec (``image-layout.md``, ``config.md``): ``index.json`` → manifest →
configuration and layers, each a blob named by its SHA-256. What ``podman save --format oci-archive`` and
``skopeo copy … oci-archive:`` write.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry.manifest_parts import is_root

_SPECIAL: Final = 0o6000
"""setuid and setgid."""
_CAPABILITIES: Final = ("SCHILY.xattr.security.capability", "LIBARCHIVE.xattr.security.capability")
_MAX_DOCUMENT: Final = 4 * 1024 * 1024
_LAYERS: Final = {
    "application/vnd.oci.image.layer.v1.tar": "",
    "application/vnd.oci.image.layer.v1.tar+gzip": "gz",
    "application/vnd.docker.image.rootfs.diff.tar.gzip": "gz",
}
_AGAIN: Final = "write it again: podman save --format oci-archive -o FILE IMAGE"


@dataclass(frozen=True)
class Image:
    """``user`` the image runs as, ``ports`` (protocol, number) that it exposes."""

    user: str
    ports: tuple[tuple[str, int], ...]


def check(path: Path) -> Image:
    """Return what the image says of itself, once all of it was looked at.

    Raises:
        UsageError: no OCI archive, of several images, or with layers of a kind that is not known.
        PublisherError: a blob is missing or is not what its name says.
        RefusedError: it runs as root, or a file in it could gain rights.
    """
    try:
        with tarfile.open(path, "r:") as archive:
            return _check(archive, path)
    except (tarfile.TarError, FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(f"no image archive here: {error}", where=str(path), next_step=_AGAIN) from error


def _check(archive: tarfile.TarFile, path: Path) -> Image:
    index = _document(archive, "index.json", path)
    manifests = index.get("manifests", [])
    if len(manifests) != 1:
        raise UsageError(
            f"the archive holds {len(manifests)} images; a bundle has one", where=str(path), next_step=_AGAIN
        )
    manifest = _document(archive, _blob(manifests[0], path), path)
    config = _document(archive, _blob(manifest.get("config", {}), path), path).get("config", {})
    user = str(config.get("User", ""))
    if is_root(user):
        raise RefusedError(
            "the image runs as root (rule: unprivileged)",
            where=str(path),
            next_step="give it a user of its own: USER 10001 in its Containerfile",
        )
    for layer in manifest.get("layers", []):
        _check_layer(archive, layer, path)
    return Image(user, tuple(sorted(_port(text, path) for text in config.get("ExposedPorts", {}))))


def _port(text: str, path: Path) -> tuple[str, int]:
    number, _, protocol = text.partition("/")
    if not number.isdigit():
        raise UsageError(f"the image exposes {text!r}, which is no port", where=str(path), next_step=_AGAIN)
    return protocol or "tcp", int(number)


def _check_layer(archive: tarfile.TarFile, layer: dict[str, Any], path: Path) -> None:
    kind = layer.get("mediaType", "")
    if kind not in _LAYERS:
        raise UsageError(
            f"a layer is {kind!r}; these are known: {', '.join(sorted(_LAYERS))}",
            where=str(path),
            next_step="write it with gzip layers: podman save --format oci-archive (compression gzip)",
        )
    name = _blob(layer, path)
    _verify(archive, name, path)
    source = _open(archive, name, path)
    try:
        with (
            gzip.GzipFile(fileobj=source) if _LAYERS[kind] else source as plain,
            tarfile.open(fileobj=plain, mode="r|") as files,
        ):
            for member in files:
                _check_member(member, path)
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PublisherError(f"a layer is damaged: {error}", where=f"{path}, {name}", next_step=_AGAIN) from error


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    wrong = None
    if not member.isdir() and not member.issym() and member.mode & _SPECIAL:
        wrong = f"has mode {member.mode:04o}: whoever starts it becomes its owner (rule: no-setuid)"
    elif any(key in member.pax_headers for key in _CAPABILITIES):
        wrong = "has capabilities of its own (rule: no-capabilities)"
    elif member.isdev() and not member.isfifo():
        wrong = "is a device node (rule: no-devices)"
    if wrong is not None:
        raise RefusedError(
            f"{member.name} {wrong}", where=str(path), next_step="take it out: chmod a-s FILE, setcap -r FILE, or rm"
        )


def _blob(descriptor: dict[str, Any], path: Path) -> str:
    algorithm, _, value = str(descriptor.get("digest", "")).partition(":")
    if algorithm != "sha256" or not value.isalnum():
        raise UsageError("the image names a blob by no SHA-256", where=str(path), next_step=_AGAIN)
    return f"blobs/sha256/{value}"


def _open(archive: tarfile.TarFile, name: str, path: Path) -> IO[bytes]:
    try:
        file = archive.extractfile(name)
    except KeyError:
        file = None
    if file is None:
        raise PublisherError(f"the archive lacks {name}", where=str(path), next_step=_AGAIN)
    return file


def _verify(archive: tarfile.TarFile, name: str, path: Path) -> None:
    with _open(archive, name, path) as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != name.rpartition("/")[2]:  # type: ignore[arg-type]
            raise PublisherError(f"{name} is not what its name says", where=str(path), next_step=_AGAIN)


def _document(archive: tarfile.TarFile, name: str, path: Path) -> dict[str, Any]:
    if "/" in name:
        _verify(archive, name, path)
    with _open(archive, name, path) as file:
        data = file.read(_MAX_DOCUMENT + 1)
    try:
        found = json.loads(data)
    except ValueError as error:
        raise UsageError(f"{name} is no JSON: {error}", where=str(path), next_step=_AGAIN) from error
    if not isinstance(found, dict) or len(data) > _MAX_DOCUMENT:
        raise UsageError(f"{name} is not what an image has there", where=str(path), next_step=_AGAIN)
    return found
