"""Pack a bundle into a store: what its recipe will name is there before anybody can read the recipe.

- Reproducible: the same bundle beside the same earlier versions gives the same bytes.
- Idempotent: a recipe whose packs are all there is kept as it is; where something is missing it is made again, with
  the same result while the store has the same earlier versions, and what is missing is brought.
- Cut off anywhere, the store holds packs that nothing names: devices do not see them, the next try uses them, and
  ``hedgerow registry gc`` takes what is left.
- The store's lock is the caller's: it also covers the metadata that follows.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import PublisherError
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.packing import cutting, earlier, patching
from hedgerow.registry.packing.cutting import Kept
from hedgerow.registry.packing.earlier import Earlier
from hedgerow.registry.packing.named import named_packs
from hedgerow.registry.packing.patching import Patched
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.transfer import codec, packs
from hedgerow.registry.transfer.packs import PackWriter, Place
from hedgerow.registry.transfer.recipe import SCHEMA, File, Offer, Pack, Recipe, Segment, check_agrees, pack_path

DEFAULT_VERSIONS: Final = 3
_TARGETS: Final = "targets"
_UPLOADS: Final = 4


@dataclass(frozen=True)
class Packed:
    """``recipe`` is the target beside the manifest, ``new_bytes`` were sent, from ``patched`` versions patches lead."""

    recipe: bytes
    new_bytes: int
    patched: tuple[str, ...]


def packer(store: ObjectStore, bundle: Bundle) -> bytes:
    """``pack`` with its defaults, as whoever signs calls it."""
    return pack(store, bundle).recipe


def pack(
    store: ObjectStore,
    bundle: Bundle,
    *,
    versions: int = DEFAULT_VERSIONS,
    threads: int | None = None,
    on_bytes: Callable[[int], None] | None = None,
) -> Packed:
    """Cut a verified bundle, bring its packs and those of its patches from the last ``versions`` to the store.

    ``threads`` compress (default: one a core, 8 at the most); ``on_bytes`` is called with bytes of the bundle as they
    are cut.

    Raises:
        PublisherError: a file of the bundle changed while it was read.
    """
    manifest = bundle.manifest
    kept = earlier.stored_recipe(store, manifest)
    if kept is not None:
        recipe = codec.decode(kept, where=manifest.reference)
        if _complete(store, recipe):
            return Packed(kept, 0, tuple(offer.version for offer in recipe.patches))
    workers = threads or min(os.cpu_count() or 1, 8)
    with (
        tempfile.TemporaryDirectory(prefix="hedgerow-packing-") as scratch,
        ThreadPoolExecutor(workers, thread_name_prefix="packing") as pool,
    ):
        folder = Path(scratch)
        found = earlier.find(store, manifest, count=versions, scratch=folder / "earlier")
        made = _make(store, bundle, found, folder=folder, pool=pool, on_bytes=on_bytes)
        recipe = codec.decode(made, where=manifest.reference)
        check_agrees(recipe, manifest)
        sent = _upload(store, folder)
    return Packed(made, sent, tuple(offer.version for offer in recipe.patches))


def _make(
    store: ObjectStore,
    bundle: Bundle,
    found: Sequence[Earlier],
    *,
    folder: Path,
    pool: Executor,
    on_bytes: Callable[[int], None] | None,
) -> bytes:
    manifest = bundle.manifest
    known = cutting.Known((each.recipe for each in found), lambda pack: _holds(store, pack))
    with PackWriter(folder / "new") as writer:
        files = cutting.cut(bundle.directory, manifest, known=known, writer=writer, pool=pool, on_bytes=on_bytes)
        patched: list[tuple[Patched, Place, bytes]] = []
        for number, each in enumerate(found):
            made = patching.patch(
                bundle.directory, manifest.name, manifest.version, files, each, folder=folder / f"p{number}", pool=pool
            )
            if made is not None:
                data = codec.to_json(made.index)
                # With the chunks, never with its patches: it names the packs that hold those.
                patched.append((made, writer.add(packs.frame(data)), data))
        written = writer.close()
    places = _Places(written)
    described = tuple(
        File(
            file.path,
            file.sha256,
            file.size,
            tuple(Segment(cut.sha256, cut.size, *places.of(cut.place)) for cut in file.cuts),
            file.tensors,
        )
        for file in files
    )
    offers = tuple(
        Offer(
            each.earlier.manifest.version,
            each.earlier.manifest_sha256,
            len(each.index.blocks),
            each.size,
            Segment(hashlib.sha256(data).hexdigest(), len(data), *places.of(place)),
        )
        for each, place, data in patched
    )
    return codec.encode(Recipe(SCHEMA, manifest.name, manifest.version, tuple(places.packs), described, offers))


class _Places:
    """Packs in the order in which segments first name them, so that a recipe has no more than it needs."""

    def __init__(self, written: Sequence[Pack]) -> None:
        self._written = written
        self._index: dict[str, int] = {}
        self.packs: list[Pack] = []

    def of(self, place: Kept | Place) -> tuple[int, int, int]:
        pack = place.pack if isinstance(place, Kept) else self._written[place.pack]
        if pack.sha256 not in self._index:
            self._index[pack.sha256] = len(self.packs)
            self.packs.append(pack)
        return self._index[pack.sha256], place.offset, place.length


def _complete(store: ObjectStore, recipe: Recipe) -> bool:
    try:
        return all(_holds(store, pack) for pack in named_packs(store, recipe))
    except PublisherError:
        return False


def _holds(store: ObjectStore, pack: Pack) -> bool:
    return store.holds(f"{_TARGETS}/{pack_path(pack.sha256)}", size=pack.size, sha256=pack.sha256)


def _upload(store: ObjectStore, folder: Path) -> int:
    """Send the packs that are not there yet, several at a time; bytes sent."""
    made = sorted(
        {path.name: path for path in itertools.chain(folder.glob("new/packs/*/*"), folder.glob("p*/packs/*/*"))}.items()
    )

    def send(item: tuple[str, Path]) -> int:
        sha256, path = item
        pack = Pack(sha256, path.stat().st_size)
        if _holds(store, pack):
            return 0
        store.put_file(f"{_TARGETS}/{pack_path(sha256)}", path)
        return pack.size

    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="upload") as pool:
        return sum(pool.map(send, made))
