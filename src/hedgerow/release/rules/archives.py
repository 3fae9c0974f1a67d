"""The apt archives of the inventory."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hedgerow.release import known
from hedgerow.release.model import Combination, Rule, Status


def _mender_archive_path(of: Combination) -> Iterator[str]:
    for source in of.sources:
        for uri in source.uris:
            if "mender" in uri and uri.rstrip("/").endswith(known.MENDER_OLD_PATH):
                yield f"os_pinning_sources.{source.name}: {uri}"


def _archive_key(of: Combination) -> Iterator[str]:
    for source in of.sources:
        if source.key_expiry is not None and source.key_expiry <= of.now:
            ended = time.strftime("%Y-%m-%d", time.gmtime(source.key_expiry))
            yield f"os_pinning_sources.{source.name}: its key ended on {ended}"


RULES: tuple[Rule, ...] = (
    Rule(
        "mender-archive",
        "Mender's repository moved in November 2025; the old path answers 403.",
        "§5.1, F25",
        Status.FORBIDDEN,
        _mender_archive_path,
    ),
    Rule(
        "archive-key",
        "An archive whose key is over fails every apt update (Mender's ended on 2026-10-01).",
        "§5.1, F25",
        Status.FORBIDDEN,
        _archive_key,
    ),
)
