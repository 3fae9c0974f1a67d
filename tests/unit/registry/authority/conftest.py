"""A stage in memory with its keys in files, and a device that believes only what the real client believes."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import MachineError
from hedgerow.registry.authority import changing, keys, releasing, settings, staging
from hedgerow.registry.authority.changing import RoleKeys
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settings import Settings
from hedgerow.registry.client.trusted import Trusted
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import Entry, Tagged

PASSPHRASE = "correct horse battery"
TOP = {
    "root": RoleKeys(("root-ann", "root-ben", "root-cem"), 2),
    "targets": RoleKeys(("targets-ann",)),
    "snapshot": RoleKeys(("snapshot",)),
    "timestamp": RoleKeys(("timestamp",)),
}
OWNERS = {
    "root-ann": "ann", "root-ben": "ben", "root-cem": "cem", "targets-ann": "ann", "snapshot": "controller",
    "timestamp": "controller", "build-dan": "dan", "build-eve": "eve", "approve-fay": "fay", "approve-gus": "gus",
    "spare": "ben",
}  # fmt: skip


class MemoryStore:
    """``ObjectStore`` in a dictionary; the write number ``fail_at`` (from 1) and all after it fail."""

    def __init__(self, files: dict[str, bytes] | None = None, fail_at: int | None = None) -> None:
        self.files = {} if files is None else files
        self.fail_at = fail_at
        self.writes = 0
        self.where = "memory"

    def get(self, path: str) -> bytes | None:
        return self.files.get(path)

    def put(self, path: str, data: bytes) -> None:
        self._write()
        self.files[path] = data

    def put_file(self, path: str, source: Path) -> None:
        self.put(path, source.read_bytes())

    def put_new(self, path: str, data: bytes) -> bool:
        if path in self.files:
            return False
        self.put(path, data)
        return True

    def get_tagged(self, path: str) -> Tagged | None:
        data = self.files.get(path)
        return None if data is None else Tagged(data, hashlib.sha256(data).hexdigest(), 0.0)

    def put_if(self, path: str, data: bytes, etag: str) -> bool:
        found = self.get_tagged(path)
        if found is None or found.etag != etag:
            return False
        self.put(path, data)
        return True

    def holds(self, path: str, *, size: int, sha256: str) -> bool:
        data = self.files.get(path)
        return data is not None and len(data) == size and hashlib.sha256(data).hexdigest() == sha256

    def delete(self, path: str) -> None:
        self._write()
        self.files.pop(path, None)

    def list(self, prefix: str) -> Iterator[str]:
        return iter(sorted(path for path in self.files if path.startswith(prefix)))

    def entries(self, prefix: str) -> Iterator[Entry]:
        return (Entry(path, len(self.files[path]), 0.0) for path in self.list(prefix))

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        if path not in self.files:
            raise FileNotFoundError(path)
        yield iter([self.files[path]])

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.files[path][offset : offset + length]

    def discard_unfinished(self, older_than_s: float) -> int:
        return 0

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def _write(self) -> None:
        self.writes += 1
        if self.fail_at is not None and self.writes >= self.fail_at:
            raise MachineError("killed here")


class MemorySource:
    """What a device reads the store through."""

    url = "https://registry.test"

    def __init__(self, files: dict[str, bytes]) -> None:
        self._files = files

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator[Iterator[bytes]]:
        if path not in self._files:
            raise FileNotFoundError(path)
        yield iter([self._files[path]])


class Clock:
    """Starts now, because python-tuf's client looks at the real time."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).replace(microsecond=0)

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **span: float) -> None:
        self.now += timedelta(**span)


class Device:
    """A device with a trust folder of its own that keeps what it has seen."""

    def __init__(self, files: dict[str, bytes], folder: Path, clock: Clock) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "root.json").write_bytes(files["metadata/1.root.json"])
        self._files, self._folder, self._clock = files, folder, clock

    def manifest(self, reference: str, files: dict[str, bytes] | None = None) -> bytes:
        source = MemorySource(self._files if files is None else files)
        return Trusted(source, self._folder, now=self._clock).manifest(Reference.parse(reference))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def all_keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """Every key that a test needs, made once: stretching passphrases costs time."""
    folder = tmp_path_factory.mktemp("stage")
    made = Settings(schema=1, fleet="meadow", stage="dev")
    for name, owner in OWNERS.items():
        made = settings.add_key(made, name, keys.generate(folder, name, owner, PASSPHRASE))
    (folder / "passphrase").write_text(PASSPHRASE + "\n")
    (folder / "passphrase").chmod(0o600)
    return folder, made


@pytest.fixture
def open_session(all_keys: tuple[Path, Settings], clock: Clock) -> Callable[..., Session]:
    folder, made = all_keys

    def opened(store: MemoryStore | None = None, *, only: tuple[str, ...] = (), **changes: object) -> Session:
        passphrases = Passphrases({None: folder / "passphrase"})
        described = msgspec.structs.replace(made, **changes)
        return Session(folder, described, store or MemoryStore(), passphrases, only, clock)

    return opened


@pytest.fixture
def session(open_session: Callable[..., Session]) -> Session:
    """A founded stage, in which dan builds models and fay approves them."""
    made = open_session()
    changing.found(made, TOP)
    changing.delegate(made, "build-model", RoleKeys(("build-dan",)))
    changing.delegate(made, "approve-model", RoleKeys(("approve-fay",)))
    return made


def only(session: Session, *names: str) -> Session:
    """The same stage for somebody who has these keys alone."""
    return replace(session, only=names)


def let_out(session: Session, folder: Path) -> Wanted:
    """Stage, approve and release a bundle of kind model."""
    word = staging.stage(session, folder)
    name, _, version = word.reference.partition("@")
    staging.approve(session, "model", name, version)
    wanted = Wanted("model", name, version)
    releasing.release(session, wanted)
    return wanted


@pytest.fixture
def device(session: Session, tmp_path: Path, clock: Clock) -> Device:
    return Device(session.store.files, tmp_path / "trust", clock)
