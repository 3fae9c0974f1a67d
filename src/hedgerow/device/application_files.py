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
MAX_ENTRIES = 50_000
"""Files, folders and links of one application."""


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
    root = manifest["application"].get("root")
    archive = ARCHIVE if root is None else _at_top(root)
    new = home / f".{version}.new"
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    (new / "files").mkdir()
    _verify(bundle, manifest, archive)
    _unpack(bundle / archive, new / "files")
    memory_mb = int(manifest["requires"]["memory_mb"])
    told = units.Told(home.name, home / version / "files", ports, memory_mb, own_root=root is not None)
    (new / units.file_name(home.name)).write_text(units.render(unit, told), encoding="utf-8")
    (new / MARKER).write_text(json.dumps({"ports": ports}), encoding="utf-8")
    _flush(new, at_once=root is not None)
    new.rename(home / version)
    fsync(home)


def take_away(folder: Path) -> None:
    """Remove a version. Its name goes first: one of which half is gone would still look whole."""
    if folder.name.startswith("."):
        shutil.rmtree(folder, ignore_errors=True)
        return
    gone = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    folder.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


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
        raise NotDoneError("it is an image as it was built: this device starts what was packed with a unit")
    return {**found, "application": {"ports": [], **application}}


def _verify(bundle: Path, manifest: dict[str, Any], path: str) -> None:
    wanted = {file["path"]: file["sha256"] for file in manifest["files"]}.get(path)
    with (bundle / path).open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
            raise NotDoneError(f"{path} is not what the manifest says")


def _verified(bundle: Path, manifest: dict[str, Any], path: str) -> bytes:
    _verify(bundle, manifest, _at_top(path))
    return (bundle / path).read_bytes()


def _at_top(path: str) -> str:
    if "/" in path or path in {".", ".."}:
        raise NotDoneError(f"its {path} does not lie at the top of the bundle")
    return path


def _unpack(archive: Path, target: Path) -> None:
    """Unpack, refusing what could gain rights or lead out; owner and group are root's.

    Every folder stands before what is in it and no name twice, so nothing is ever written through a link.
    """
    folders, files, links = {""}, set[str](), set[str]()
    try:
        with tarfile.open(archive, "r:", encoding="utf-8") as tar:
            for count, member in enumerate(tar, 1):
                name = member.name.rstrip("/")
                if count > MAX_ENTRIES:
                    raise NotDoneError(f"it has more than {MAX_ENTRIES} files")
                above, slash, base = name.rpartition("/")
                if base in {"", ".", ".."} or (slash and not above):
                    raise NotDoneError(f"{archive.name} is refused: {member.name} is no path below it")
                if above not in folders or name in folders or name in files or name in links:
                    raise NotDoneError(f"{archive.name} is refused: {name} is there twice, or before its folder")
                if member.isdir():
                    folders.add(name)
                elif member.issym():
                    links.add(name)
                elif (member.isreg() and member.sparse is None) or (member.islnk() and member.linkname in files):
                    files.add(name)
                else:
                    raise NotDoneError(f"{name} is no file, folder or link")
            # Refuses absolute paths, "..", links that lead out and devices; takes away setuid, setgid and owners.
            tar.extractall(target, filter="data")
    except tarfile.TarError as error:
        raise NotDoneError(f"{archive.name} is refused: {error}") from error


def _flush(folder: Path, *, at_once: bool) -> None:
    """Contents and names reach the disk before the name that makes them appear; others may read them.

    ``at_once``: by one sync of everything. A root has thousands of files, and a card takes milliseconds for each.
    """
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root) / name
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
                if not at_once:
                    fsync(path)
        Path(root).chmod(0o755)
        if not at_once:
            fsync(Path(root))
    if at_once:
        os.sync()
