"""Bring a bundle to this device: verified, whole, or not at all.

Trust, in this order; nothing is placed before all of it holds:

- The manifest is a target of the registry's metadata, verified by python-tuf's client from the root in ``trust_dir``:
  signatures, thresholds, expiry, no step back to older metadata.
- Every file has the size and SHA-256 that the manifest names; bytes beyond the size are not read. A file that
  changed at its address, as a vendor's models did (F23), is refused.

Files are written to a staging folder beside their final place, flushed, and one rename makes the version appear.
Whatever goes wrong, the staging folder is removed; one that a power cut left is removed by the next fetch.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tuf.api.exceptions import DownloadError, DownloadLengthMismatchError, RepositoryError
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig

from hedgerow import atomic, filelock
from hedgerow.errors import DeviceError, HedgerowError, NetworkError, PublisherError, RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import File, Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.source import MetadataFetcher, Source

STAGING_PREFIX = ".staging-"
_MANIFEST_PREFIX = ".manifest-"
# Left free beside the bundle, so that logs and a rollback's bookkeeping never starve. MB.
DEFAULT_RESERVE_MB = 64
# A second command waits this long for a fetch that runs, then says who has it.
LOCK_WAIT_S = 30.0
_MB = 1 << 20
_FOLDER_MODE = 0o755


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
    home = models_dir / reference.name
    final = home / reference.version
    with _naming_disk(home), _only_one(trust_dir):
        data = trusted_manifest(source, reference, trust_dir=trust_dir)
        manifest = manifests.decode(data, where=reference.target)
        if manifest.reference != str(reference):
            raise RefusedError(f"{reference.target} describes {manifest.reference}", where=source.url)
        _make_folder(home)
        _remove_stale(home)
        present = _verified(final, data)
        if present is not None:
            return Fetched(present, 0)
        _check_space(home, manifest, reserve_mb)
        staging = Path(tempfile.mkdtemp(dir=home, prefix=f"{STAGING_PREFIX}{reference.version}-"))
        try:
            for file in manifest.files:
                _fetch_file(source, file, staging, on_bytes)
            atomic.write_bytes(staging / manifests.FILE_NAME, data)
            _flush_folders(staging)
            _place(staging, final)
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
    root = _anchor(trust_dir)
    config = UpdaterConfig(prefix_targets_with_hash=False, targets_max_length=manifests.MAX_MANIFEST_BYTES * 2)
    try:
        updater = Updater(
            str(trust_dir),
            f"{source.url}/metadata/",
            target_base_url=f"{source.url}/targets/",
            fetcher=MetadataFetcher(source),
            config=config,
            bootstrap=root,
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
        with tempfile.NamedTemporaryFile(dir=trust_dir, prefix=_MANIFEST_PREFIX) as temporary:
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
        raise NetworkError(
            f"the registry cannot be read: {error}",
            where=source.url,
            next_step="bring the registry to the gateway: playbooks/publish.yml",
        ) from error
    except RepositoryError as error:
        raise RefusedError(
            f"the registry's signatures do not vouch for {reference}: {error}",
            where=f"{source.url} (rule: {type(error).__name__})",
            next_step="nothing was changed here; on the controller: hedgerow registry verify",
        ) from error


def _fetch_file(source: Source, file: File, staging: Path, on_bytes: Callable[[int], None] | None) -> None:
    path = staging / file.path
    _make_folder(path.parent)
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


def _make_folder(path: Path) -> None:
    """Make missing folders so that the server's user can read them, whatever the umask is."""
    for folder in (*reversed(path.parents), path):
        if not folder.exists():
            folder.mkdir()
            folder.chmod(_FOLDER_MODE)


def _flush_folders(staging: Path) -> None:
    """Make every name in the bundle durable before the one that makes it appear."""
    staging.chmod(_FOLDER_MODE)
    for folder, _, _ in os.walk(staging):
        atomic.fsync_dir(Path(folder))


def _place(staging: Path, final: Path) -> None:
    """Let the version appear; a damaged one makes way in one rename, so that the gap is as short as can be."""
    if final.exists():
        final.rename(staging.with_name(f"{staging.name}-damaged"))
    staging.rename(final)
    atomic.fsync_dir(final.parent)
    _remove_stale(final.parent)


def _anchor(trust_dir: Path) -> bytes:
    """The root metadata that trust starts from: the newest that this device has verified, or the role has placed.

    python-tuf's client replaces ``root.json`` in two steps, and a power cut between them leaves none, or an empty one:
    then the roots that it has verified before, newest first, are as good.

    Raises:
        UsageError: there is none.
    """
    known = sorted((trust_dir / "root_history").glob("*.root.json"), key=lambda path: -int(path.name.partition(".")[0]))
    for path in (trust_dir / "root.json", *known):
        with suppress(FileNotFoundError, DeserializationError):
            data = path.read_bytes()
            Metadata[Root].from_bytes(data)
            return data
    raise _no_anchor(trust_dir)


def _no_anchor(trust_dir: Path) -> UsageError:
    return UsageError(
        "this device has no root of trust",
        where=str(trust_dir),
        next_step="ansible-playbook playbooks/site.yml --tags model_store",
    )


@contextmanager
def _only_one(trust_dir: Path) -> Iterator[None]:
    """One fetch at a time on this device: python-tuf's client must have its folder to itself."""
    if not trust_dir.is_dir():
        raise _no_anchor(trust_dir)
    with filelock.exclusive(trust_dir / "lock", wait_s=LOCK_WAIT_S, work="fetching to this device"):
        # What a kill left: our own, and python-tuf's client's, which has no name of its own for them.
        for path in (*trust_dir.glob(f"{_MANIFEST_PREFIX}*"), *trust_dir.glob(f"{tempfile.gettempprefix()}*")):
            path.unlink(missing_ok=True)
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
