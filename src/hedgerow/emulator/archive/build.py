"""Stand-in packages: real names, versions, relations and paths; contents that behave like the real ones.

Invariants:

- The same definition gives the same bytes: times are fixed, order is the definition's.
- Files below ``etc/`` are configuration files to dpkg, as debhelper makes them.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hedgerow.errors import MachineError

GUEST = Path(__file__).parents[1] / "guest"
# Of every file in every stand-in: 2026-10-01, so that no build of ours is newer than another.
EPOCH = 1790812800
_MAINTAINER = "Hedgerow emulator <nobody@localhost>"


@dataclass(frozen=True, slots=True)
class File:
    """Content and mode of a file in a package."""

    data: bytes = b""
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link in a package."""

    target: str


@dataclass(frozen=True, slots=True)
class StandIn:
    """One package.

    ``architecture`` is the real one's: ``arm64`` stands for the guest's own, which differs where a build machine
    emulates boards. ``relations``: ``Depends``, ``Conflicts`` and their like. ``scripts``: ``postinst`` and its like.
    """

    name: str
    version: str
    architecture: str = "arm64"
    relations: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, File | Link] = field(default_factory=dict)
    scripts: Mapping[str, str] = field(default_factory=dict)

    def architecture_in(self, guest: str) -> str:
        return "all" if self.architecture == "all" else guest

    def filename(self, guest: str) -> str:
        """As dpkg-deb names it: without the epoch."""
        version = self.version.rpartition(":")[2]
        return f"{self.name}_{version}_{self.architecture_in(guest)}.deb"

    def control(self, guest: str) -> str:
        fields = {
            "Package": self.name,
            "Version": self.version,
            "Architecture": self.architecture_in(guest),
            "Maintainer": _MAINTAINER,
            "Section": "misc",
            "Priority": "optional",
            **self.relations,
            "Description": "stand-in of an emulated Pi; carries none of the vendor's software",
        }
        return "".join(f"{key}: {value}\n" for key, value in fields.items())

    def inputs(self) -> list[object]:
        """Everything that the package is made of, for a digest."""
        files = [
            [path, f"-> {entry.target}" if isinstance(entry, Link) else hashlib.sha256(entry.data).hexdigest(),
             0 if isinstance(entry, Link) else entry.mode]
            for path, entry in self.files.items()
        ]  # fmt: skip
        return [self.control("arm64"), files, dict(self.scripts)]


def guest_file(relative: str, mode: int | None = None) -> File:
    """A file of ``guest/``; without ``mode``, a program stays one."""
    path = GUEST / relative
    return File(path.read_bytes(), mode or (0o755 if path.stat().st_mode & 0o100 else 0o644))


def text(content: str, mode: int = 0o644) -> File:
    return File(content.encode(), mode)


def build(package: StandIn, folder: Path, architecture: str) -> Path:
    """Build ``package`` for guests of ``architecture`` into ``folder`` and return the file."""
    target = folder / package.filename(architecture)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        root = Path(temporary)
        root.chmod(0o755)
        (root / "DEBIAN").mkdir(mode=0o755)
        (root / "DEBIAN/control").write_text(package.control(architecture), encoding="utf-8")
        conffiles = [f"/{path}\n" for path in package.files if path.startswith("etc/")]
        if conffiles:
            (root / "DEBIAN/conffiles").write_text("".join(conffiles), encoding="utf-8")
        for name, script in package.scripts.items():
            _place(root / "DEBIAN" / name, text(script, 0o755))
        for path, entry in package.files.items():
            _place(root / path, entry)
        done = subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(root), str(target)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "SOURCE_DATE_EPOCH": str(EPOCH)},
        )
    if done.returncode != 0:
        raise MachineError(f"dpkg-deb failed: {done.stderr.strip()}", where=package.name)
    return target


def _place(path: Path, entry: File | Link) -> None:
    for folder in reversed(path.parents):
        if not folder.exists():
            folder.mkdir(mode=0o755)
            folder.chmod(0o755)  # whatever the umask
    if isinstance(entry, Link):
        path.symlink_to(entry.target)
    else:
        path.write_bytes(entry.data)
        path.chmod(entry.mode)
