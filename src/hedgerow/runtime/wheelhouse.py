"""Build and cache the wheelhouse of one target: locked wheels, our own wheel, a manifest, in one tar.

Two levels of cache below ``var/cache/wheelhouses``: ``deps-<hash>`` holds the
downloaded wheels of a lock and target, so that a code change downloads nothing;
``<version>-<target>`` holds the finished archive. Both appear whole or not at all,
and several processes (Ansible asks for every host at once) build only once.

The archive is a plain tar: wheels are compressed already.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from hedgerow import atomic
from hedgerow.errors import MachineError, NetworkError
from hedgerow.paths import cache_dir, repository_root
from hedgerow.runtime import lock
from hedgerow.runtime.target import Target
from hedgerow.runtime.version import runtime_version

# 1980-02-01: zip files know no earlier day than 1980-01-01, and a day's margin keeps time zones out of it.
SOURCE_DATE_EPOCH = "318211200"
# Archives kept for each target: 60 MiB each, and an edit makes a new one. The older ones may still be in transfer.
KEEP = 4
MANIFEST = "manifest.json"
REQUIREMENTS = "requirements.txt"


class Wheelhouse(msgspec.Struct, frozen=True, kw_only=True):
    """A finished archive on the controller. ``size`` is in bytes, ``wheels`` counts the files.

    ``extras`` are those of the package that are in it beside ``device``.
    """

    version: str
    python: str
    architecture: str
    archive: str
    sha256: str
    size: int
    wheels: int
    extras: tuple[str, ...] = ()


def describe(target: Target, root: Path | None = None, *, extras: Sequence[str] = ()) -> tuple[str, Path]:
    """The runtime version of this tree and the folder of its wheelhouse, built or not."""
    version = runtime_version(root or repository_root(), extras)
    return version, cache_dir() / "wheelhouses" / f"{version}-{target.name}"


def build(target: Target, root: Path | None = None, *, extras: Sequence[str] = ()) -> tuple[Wheelhouse, bool]:
    """Return the wheelhouse of this tree for ``target`` and whether it was built just now.

    ``extras`` are as ``extras.chosen`` gives them.
    """
    root = root or repository_root()
    version, folder = describe(target, root, extras=extras)
    if (found := _read(folder)) is not None:
        return found, False
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f".{folder.name}.lock"):
        if (found := _read(folder)) is not None:
            return found, False
        locked = _locked_packages(root, target, extras)
        with _fresh_folder(folder) as work:
            wheels = [*dependencies(locked, target, folder.parent), _own_wheel(root, work)]
            if runtime_version(root, extras) != version:
                raise MachineError(
                    "the tree changed while its wheel was built, so the wheel has no certain version",
                    where=str(root / "src"),
                    next_step="run the same command again",
                )
            archive = work / f"hedgerow-runtime-{version}-{target.name}.tar"
            _pack(archive, version, target, locked, wheels)
            for leftover in work.glob("*.whl"):
                leftover.unlink()
            house = Wheelhouse(
                version=version,
                python=target.python,
                architecture=target.architecture,
                archive=str(folder / archive.name),
                sha256=_sha256(archive),
                size=archive.stat().st_size,
                wheels=len(wheels),
                extras=tuple(extras),
            )
            atomic.write_bytes(work / "wheelhouse.json", msgspec.json.encode(house))
        _prune(folder, target)
    return house, True


def _read(folder: Path) -> Wheelhouse | None:
    try:
        house = msgspec.json.decode((folder / "wheelhouse.json").read_bytes(), type=Wheelhouse)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    # var/ may have been moved since: the archive is where the description is.
    archive = folder / Path(house.archive).name
    return msgspec.structs.replace(house, archive=str(archive)) if archive.is_file() else None


def _prune(newest: Path, target: Target) -> None:
    """Remove all but the ``KEEP`` newest archives of the target; any of them can be built again."""
    finished = [path.parent for path in newest.parent.glob(f"*-{target.name}/wheelhouse.json")]
    finished.sort(key=lambda folder: folder.stat().st_mtime)
    for folder in [folder for folder in finished if folder != newest][: -(KEEP - 1)]:
        shutil.rmtree(folder, ignore_errors=True)
        (folder.parent / f".{folder.name}.lock").unlink(missing_ok=True)


def _locked_packages(root: Path, target: Target, extras: Sequence[str]) -> list[lock.Locked]:
    """What the device's lock and those of ``extras`` have for ``target``."""
    files = [f"requirements/{name}.txt" for name in ("device", *extras)]
    return lock.union(
        {file: lock.parse((root / file).read_text(encoding="utf-8"), target, where=file) for file in files}
    )


def dependencies(locked: Sequence[lock.Locked], target: Target, cache: Path) -> list[Path]:
    """Wheels of ``locked`` for ``target`` below ``cache``, downloaded once; pip verifies every hash."""
    lines = "".join(f"{entry.line()}\n" for entry in locked)
    key = hashlib.sha256(f"{target.name}\n{lines}".encode()).hexdigest()[:16]
    folder = cache / f"deps-{target.name}-{key}"
    with _locked(cache / f".{folder.name}.lock"):
        if not folder.is_dir():
            with _fresh_folder(folder) as work:
                requirements = work / REQUIREMENTS
                requirements.write_text(lines, encoding="utf-8")
                _pip_download(requirements, target, work)
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != len(locked):
        raise MachineError(
            f"the cache has {len(wheels)} wheels for {len(locked)} locked packages",
            where=str(folder),
            next_step=f"remove it and run again: rm -r {folder}",
        )
    return wheels


def _pip_download(requirements: Path, target: Target, destination: Path) -> None:
    interpreter = f"cp{target.python.replace('.', '')}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary=:all:", "--require-hashes", "--no-deps", "--requirement", str(requirements)]
    command += ["--dest", str(destination), "--implementation", "cp", "--python-version", target.python]
    command += [word for abi in (interpreter, "abi3", "none") for word in ("--abi", abi)]
    command += [word for platform in target.platforms for word in ("--platform", platform)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return
    error = NetworkError if re.search(r"(?i)connection|timed out|resolve|retr", done.stderr) else MachineError
    raise error(
        f"pip could not download the wheels for {target.name}: {_last_lines(done.stderr)}",
        where="requirements",
        next_step="run the same command again; where a package has no wheel for this target: make lock",
    )


def _own_wheel(root: Path, destination: Path) -> Path:
    """Our package as a wheel, the same bytes for the same tree."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(destination)]
    done = subprocess.run(
        command,
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ) | {"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH},
    )
    wheels = list(destination.glob("hedgerow-*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise MachineError(
            f"hedgerow's own wheel was not built: {_last_lines(done.stderr or done.stdout)}",
            where=str(root),
            next_step="install the controller's lock: make venv",
        )
    return wheels[0]


def _pack(archive: Path, version: str, target: Target, locked: Sequence[lock.Locked], wheels: Sequence[Path]) -> None:
    sums = {wheel.name: _sha256(wheel) for wheel in wheels}
    own = wheels[-1]
    # The device's pip checks each wheel once more; one sum each, since the file is chosen already.
    by_hash = {f"sha256:{digest}" for digest in sums.values()}
    lines = [lock.Locked(e.requirement, tuple(h for h in e.hashes if h in by_hash)).line() for e in locked]
    lines.append(f"hedgerow=={own.name.split('-')[1]} --hash=sha256:{sums[own.name]}")
    requirements = "".join(f"{line}\n" for line in lines).encode()
    manifest: Mapping[str, object] = {
        "schema": 1,
        "version": version,
        "python": target.python,
        "architecture": target.architecture,
        "files": sums | {REQUIREMENTS: hashlib.sha256(requirements).hexdigest()},
    }
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        _add(tar, MANIFEST, json.dumps(manifest, indent=2, sort_keys=True).encode())
        _add(tar, REQUIREMENTS, requirements)
        for wheel in wheels:
            _add(tar, wheel.name, wheel.read_bytes())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file without the time, owner or mode of the controller."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mode = 0o644
    tar.addfile(member, io.BytesIO(data))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _last_lines(text: str) -> str:
    return " / ".join(line.strip() for line in text.strip().splitlines()[-4:])


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold ``path`` exclusively; the system releases it when a process dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _fresh_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``folder`` when the block ends well, and is gone when it does not."""
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield work
        work.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)  # unfinished: no description in it
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
