"""Bring a bundle to this device: verified, whole, or not at all.

Trust, in this order; nothing is placed before all of it holds:

- The manifest is a target of the registry's metadata, verified by python-tuf's client from the root in ``trust_dir``:
  signatures, thresholds, expiry, no step back to older metadata.
- Every file has the size and SHA-256 that the manifest names; bytes beyond the size are not read.

Files are written to a staging folder beside their final place, flushed, and one rename makes the version appear.
Whatever goes wrong, the staging folder is removed; one that a power cut left is removed by the next fetch.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadLengthMismatchError, RepositoryError
from tuf.ngclient import Updater, UpdaterConfig

from hedgerow import atomic
from hedgerow.errors import DeviceError, HedgerowError, NetworkError, PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import File, Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import MetadataFetcher, Source

STAGING_PREFIX = ".staging-"
# Left free beside the bundle, so that logs and a rollback's bookkeeping never starve. MB.
DEFAULT_RESERVE_MB = 64
_MB = 1 << 20


@dataclass(frozen=True)
class Fetched:
    """A bundle on this device; ``new_bytes`` came over the network just now."""

    bundle: Bundle
    new_bytes: int


def fetch(
    source: Source,
    reference: Reference,
    *,
    models_dir: Path,
    trust_dir: Path,
    reserve_mb: int = DEFAULT_RESERVE_MB,
    on_bytes: Callable[[int], None] | None = None,
) -> Fetched:
    """Make ``models_dir/<name>/<version>`` a verified bundle; what is there and verified is not fetched again.

    Raises:
        RefusedError: the registry's signatures do not vouch for it.
        PublisherError: a file is not what the manifest says.
        NetworkError: the registry cannot be reached; worth another try.
        DeviceError: no space, or the disk fails.
    """
    data = trusted_manifest(source, reference, trust_dir=trust_dir)
    manifest = manifests.decode(data, where=reference.target)
    if manifest.reference != str(reference):
        raise RefusedError(f"{reference.target} describes {manifest.reference}", where=source.url)
    home = models_dir / reference.name
    final = home / reference.version
    with _only_one(home):
        _remove_stale(home)
        present = _verified(final, data)
        if present is not None:
            return Fetched(present, 0)
        _check_space(home, manifest, reserve_mb)
        staging = Path(tempfile.mkdtemp(dir=home, prefix=f"{STAGING_PREFIX}{reference.version}-"))
        try:
            with _naming_disk(home):
                for file in manifest.files:
                    _fetch_file(source, file, staging, on_bytes)
                atomic.write_bytes(staging / manifests.FILE_NAME, data)
                staging.chmod(0o755)
                if final.exists():  # damaged, or of another manifest: it was not verified above
                    shutil.rmtree(final)
                staging.rename(final)
                atomic.fsync_dir(home)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
    return Fetched(bundles.load(final), manifest.size)


def trusted_manifest(source: Source, reference: Reference, *, trust_dir: Path) -> bytes:
    """The manifest's bytes, vouched for by the registry's metadata.

    Raises:
        RefusedError: they are not, or the registry does not name the bundle; says which rule.
        NetworkError: the registry cannot be reached.
        UsageError: this device has no root of trust.
    """
    if not (trust_dir / "root.json").exists():
        raise UsageError(
            "this device has no root of trust", where=str(trust_dir), next_step="converge the role model_store"
        )
    config = UpdaterConfig(prefix_targets_with_hash=False, targets_max_length=manifests.MAX_MANIFEST_BYTES * 2)
    try:
        updater = Updater(
            str(trust_dir),
            f"{source.url}/metadata/",
            target_base_url=f"{source.url}/targets/",
            fetcher=MetadataFetcher(source),
            config=config,
            bootstrap=None,
        )
        updater.refresh()
        target = updater.get_targetinfo(reference.target)
        if target is None:
            raise RefusedError(
                f"the registry has no {reference}",
                where=source.url,
                next_step="publish it: hedgerow registry publish BUNDLE, then playbooks/publish.yml",
            )
        if target.length > manifests.MAX_MANIFEST_BYTES:
            raise RefusedError(f"the manifest of {reference} is too large: {target.length} bytes", where=source.url)
        with tempfile.NamedTemporaryFile(dir=trust_dir, prefix=".manifest-") as temporary:
            return Path(updater.download_target(target, temporary.name)).read_bytes()
    except DownloadLengthMismatchError as error:
        raise RefusedError(
            f"the registry sends more than it signed for {reference}: {error}",
            where=f"{source.url} (rule: {type(error).__name__})",
            next_step="nothing was changed here; on the controller: hedgerow registry verify",
        ) from error
    except DownloadError as error:
        if isinstance(error.__cause__, HedgerowError):
            raise error.__cause__ from error
        raise NetworkError(f"the registry cannot be read: {error}", where=source.url) from error
    except RepositoryError as error:
        raise RefusedError(
            f"the registry's signatures do not vouch for {reference}: {error}",
            where=f"{source.url} (rule: {type(error).__name__})",
            next_step="nothing was changed here; on the controller: hedgerow registry verify",
        ) from error


def _fetch_file(source: Source, file: File, staging: Path, on_bytes: Callable[[int], None] | None) -> None:
    path = staging / file.path
    path.parent.mkdir(parents=True, exist_ok=True)
    hasher = hashlib.sha256()
    size = 0
    blob = f"targets/blobs/{file.sha256}"
    try:
        with source.open(blob) as blocks, path.open("wb") as target:
            for block in blocks:
                size += len(block)
                if size > file.size:
                    raise PublisherError(
                        f"{file.path} is too long: more than the {file.size} bytes that the manifest says", where=blob
                    )
                hasher.update(block)
                target.write(block)
                if on_bytes is not None:
                    on_bytes(len(block))
            os.fchmod(target.fileno(), 0o644)
            target.flush()
            os.fsync(target.fileno())
    except FileNotFoundError as error:
        if error.filename is not None and Path(error.filename).is_relative_to(staging):
            raise
        raise PublisherError(
            f"{file.path} is named by the manifest but not in the registry",
            where=f"{source.url}/{blob}",
            next_step="publish the bundle again: hedgerow registry publish BUNDLE, then playbooks/publish.yml",
        ) from error
    if size < file.size:
        raise PublisherError(
            f"{file.path} is truncated: {size} of {file.size} bytes",
            where=f"{source.url}/{blob}",
            next_step="nothing was activated; bring the registry to the gateway again: playbooks/publish.yml",
        )
    if hasher.hexdigest() != file.sha256:
        raise PublisherError(
            f"{file.path} was altered: sha256 {hasher.hexdigest()}, the manifest says {file.sha256}",
            where=f"{source.url}/{blob}",
            next_step="nothing was activated; bring the registry to the gateway again: playbooks/publish.yml",
        )


def _verified(folder: Path, data: bytes) -> Bundle | None:
    """The bundle in ``folder`` if it is whole and of just this manifest."""
    try:
        if (folder / manifests.FILE_NAME).read_bytes() != data:
            return None
        return bundles.verify_files(folder)
    except (OSError, PublisherError):
        return None


def _check_space(home: Path, manifest: Manifest, reserve_mb: int) -> None:
    free = shutil.disk_usage(home).free
    needed = manifest.size + reserve_mb * _MB
    if free < needed:
        raise DeviceError(
            f"no space for {manifest.reference}: it needs {-(-needed // _MB)} MB "
            f"({reserve_mb} MB of them stay free), {free // _MB} MB are free",
            where=str(home),
            next_step=f"remove versions that are not in use below {home}, then run it again",
        )


def _remove_stale(home: Path) -> None:
    for path in home.glob(f"{STAGING_PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _only_one(home: Path) -> Iterator[None]:
    """One fetch a model at a time; a second one waits, then finds the work done."""
    with _naming_disk(home):
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".lock").open("w", encoding="utf-8")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _naming_disk(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DeviceError(
                "the disk became full; nothing was left half-written",
                where=str(home),
                next_step=f"remove versions that are not in use below {home}, then run it again",
            ) from error
        raise DeviceError(f"the disk fails: {error.strerror}", where=str(error.filename or home)) from error
