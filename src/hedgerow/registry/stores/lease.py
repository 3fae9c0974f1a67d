"""One writer at a time where no operating system keeps a lock: a file that says who writes, and until when.

- Taken by a conditional write, so of two that try at once one wins. Renewed by a thread while the work goes on.
- Who is killed stops renewing; after ``ttl_s`` by the *store's* clock anybody may take it over. No two machines' clocks
  are ever compared: age is what the store says of its own file, and a holder counts on its own monotonic clock.
- Every taking has a new number, larger than all before. A holder that slept through its end (a suspended laptop, a
  stalled disk) finds another number there: ``check`` asks the store, and a writer that checks *after* it has read a
  file's tag and then writes on condition of that tag can never overwrite what its successor wrote (fencing; Kleppmann,
  "How to do distributed locking", 2016, asks for a number that the storage itself compares: the tag is that).
- Where a store ignores conditions (``settle_s``), the last of two writers wins, and both look again after waiting.
  Weaker: whoever needs longer than that for one request is not seen in time. ``check`` before every write is left.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from msgspec import Struct

from hedgerow.errors import HedgerowError, NetworkError, RefusedError
from hedgerow.registry.store import ObjectStore, Tagged

# A publisher that was killed keeps others away for a minute; a line may be gone for forty seconds of it.
DEFAULT_TTL_S = 60.0
# Of the life that a renewal gives, the holder itself trusts this share: the rest is the request's way to the store.
_TRUSTED = 0.75
# Renewed when this share of the life has passed: two tries may fail.
_RENEW_AT = 0.25


class Holder(Struct, frozen=True, omit_defaults=True):
    """Content of the file: ``number`` counts takings, ``owner`` is empty once it was given back.

    ``beat`` counts renewals, so that every renewal has a tag of its own: whoever found the lease ended, in the moment
    before it was renewed, does not take it over after all.
    """

    number: int
    owner: str = ""
    token: str = ""
    work: str = ""
    ttl_s: float = DEFAULT_TTL_S
    beat: int = 0


class Lease:
    """The lease at ``path``, held within ``with``; ``work`` says in errors what its holder does.

    Raises:
        RefusedError: somebody else has it; says who, since when, and when it ends by itself.
    """

    def __init__(
        self,
        store: ObjectStore,
        path: str,
        *,
        work: str,
        owner: str | None = None,
        ttl_s: float = DEFAULT_TTL_S,
        settle_s: float | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._path = path
        self._work = work
        self._owner = owner or f"process {os.getpid()} on {socket.gethostname()}"
        self._ttl_s = ttl_s
        self._settle_s = settle_s
        self._monotonic = monotonic
        self._mine: Holder | None = None
        self._etag = ""
        self._beat = 0
        self._until = 0.0
        self._ended = threading.Event()
        # Renewing and giving back both change the tag that the next write depends on.
        self._writing = threading.Lock()

    @contextmanager
    def held(self) -> Iterator[Holder]:
        holder = self._take()
        self._ended.clear()
        renewer = threading.Thread(target=self._keep, name=f"lease {self._path}", daemon=True)
        renewer.start()
        try:
            yield holder
        finally:
            self._ended.set()
            renewer.join()
            self._give_back()

    def check(self) -> Holder:
        """Make sure, by asking the store, that this process still has the lease.

        Raises:
            RefusedError: it ended or somebody took it over; nothing must be written any more.
            NetworkError: the store cannot be asked.
        """
        mine = self._mine
        if mine is None:
            raise self._lost("it was never taken")
        present = self._read()
        if present is None or present[0].token != mine.token:
            raise self._lost("it is gone" if present is None else f"{present[0].owner or 'another'} took it over")
        if self._monotonic() > self._until:
            raise self._lost(f"it was not renewed for {self._ttl_s * _TRUSTED:g} s")
        return mine

    def _take(self) -> Holder:
        began = self._monotonic()
        present = self._read()
        if present is not None:
            holder, tagged = present
            if holder.owner and tagged.age_s <= holder.ttl_s:
                raise RefusedError(
                    f"another publisher works on this registry: {holder.owner}, {holder.work or 'writing'}",
                    where=f"{self._store.where}, {self._path}",
                    next_step=f"wait until it has finished; if it was killed, its lease ends in "
                    f"{max(1, round(holder.ttl_s - tagged.age_s))} s: then run the command again",
                )
        number = 1 if present is None else present[0].number + 1
        mine = Holder(number, self._owner, secrets.token_hex(16), self._work, self._ttl_s)
        data = msgspec.json.encode(mine)
        if present is None:
            won = self._store.put_new(self._path, data)
        else:
            won = self._store.put_if(self._path, data, present[1].etag)
        if won and self._settle_s is not None:
            time.sleep(self._settle_s)
        taken = self._read()
        if not won or taken is None or taken[0].token != mine.token:
            raise RefusedError(
                f"another publisher began at the same moment: {taken[0].owner if taken else 'unknown'}",
                where=f"{self._store.where}, {self._path}",
                next_step="wait until it has finished, then run the command again",
            )
        self._mine, self._etag = mine, taken[1].etag
        self._until = began + self._ttl_s * _TRUSTED
        return mine

    def _keep(self) -> None:
        while not self._ended.wait(self._ttl_s * _RENEW_AT):
            try:
                if not self._renew():
                    return  # ``check`` says so to whoever writes next
            except NetworkError:
                continue  # the line may come back; ``_until`` says how long that is allowed
            except HedgerowError:
                return

    def _renew(self) -> bool:
        with self._writing:
            mine = self._mine
            if mine is None:
                return False
            began = self._monotonic()
            self._beat += 1
            renewed = msgspec.structs.replace(mine, beat=self._beat)
            if not self._store.put_if(self._path, msgspec.json.encode(renewed), self._etag):
                return False
            taken = self._read()
            if taken is None or taken[0].token != mine.token:
                return False
            self._etag = taken[1].etag
            self._until = began + self._ttl_s * _TRUSTED
            return True

    def _give_back(self) -> None:
        """Leave the number behind, so that the next taking has a larger one."""
        with self._writing:
            mine, self._mine = self._mine, None
            if mine is not None:
                try:
                    self._store.put_if(self._path, msgspec.json.encode(Holder(mine.number)), self._etag)
                except HedgerowError:
                    return  # it ends by itself; an error here would hide what the work said

    def _read(self) -> tuple[Holder, Tagged] | None:
        tagged = self._store.get_tagged(self._path)
        if tagged is None:
            return None
        try:
            return msgspec.json.decode(tagged.data, type=Holder), tagged
        except msgspec.DecodeError as error:
            raise RefusedError(
                f"the lease of this registry cannot be read: {error}",
                where=f"{self._store.where}, {self._path}",
                next_step="make sure that nobody publishes, then remove this file",
            ) from error

    def _lost(self, why: str) -> RefusedError:
        return RefusedError(
            f"this publisher lost the registry's lease: {why}",
            where=f"{self._store.where}, {self._path}",
            next_step="nothing more was written; devices see what they saw before. Run the command again",
        )
