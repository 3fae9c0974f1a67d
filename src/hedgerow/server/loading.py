"""Load a version from its folder and, before a switch, hold it to its golden inputs. Blocks; run it on a thread."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.errors import HedgerowError
from hedgerow.registry import bundle as bundles
from hedgerow.registry.manifest import FILE_NAME, GoldenText, Manifest
from hedgerow.server import backends, configuring, golden
from hedgerow.server.computing import Computing
from hedgerow.server.errors import Unusable
from hedgerow.server.isolation import backend as isolation
from hedgerow.server.modelconfig import ModelConfig
from hedgerow.server.models import Served

if TYPE_CHECKING:
    from hedgerow.server.backends import Backend

log = logging.getLogger("hedgerow.server")
PLAIN_VERSION = "1"


@dataclass(frozen=True)
class Loaded:
    """A model, and how many golden inputs it answered."""

    model: Served
    golden: int


def load(
    name: str,
    folder: Path,
    *,
    computing: Computing,
    check_golden: bool,
    version: str = PLAIN_VERSION,
    config: ModelConfig | None = None,
    home: Path | None = None,
) -> Loaded:
    """Load the bundle or plain model folder ``folder``. ``version`` is of a folder without a manifest.

    ``home`` is where the files lie that ``config`` names, by default beside the folder.

    Raises:
        Unusable: ``load_failed`` or ``golden_failed``; nothing stays loaded.
    """
    manifest, sha256 = _manifest(folder)
    backend = _open(name, folder, computing)
    tried = 0
    if check_golden and manifest is not None:
        try:
            wrong = golden.failures(manifest, backend)
        except Exception as error:
            backend.close()
            raise Unusable("golden_failed", f"a golden input could not be put to it: {error}") from error
        if wrong:
            backend.close()
            raise Unusable("golden_failed", "; ".join(wrong))
        tried = len(manifest.golden)
    if manifest is not None:
        version = manifest.version
    try:
        batching, labels = (None, {}) if config is None else configuring.applied(config, backend, home or folder.parent)
    except Unusable:
        backend.close()
        raise
    model = Served(name, version, sha256, backend, datetime.now(UTC), batching, config, labels)
    if manifest is not None:
        model.degrade_above_c = None if manifest.thermal is None else manifest.thermal.degrade_above_c
        texts = [each.max_tokens for each in manifest.golden if isinstance(each, GoldenText)]
        model.golden_tokens = max(texts, default=0)
    return Loaded(model, tried)


def _open(name: str, folder: Path, computing: Computing) -> Backend:
    kind = backends.kind_of(folder)
    if computing.nursery is not None and kind is not None and kind.together:
        log.info("%s is computed in the server's process: those of %s share their device there", name, kind.name)
    if computing.nursery is None or (kind is not None and kind.together):
        return backends.load(folder, threads=computing.threads, providers=computing.providers)
    return isolation.load(computing.nursery, name, folder, threads=computing.threads, providers=computing.providers)


def _manifest(folder: Path) -> tuple[Manifest | None, str | None]:
    if not (folder / FILE_NAME).is_file():
        return None, None
    try:
        bundle = bundles.load(folder)
    except HedgerowError as error:
        raise Unusable("load_failed", error.what) from error
    except OSError as error:
        raise Unusable("load_failed", f"{folder.name} cannot be read: {error.strerror}") from error
    return bundle.manifest, bundle.sha256
