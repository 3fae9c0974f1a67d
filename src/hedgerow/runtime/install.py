"""Put a runtime in place on a device: verify, install offline, prove that it starts, and, where wanted, switch.

The standard library alone: the controller sends this source to a host whose
Hedgerow is this very runtime (``hedgerow.remote_script``).

Invariants:

- ``current`` moves last, in one step, and only to a runtime that has answered its smoke test.
- A version folder without its marker (``hedgerow-runtime.json``) is unfinished: it is removed and made anew.
- Nothing is fetched: pip sees the archive's wheels alone and checks the sum of each.
- The runtime before the current one stays, so that the way back needs no controller.
- ``confirmed`` is the runtime that commands the device; in a rollout it follows ``current`` once that is confirmed
  (``hedgerow.device.restarting``), here at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

MARKER = "hedgerow-runtime.json"
# pip as Debian's python3-pip-whl ships it; the runtime itself holds no pip.
PIP_WHEELS = Path("/usr/share/python-wheels")
LINKS = ("current", "previous", "confirmed")


class InstallError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def install(
    *, archive: str, sha256: str, version: str, root: str, smoke_imports: list[str], keep: int
) -> dict[str, Any]:
    """Install ``archive`` as ``root/version`` and point ``root/current`` (and ``confirmed``) at it.

    ``sha256`` is that of the archive, ``smoke_imports`` are modules that must
    import in it, ``keep`` is how many runtimes stay, the current one included.
    Returns ``{"changed": bool, "previous": str | None, "removed": [str]}``.

    Raises:
        InstallError: the archive is not the one that was built, pip or the smoke test fails, the disk is full.
            ``current`` is where it was.
    """
    os.umask(0o022)
    runtimes = Path(root)
    previous = _target(runtimes / "current")
    changed = previous != version or _target(runtimes / "confirmed") != version
    try:
        if not (runtimes / version / MARKER).is_file():
            _make(Path(archive), sha256, version, runtimes / version, smoke_imports)
            changed = True
        if previous not in {None, version}:
            _point(runtimes / "previous", str(previous))
        _point(runtimes / "current", version)
        _point(runtimes / "confirmed", version)
        Path(archive).unlink(missing_ok=True)
        removed = _prune(runtimes, {version, previous}, keep)
    except OSError as error:
        raise InstallError(error.strerror or str(error), where=error.filename or root) from error
    return {"changed": changed, "previous": previous, "removed": removed}


def stage(*, archive: str, sha256: str, version: str, root: str, smoke_imports: list[str]) -> dict[str, Any]:
    """Install ``archive`` as ``root/version`` beside the others; what runs does not change. Arguments as ``install``.

    Returns ``{"changed": bool, "removed": [str]}``; the runtimes that links name stay, all others go.

    Raises:
        InstallError: as ``install``.
    """
    os.umask(0o022)
    runtimes = Path(root)
    changed = not (runtimes / version / MARKER).is_file()
    try:
        if changed:
            _make(Path(archive), sha256, version, runtimes / version, smoke_imports)
        Path(archive).unlink(missing_ok=True)
        removed = _prune(runtimes, {version, *(_target(runtimes / link) for link in LINKS)}, 0)
    except OSError as error:
        raise InstallError(error.strerror or str(error), where=error.filename or root) from error
    return {"changed": changed, "removed": removed}


def _target(link: Path) -> str | None:
    return link.readlink().name if link.is_symlink() else None


def _make(archive: Path, sha256: str, version: str, target: Path, smoke_imports: list[str]) -> None:
    _check(archive, sha256)
    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".wheels-") as folder:
            manifest = unpack(archive, Path(folder), version)
            _run([sys.executable, "-m", "venv", "--without-pip", str(target)])
            pip = [str(target / "bin/python"), _pip(), "install", "--quiet", "--no-index", "--find-links", folder]
            pip += ["--require-hashes", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
            _run([*pip, "--requirement", f"{folder}/requirements.txt"])
        _smoke(target, smoke_imports)
        _write_marker(target / MARKER, manifest)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _check(archive: Path, sha256: str) -> None:
    if not archive.is_file():
        raise InstallError("the archive was not transferred", where=str(archive), next_step="run the role again")
    with archive.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise InstallError(
                "the archive is not the one that was built: its sha256 differs",
                where=str(archive),
                next_step="run the role again, it transfers the archive anew",
            )


def unpack(archive: Path, folder: Path, version: str) -> dict[str, Any]:
    """Extract the files that the manifest names, each with the sum it states, and nothing else."""
    with tarfile.open(archive) as tar:
        first = tar.next()
        if first is None or first.name != "manifest.json":
            raise InstallError(
                "the archive does not begin with a manifest: it is none of a runtime", where=str(archive)
            )
        manifest: dict[str, Any] = json.loads(_content(tar, first))
        if manifest["version"] != version:
            raise InstallError(f"the archive holds runtime {manifest['version']}, not {version}", where=str(archive))
        missing: dict[str, str] = dict(manifest["files"])
        while (member := tar.next()) is not None:
            # A name that the manifest has is a plain one: no folder in it leads out of ours.
            if member.name not in missing or "/" in member.name:
                raise InstallError(
                    f"the archive holds {member.name}, which its manifest does not name", where=str(archive)
                )
            data = _content(tar, member)
            if hashlib.sha256(data).hexdigest() != missing.pop(member.name):
                raise InstallError(f"{member.name} differs from the manifest", where=str(archive))
            (folder / member.name).write_bytes(data)
    if missing:
        raise InstallError(f"the archive lacks {', '.join(sorted(missing))}", where=str(archive))
    return manifest


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member) if member.isreg() else None
    if file is None:
        raise InstallError(f"{member.name} in the archive is no plain file")
    return file.read()


def _pip() -> str:
    """The path that runs pip out of its own wheel (documented use of pip's wheel)."""
    wheels = sorted(PIP_WHEELS.glob("pip-*.whl"))
    if not wheels:
        raise InstallError("no wheel of pip", where=str(PIP_WHEELS), next_step="sudo apt-get install python3-pip-whl")
    return str(wheels[-1] / "pip")


def _smoke(target: Path, imports: list[str]) -> None:
    """The new runtime's own Python imports what it will serve with; a wheel for another CPU fails here, not later."""
    _run([str(target / "bin/python"), "-I", "-c", "".join(f"import {name}\n" for name in imports)])
    _run([str(target / "bin/hedgerow-device"), "--help"])


def _write_marker(path: Path, manifest: dict[str, Any]) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(manifest, file, indent=2, sort_keys=True)
        file.flush()
        os.fsync(file.fileno())
    os.sync()  # thousands of files stand behind this marker


def _point(link: Path, version: str) -> None:
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(version)
    temporary.replace(link)


def _prune(root: Path, used: set[str | None], keep: int) -> list[str]:
    """Remove unfinished runtimes, and finished ones until ``keep`` are left; those in ``used`` stay."""
    others = [e for e in root.iterdir() if e.is_dir() and not e.is_symlink() and e.name not in used]
    finished = sorted((e for e in others if (e / MARKER).is_file()), key=lambda e: (e / MARKER).stat().st_mtime)
    spare = max(keep - len(used - {None}), 0)
    removed = [entry for entry in others if entry not in finished[max(len(finished) - spare, 0) :]]
    for entry in removed:
        shutil.rmtree(entry, ignore_errors=True)
    return sorted(entry.name for entry in removed)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-1500:]
        raise InstallError(f"`{' '.join(command[:4])} …` failed with exit code {done.returncode}:\n{said}")
