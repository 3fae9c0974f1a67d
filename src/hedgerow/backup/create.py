"""Make a backup: a snapshot, its manifest, then every file, encrypted as it is written. It is whole or not there."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Final, NamedTuple, cast

import yaml

from hedgerow import __version__, atomic, audit
from hedgerow.audit.log import timestamp
from hedgerow.backup import snapshot
from hedgerow.backup.age import Writer
from hedgerow.backup.age_keys import Wrapper
from hedgerow.backup.manifest import NAME, Item, Manifest, encode
from hedgerow.backup.snapshot import Entry, Snapshot
from hedgerow.errors import MachineError, RefusedError, UsageError

_MODE: Final = 0o600


class Made(NamedTuple):
    """What was written. ``sha256`` is the encrypted file's."""

    manifest: Manifest
    size: int
    sha256: str


def create(
    fleet: str, fleet_dir: Path, inventory: Path, output: Path, wrappers: Sequence[Wrapper], *, by: str,
    with_blobs: bool = False,
) -> Made:  # fmt: skip
    """Write the backup to ``output``, which must not be there yet.

    Raises:
        UsageError: there is nothing to back up.
        RefusedError: the file is there, or somebody publishes right now.
        MachineError: the disk is full; nothing is left behind.
    """
    if not fleet_dir.is_dir():
        raise UsageError(f"fleet {fleet} has no state on this controller", where=str(fleet_dir))
    if output.exists():
        raise RefusedError("a backup overwrites nothing", where=str(output), next_step="name another file")
    try:
        descriptor, name = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    except OSError as error:
        raise _unwritable(error, output) from error
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            with snapshot.taken(fleet_dir, inventory, with_blobs=with_blobs) as found:
                manifest = _describe(fleet, fleet_dir, found, by=by)
                _write(file, wrappers, manifest, found)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
        # Not replace: of two backups at once into one name, one must lose and say so.
        os.link(temporary, output)
        temporary.unlink()
        atomic.fsync_dir(output.parent)
    except FileExistsError as error:
        temporary.unlink(missing_ok=True)
        raise RefusedError("a backup overwrites nothing", where=str(output), next_step="name another file") from error
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _unwritable(error, output) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Made(manifest, size, sha256)


def _describe(fleet: str, fleet_dir: Path, found: Snapshot, *, by: str) -> Manifest:
    return Manifest(
        fleet=fleet,
        at=timestamp(),
        by=by,
        version=__version__,
        audit_head=str(audit.of_fleet(fleet_dir).head()),
        items=[entry.item for entry in found.entries],
        left_out=found.left_out,
        apart=_apart(found.entries),
    )


def _apart(entries: Sequence[Entry]) -> list[str]:
    """What opens the keys that are in here, and is not in here itself."""
    found = []
    for entry in entries:
        path, name = entry.item.path, entry.source.name
        if entry.item.link is not None:
            continue
        encrypted = name.endswith((".key", ".pem")) and b"ENCRYPTED" in _head(entry.source)
        if encrypted or (path.startswith("fleet/ssh-ca/keys/") and not name.endswith(".pub")):
            found.append(f"the passphrase of {path}")
        elif name == "key.uri":
            found.append(f"the token that holds the key of {path.removesuffix('/key.uri')}")
        elif name == "authority.yml":
            keys: dict[str, Any] = (yaml.safe_load(entry.source.read_bytes()) or {}).get("keys") or {}
            found += [
                f"the token or service of the key {key} of {path}"
                for key, one in keys.items()
                if not str(one.get("uri", "")).startswith("pem:")
            ]
        elif path.startswith("inventory/") and b"$ANSIBLE_VAULT" in _head(entry.source):
            found.append(f"the vault password of {path}")
    return found


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(1 << 16)


def _write(file: IO[bytes], wrappers: Sequence[Wrapper], manifest: Manifest, found: Snapshot) -> None:
    writer = Writer(file, wrappers)
    # tarfile writes to it and asks no more of it.
    with tarfile.open(fileobj=cast("IO[bytes]", writer), mode="w|gz", format=tarfile.PAX_FORMAT) as archive:
        data = encode(manifest)
        archive.addfile(_info(Item(NAME, len(data))), io.BytesIO(data))
        for entry in found.entries:
            _add(archive, entry)
    writer.finish()


def _add(archive: tarfile.TarFile, entry: Entry) -> None:
    info = _info(entry.item)
    if entry.item.link is not None:
        info.type, info.linkname = tarfile.SYMTYPE, entry.item.link
        archive.addfile(info)
    elif entry.content is not None:
        archive.addfile(info, io.BytesIO(entry.content))
    else:
        info.mtime = entry.source.stat().st_mtime
        with entry.source.open("rb") as file:
            source = _Counted(file, entry.item.size)
            archive.addfile(info, cast("IO[bytes]", source))
        if source.digest.hexdigest() != entry.item.sha256:
            raise MachineError(
                "a file was changed while it was backed up",
                where=str(entry.source),
                next_step="run the command again; if it comes back, see who writes there",
            )


def _info(item: Item) -> tarfile.TarInfo:
    info = tarfile.TarInfo(item.path)
    info.size, info.mode = item.size, item.mode
    return info


class _Counted:
    """A file that has grown or shrunk since reads as if it had not; the digest tells."""

    def __init__(self, file: IO[bytes], length: int) -> None:
        self._file, self._left = file, length
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(self._left if size < 0 else min(size, self._left))
        self._left -= len(data)
        self.digest.update(data)
        missing = 0 if size < 0 else min(size - len(data), self._left)
        self._left -= missing
        return data + bytes(missing)


def _unwritable(error: OSError, output: Path) -> MachineError:
    return MachineError(
        f"the backup cannot be written: {error.strerror}",
        where=str(error.filename or output),
        next_step=f"make room (df -h {output.parent}) or name another place; nothing was left behind",
    )
