"""Whether devices that ask a caching gateway are told the stage's release. Reads; nothing is brought anywhere.

What the gateway shows is held against the stage's own store, byte for byte: the timestamp, which it may show as it was
for a few seconds, the snapshot that this names, and the end of the newest pack, asked for as devices ask.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from tuf.api.metadata import Metadata, Timestamp
from tuf.api.serialization import DeserializationError

from hedgerow.errors import NetworkError, PublisherError, UsageError
from hedgerow.registry.source import RangeSource
from hedgerow.registry.store import ObjectStore

WITHIN_S = 70.0
"""The longest that a gateway may keep a timestamp (``registry_mirror_metadata_s``), and an answer's own time."""
_TIMESTAMP = "metadata/timestamp.json"
_MOST = 2 << 20
_END = 64
_LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Seen:
    """Versions that devices are told, and the pack that was looked into, if there is any."""

    timestamp: int
    snapshot: int
    pack: str | None


def look(
    store: ObjectStore,
    gateway: RangeSource,
    *,
    within_s: float = WITHIN_S,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Seen:
    """Wait until ``gateway`` shows what ``store`` has.

    Raises:
        UsageError: there is no registry in ``store``.
        NetworkError: the gateway cannot be reached, or not its origin.
        PublisherError: it shows something else.
    """
    deadline = clock() + within_s
    while (shown := _read(gateway, _TIMESTAMP)) != (wanted := _timestamp(store)):
        if clock() >= deadline:
            raise PublisherError(
                f"it shows timestamp {_version(shown)} for {within_s:.0f} s, and the stage has {_version(wanted)}",
                where=f"{gateway.url}, {store.where}",
                next_step="see that its origin (registry_mirror_origin) is where the stage is published; what the "
                "gateway says of it: journalctl -t nginx",
            )
        sleep(_LOOK_EVERY_S)
    timestamp = Metadata[Timestamp].from_bytes(wanted).signed
    snapshot = timestamp.snapshot_meta.version
    path = f"metadata/{snapshot}.snapshot.json"
    if _read(gateway, path) != store.get(path):
        _differs(gateway, path)
    return Seen(timestamp.version, snapshot, _pack(store, gateway))


def _pack(store: ObjectStore, gateway: RangeSource) -> str | None:
    newest = min(store.entries("targets/packs/"), key=lambda entry: entry.age_s, default=None)
    if newest is None:
        return None
    start = max(0, newest.size - _END)
    length = newest.size - start
    try:
        with gateway.open_range(newest.path, start, length) as part:
            shown = b"".join(part)
    except FileNotFoundError:
        _missing(gateway, newest.path)
    except NetworkError as error:
        raise _unreachable(error) from error
    if shown != store.read_range(newest.path, start, length):
        _differs(gateway, newest.path)
    return newest.path


def _read(gateway: RangeSource, path: str) -> bytes:
    data = bytearray()
    try:
        with gateway.open(path) as blocks:
            for block in blocks:
                data += block
                if len(data) > _MOST:
                    _differs(gateway, path)
    except FileNotFoundError:
        _missing(gateway, path)
    except NetworkError as error:
        raise _unreachable(error) from error
    return bytes(data)


def _timestamp(store: ObjectStore) -> bytes:
    data = store.get(_TIMESTAMP)
    if data is None:
        raise UsageError(
            "the registry has no metadata yet",
            where=store.where,
            next_step="hedgerow registry init, then hedgerow registry publish BUNDLE",
        )
    return data


def _version(data: bytes) -> str:
    try:
        return str(Metadata[Timestamp].from_bytes(data).signed.version)
    except DeserializationError:
        return "that cannot be read"


def _unreachable(error: NetworkError) -> NetworkError:
    return NetworkError(
        error.what,
        where=error.where,
        next_step="is the gateway on? Where it answers HTTP 502, it cannot reach its origin: journalctl -t nginx there",
    )


def _missing(gateway: RangeSource, path: str) -> NoReturn:
    raise PublisherError(
        f"its origin has no {path}",
        where=gateway.url,
        next_step="bring the stage there: hedgerow registry push s3://BUCKET/PREFIX; the prefix is part of the "
        "origin's address, too",
    )


def _differs(gateway: RangeSource, path: str) -> NoReturn:
    raise PublisherError(
        f"it shows other bytes of {path} than the stage has",
        where=gateway.url,
        next_step=f"drop what it has kept: ansible-playbook playbooks/purge_cache.yml -e path={path}; if it stays, its "
        "origin is another registry",
    )
