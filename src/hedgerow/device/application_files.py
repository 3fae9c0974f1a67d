"""Put the files of an application beside those of its other versions: verified, unpacked, with a unit. Whole, or not.

The standard library alone: part of the application switch, which runs under the system's own Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from hedgerow.device import application_unit as units

MARKER = "hedgerow-application.json"
"""Of a version that is whole: its ports, protocol and number."""
ARCHIVE = "application.tar"


class NotDoneError(Exception):
    """Why not, for a person."""


def place(bundle: Path, home: Path, version: str) -> None:
    """Make ``home/version`` of a ``bundle`` in this device's store, by one rename.

    Raises:
        NotDoneError: it is not staged, not what its manifest says, or no folder with a unit.
        UnitError: its unit says what no device does.
        OSError: the disk.
    """
    manifest = _manifest(bundle, home.name, version)
    unit = _verified(bundle, manifest, manifest["application"]["unit"]).decode("utf-8", errors="replace")
    ports = [_port(port) for port in manifest["application"]["ports"]]
    new = home / f".{version}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    (new / "files").mkdir()
    _verify(bundle, manifest, ARCHIVE)
    _unpack(bundle / ARCHIVE, new / "files")
    told = units.Told(home.name, home / version / "files", ports, int(manifest["requires"]["memory_mb"]))
    (new / units.file_name(home.name)).write_text(units.render(unit, told), encoding="utf-8")
    (new / MARKER).write_text(json.dumps({"ports": ports}), encoding="utf-8")
    _flush(new)
    new.rename(home / version)
    fsync(home)


def _port(port: dict[str, Any]) -> tuple[str, int]:
    """Of the manifest, which whoever asks may have written: nothing of it reaches the unit as it stands."""
    kind, number = port.get("protocol", "tcp"), port.get("number")
    if kind not in {"tcp", "udp"} or not isinstance(number, int) or not 1024 <= number <= 65535:  # noqa: PLR2004
        raise NotDoneError(f"its port {number}/{kind} is none that an application may have")
    return kind, number


def fsync(path: Path) -> None:
    """Have a file's content, or a folder's names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(bundle: Path, name: str, version: str) -> dict[str, Any]:
    try:
        found = json.loads((bundle / "manifest.json").read_bytes())
        told = (found["kind"], found["name"], found["version"])
        application = found["application"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NotDoneError(f"{name}@{version} is not staged on this device: {error}") from error
    if told != ("application", name, version):
        raise NotDoneError(f"its manifest describes {told[0]} {told[1]}@{told[2]}")
    if not application.get("unit"):
        raise NotDoneError("it is an image: this device starts folders with a unit, and no images yet")
    return {**found, "application": {"ports": [], **application}}


def _verify(bundle: Path, manifest: dict[str, Any], path: str) -> None:
    wanted = {file["path"]: file["sha256"] for file in manifest["files"]}.get(path)
    with (bundle / path).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
            raise NotDoneError(f"{path} is not what the manifest says")


def _verified(bundle: Path, manifest: dict[str, Any], path: str) -> bytes:
    if "/" in path:
        raise NotDoneError(f"its unit {path} does not lie at the top of the bundle")
    _verify(bundle, manifest, path)
    return (bundle / path).read_bytes()


def _unpack(archive: Path, target: Path) -> None:
    """Unpack, refusing what could gain rights or lead out; owner and group are root's."""
    try:
        with tarfile.open(archive, "r:") as tar:
            for member in tar:
                if not (member.isreg() or member.isdir() or member.issym()) or member.sparse is not None:
                    raise NotDoneError(f"{member.name} is no file, folder or link")
            # Refuses absolute paths, "..", links that lead out and devices; takes away setuid, setgid and owners.
            tar.extractall(target, filter="data")
    except tarfile.TarError as error:
        raise NotDoneError(f"{archive.name} is refused: {error}") from error


def _flush(folder: Path) -> None:
    """Contents and names reach the disk before the name that makes them appear; others may read them."""
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
                fsync(path)
        Path(root).chmod(0o755)
        fsync(Path(root))
