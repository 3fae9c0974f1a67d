"""Where bundles are built: beside their place, proven, made durable, renamed. An interrupted build leaves nothing.

``build`` is the one way in: it names the place by all that goes into the bundle, so that the same input answers from
the cache, and ``fill`` writes the files and returns the manifest.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version as tool_version
from pathlib import Path
from typing import Any, Final

import msgspec

from hedgerow import atomic, registry
from hedgerow.errors import HedgerowError, MachineError, PublisherError, UsageError
from hedgerow.paths import cache_dir
from hedgerow.registry import bundle, manifest

Progress = Callable[[str, int, int], None]
LICENSE_FILE: Final = "LICENSE"


def silent(_step: str, _done: int, _total: int) -> None:
    """Tell nobody of progress."""


def build(
    fill: Callable[[Path], manifest.Manifest],
    *,
    name: str,
    version: str,
    inputs: list[Path],
    facts: Any,
    tools: dict[str, str],
    cache: Path | None = None,
) -> Path:
    """Build a bundle, or find it in ``cache`` (default ``var/cache/bundles``); return its folder.

    ``fill(folder)`` writes every file but the manifest, which it returns. ``inputs`` are the files and folders that are
    read; with ``facts`` (anything with a stable ``repr``), ``tools`` and this package's code they name the place.

    Raises:
        UsageError: name or version are none, or what ``fill`` returned is no valid manifest.
        MachineError: the disk is full.
        HedgerowError: what ``fill`` raised; nothing is left then.
    """
    check_reference(name, version)
    cache = cache if cache is not None else cache_dir() / "bundles"
    cache.mkdir(parents=True, exist_ok=True)
    key = cache_key(inputs, (name, version, facts), tools)
    return put(cache / f"{name}-{version}-{key[:20]}", lambda folder: write_manifest(folder, fill(folder)))


def put(place: Path, fill: Callable[[Path], None]) -> Path:
    """Make the bundle that ``fill`` writes appear in ``place``, whole or not at all; one that is whole stays."""
    if is_whole(place):
        return place
    shutil.rmtree(place, ignore_errors=True)
    with full_disk_is_an_error(place.parent), temporary_folder(place) as folder:
        fill(folder)
        make_durable(folder)
        try:
            folder.rename(place)
        except OSError:
            if not is_whole(place):  # else another build of the same was faster
                raise
    atomic.fsync_dir(place.parent)
    return place


def write_manifest(folder: Path, document: manifest.Manifest) -> None:
    """Write ``manifest.json``.

    Raises:
        UsageError: the values are no valid manifest; its message says which.
    """
    try:
        data = manifest.encode(document)
    except (msgspec.ValidationError, ValueError) as error:
        raise UsageError(
            f"these values make no valid manifest: {error}", next_step="see: hedgerow model import --help"
        ) from error
    atomic.write_bytes(folder / manifest.FILE_NAME, data)


def check_reference(name: str, version: str) -> None:
    """Raise UsageError where these are no bundle's name and version."""
    if not manifest.is_name(name) or not manifest.is_version(version):
        raise UsageError(
            f"{name!r} {version!r} is no bundle name and version",
            next_step="write them like: --name assistant --version 1.0.0",
        )


def cache_key(inputs: list[Path], facts: Any, tools: dict[str, str]) -> str:
    """Hash of everything that a bundle's bytes depend on. Paths do not count, so a moved checkpoint is the same."""
    hasher = hashlib.sha256()
    for path in inputs:
        for file in _files(path):
            hasher.update(f"{file.relative_to(path) if path.is_dir() else ''}\0{bundle.hash_file(file)}\n".encode())
        hasher.update(b"end\n")
    hasher.update(repr((facts, sorted(tools.items()))).encode())
    for source in code():
        hasher.update(source.read_bytes())
    return hasher.hexdigest()


def code() -> list[Path]:
    """The sources that decide a bundle's bytes."""
    parts = Path(registry.__file__).parent.glob("manifest*.py")
    return sorted([*Path(__file__).parent.glob("*.py"), *parts])


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    return [path] if path.is_file() else []


def versions_of(*tools: str) -> dict[str, str]:
    """Versions of installed packages, for a manifest's provenance."""
    return {name: tool_version(name) for name in tools}


def copy_license(license_file: Path | None, folder: Path) -> str | None:
    """Copy the license's text as ``LICENSE``; its path in the bundle, None where none was given.

    Raises:
        UsageError: no such file.
    """
    if license_file is None:
        return None
    try:
        (folder / LICENSE_FILE).write_bytes(license_file.read_bytes())
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UsageError(
            "no license file here", where=str(license_file), next_step="give --license-file a text file"
        ) from error
    return LICENSE_FILE


def export(place: Path, output: Path) -> Path:
    """Copy a bundle to ``output``, which must not exist, be empty, or hold this very bundle; return ``output``.

    Raises:
        UsageError: there is something else.
    """
    if _same_bundle(place, output):
        return output
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(
            "the output folder is not empty", where=str(output), next_step="name another one, or remove it"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with full_disk_is_an_error(output), temporary_folder(output) as folder:
        shutil.copytree(place, folder, dirs_exist_ok=True)
        make_durable(folder)
        if output.exists():
            output.rmdir()
        folder.rename(output)
    atomic.fsync_dir(output.parent)
    return output


def _same_bundle(place: Path, output: Path) -> bool:
    """Whether ``output`` is a whole copy of the bundle in ``place``."""
    try:
        return bundle.verify_files(output).sha256 == bundle.load(place).sha256
    except HedgerowError:
        return False


def is_whole(place: Path) -> bool:
    """Whether a bundle is in ``place`` with every file as its manifest says."""
    try:
        bundle.verify_files(place)
    except (UsageError, PublisherError):
        return False
    return True


@contextmanager
def temporary_folder(place: Path) -> Iterator[Path]:
    """Yield a new folder beside ``place``, gone afterwards unless it was renamed."""
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_durable(folder: Path) -> None:
    """Sync every file and folder below ``folder``, and give them the modes that a bundle has."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)
            atomic.fsync_dir(path)
            continue
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    atomic.fsync_dir(folder)


@contextmanager
def full_disk_is_an_error(path: Path) -> Iterator[None]:
    """Turn a full disk into a MachineError that says so."""
    try:
        yield
    except HedgerowError:
        raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MachineError(
            "the disk is full; nothing half-written was left",
            where=str(path),
            next_step="free a few hundred MB there, or set HEDGEROW_VAR to a folder elsewhere",
        ) from error
