"""The trust folder of a device: where trust starts from, and one process in it at a time.

The folder is the one that python-tuf's client keeps: ``root.json``, ``root_history/<n>.root.json``, and the newest
verified file of each role.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from hedgerow import filelock
from hedgerow.errors import DeviceError, UsageError

# A second command waits this long for one that runs, then says who has it. Seconds.
LOCK_WAIT_S = 30.0
_WORK = "fetching to this device"


def root(trust_dir: Path) -> bytes:
    """The root metadata that trust starts from: what the role has placed, or the newest that this device has verified.

    ``root.json`` first: after a fleet has got another root by hand, it and the history disagree, and it leads. A power
    cut can leave it away, empty or behind. Away or empty, the newest of the history that is whole and signed by its
    own keys is as good; behind, the client walks on from it.

    Raises:
        UsageError: there is none.
    """
    history = (trust_dir / "root_history").glob("*.root.json")
    newest_first = sorted(history, key=lambda path: -_version(path))
    for path in (trust_dir / "root.json", *newest_first):
        with suppress(FileNotFoundError, RepositoryError):
            data = path.read_bytes()
            metadata = Metadata[Root].from_bytes(data)
            metadata.signed.verify_delegate(Root.type, metadata.signed_bytes, metadata.signatures)
            return data
    raise _none(trust_dir)


@contextmanager
def naming_disk(trust_dir: Path) -> Iterator[None]:
    """What the disk refuses is the device's fault, and no reason to doubt the registry."""
    try:
        yield
    except OSError as error:
        raise DeviceError(
            f"the trust folder cannot be kept: {error.strerror}",
            where=str(error.filename or trust_dir),
            next_step="see df -h and dmesg on the device; what serves goes on",
        ) from error


@contextmanager
def only_one(trust_dir: Path) -> Iterator[None]:
    """Hold the folder; temporary files that a kill left are removed: python-tuf's, and those of older runtimes.

    Raises:
        UsageError: there is no such folder.
        DeviceError: another process keeps it, or the disk fails.
    """
    if not trust_dir.is_dir():
        raise _none(trust_dir)
    with naming_disk(trust_dir), filelock.exclusive(trust_dir / "lock", wait_s=LOCK_WAIT_S, work=_WORK):
        for pattern in (f"{tempfile.gettempprefix()}*", ".*.json.*", ".manifest-*", "root_history/.*.json.*"):
            for path in trust_dir.glob(pattern):
                path.unlink(missing_ok=True)
        yield


def _version(path: Path) -> int:
    number = path.name.partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _none(trust_dir: Path) -> UsageError:
    return UsageError(
        "this device has no root of trust",
        where=str(trust_dir),
        next_step="ansible-playbook playbooks/site.yml --tags model_store",
    )
