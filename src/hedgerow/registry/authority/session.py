"""One stage of a fleet, opened: its settings, its store, the keys that are here. Every change goes through ``work``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from hedgerow.errors import UsageError
from hedgerow.registry.authority import log, repository, settings, settling
from hedgerow.registry.authority.draft import Draft
from hedgerow.registry.authority.keys import Keyring, Passphrases
from hedgerow.registry.authority.settings import Settings
from hedgerow.registry.authority.settling import Settled
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.stores import open_store


def _utc_now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass
class Session:
    """What commands work on. ``now`` is asked once for each piece of work."""

    directory: Path
    settings: Settings
    store: ObjectStore
    passphrases: Passphrases = field(default_factory=Passphrases)
    only: tuple[str, ...] = ()
    now: Callable[[], datetime] = _utc_now

    @classmethod
    def open(cls, directory: Path, *, passphrases: Passphrases | None = None, only: Iterable[str] = ()) -> Session:
        """Open the stage that ``directory/authority.yml`` describes. ``only``: the names of keys that may sign.

        Raises:
            UsageError: there is none, or its store is no place.
        """
        found = settings.load(directory)
        return cls(directory, found, store_of(directory, found), passphrases or Passphrases(), tuple(only))

    def keyring(self, *, only: Iterable[str] | None = None) -> Keyring:
        """The stage's keys, opened as they are needed."""
        return Keyring(self.settings, self.directory, self.passphrases, self.only if only is None else only)

    @contextlib.contextmanager
    def work(self) -> Iterator[Work]:
        """Hold off other publishers, read what is published and staged; candidates are kept at the end.

        Raises:
            RefusedError: somebody else works on this registry.
            PublisherError: its metadata or its log is damaged.
        """
        with self.store.lock():
            work = self._load()
            yield work
            repository.save_candidates(self.store, work.draft)

    def look(self) -> Draft:
        """What is published and staged, for reading alone.

        Raises:
            PublisherError: it is damaged.
        """
        return self._load().draft

    def _load(self) -> Work:
        loaded = repository.load(self.store)
        draft = Draft(None if loaded is None else loaded.state, self.settings.lifetimes, self.now())
        repository.load_candidates(self.store, draft)
        draft.judge(self.keyring().owns)
        if loaded is not None:
            log.check_end(self.store, log.anchor(loaded.state.snapshot.signed))
        return Work(self, draft, mend=loaded is not None and loaded.mend)


@dataclass
class Work:
    """One change under the store's lock."""

    session: Session
    draft: Draft
    mend: bool = False

    def sign(self, *chosen: str) -> None:
        """Sign the candidates of ``chosen`` roles (all without any) with the keys that are here; foreign ones never.

        Raises:
            RefusedError: a foreign candidate says something else than this command.
        """
        for role in chosen or self.draft.candidates():
            self.draft.reconcile(role)
        own = tuple(role for role in chosen or self.draft.candidates() if role not in self.draft.foreign)
        settling.sign(self.draft, self.session.keyring(), own)

    def settle(self, scope: frozenset[str] | None = None, *, at_once: bool = False, note: str = "") -> Settled:
        """Keep the candidates, then publish those of ``scope`` (None: all) that are ready."""
        store = self.session.store
        repository.save_candidates(store, self.draft)
        # Whoever is asked to sign with one key alone still lets the online keys do their part.
        keyring = self.session.keyring(only=())
        done = settling.settle(store, self.draft, keyring, scope, at_once=at_once, mend=self.mend, note=note)
        repository.remove_candidates(store, done.written)
        return done


def store_of_stage(fleet: str, stage: str) -> ObjectStore:
    """Where the registry of a fleet's stage lies: what its devices read, and what rollouts are planned by.

    Raises:
        UsageError: the stage is not founded, or its address is none.
    """
    folder = settings.folder(fleet, stage)
    return store_of(folder, settings.load(folder))


def store_of(directory: Path, found: Settings) -> ObjectStore:
    """The stage's store: a folder relative to its settings, or wherever the address leads.

    Raises:
        UsageError: the address is none.
    """
    if "://" in found.store:
        return open_store(found.store)
    folder = directory / found.store
    if folder.is_file():
        raise UsageError("the store is a file", where=str(folder))
    return open_store(str(folder.resolve()))
