"""A registry in a folder: packs, recipes and patches in the real format; signatures are taken for granted."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import msgspec

from hedgerow.errors import NetworkError, RefusedError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.transfer import chunking, codec, layouts, matching, packs, patches
from hedgerow.registry.transfer import recipe as recipes
from hedgerow.registry.transfer.recipe import Block, File, Offer, Pack, PatchIndex, Recipe, Segment


def write_bundle(folder: Path, version: str, files: dict[str, bytes], *, name: str = "assistant") -> Path:
    """A bundle of these files."""
    for path, data in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    manifest = Manifest(
        schema=1,
        name=name,
        version=version,
        format="onnx-genai",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=Requires(memory_mb=64),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
    )
    (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
    return folder


def safetensors(tensors: dict[str, bytes], dtype: str = "I8") -> bytes:
    """A file of one-dimensional tensors."""
    header, offset = {}, 0
    for name, data in tensors.items():
        header[name] = {"dtype": dtype, "shape": [len(data)], "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(tensors.values())


class Double:
    """Registry and source in one. ``asked`` are the requests; ``on_block`` is called with each block that goes out."""

    def __init__(self, root: Path, *, block: int = 32 << 10) -> None:
        self.root = root
        self.url = root.as_uri()
        self.asked: list[tuple[str, int, int]] = []
        self.block = block
        self.budget: int | None = None
        """Bytes until the line is cut; None: it holds."""
        self.bundles: dict[str, Path] = {}
        self.recipes: dict[str, Recipe] = {}

    # -- publishing ----------------------------------------------------------

    def publish(self, bundle: Path, *, against: tuple[str, ...] = ()) -> Recipe:
        """Cut, pack, and patch against versions that are published; chunks that are there are not packed again."""
        manifest = bundles.load(bundle).manifest
        have = {
            segment.sha256: (recipe.packs[segment.pack], segment)
            for recipe in self.recipes.values()
            for file in recipe.files
            for segment in file.segments
        }
        tensors = layouts.of_folder(bundle, [file.path for file in manifest.files])
        chunks: dict[str, bytes] = {}
        with packs.PackWriter(self.root / "targets") as writer:
            places = {}
            cut: dict[str, list[chunking.Chunk]] = {}
            for file in manifest.files:
                with (bundle / file.path).open("rb") as content:
                    cut[file.path] = list(chunking.cut(content, file.size, tensors.get(file.path, ())))
                for chunk in cut[file.path]:
                    chunks[chunk.sha256] = chunk.data
                    if chunk.sha256 not in have and chunk.sha256 not in places:
                        places[chunk.sha256] = writer.add(packs.frame(chunk.data))
            made = writer.close()
        old_packs = {pack.sha256: pack for pack, _ in have.values()}
        all_packs = [*made, *(pack for sha, pack in sorted(old_packs.items()))]
        number = {pack.sha256: at for at, pack in enumerate(all_packs)}

        def segment(chunk: chunking.Chunk) -> Segment:
            if chunk.sha256 in places:
                place = places[chunk.sha256]
                return Segment(chunk.sha256, len(chunk.data), *place)
            pack, old = have[chunk.sha256]
            return msgspec.structs.replace(old, pack=number[pack.sha256])

        files = tuple(
            File(file.path, file.sha256, file.size, tuple(map(segment, cut[file.path])), tensors.get(file.path, ()))
            for file in manifest.files
        )
        recipe = Recipe(1, manifest.name, manifest.version, tuple(all_packs), files)
        offers = []
        for reference in against:
            offer, index_packs = self._offer(recipe, reference, chunks)
            at = len(recipe.packs)
            recipe = msgspec.structs.replace(recipe, packs=recipe.packs + index_packs)
            offers.append(
                msgspec.structs.replace(offer, index=msgspec.structs.replace(offer.index, pack=at + offer.index.pack))
            )
        recipe = msgspec.structs.replace(recipe, patches=tuple(offers))
        self.bundles[recipe.reference], self.recipes[recipe.reference] = bundle, recipe
        target = self.root / "targets" / "models" / recipe.name / recipe.version
        target.mkdir(parents=True, exist_ok=True)
        (target / manifests.FILE_NAME).write_bytes((bundle / manifests.FILE_NAME).read_bytes())
        (target / recipes.FILE_NAME).write_bytes(codec.encode(recipe))
        return recipe

    def _offer(self, recipe: Recipe, reference: str, chunks: dict[str, bytes]) -> tuple[Offer, tuple[Pack, ...]]:
        old_recipe, old_bundle = self.recipes[reference], bundles.load(self.bundles[reference])
        paths = [file.path for file in old_recipe.files]
        blocks, size = [], 0
        with packs.PackWriter(self.root / "targets") as writer:
            for pair in matching.match(recipe, old_recipe):
                wanted = recipe.files[pair.file].segments[pair.segment]
                with (old_bundle.directory / pair.old_path).open("rb") as file:
                    file.seek(pair.old_offset)
                    old = file.read(pair.old_size)
                patch = patches.make(old, chunks[wanted.sha256], dtype=pair.dtype, worth=wanted.length)
                if patch is not None:
                    place = writer.add(patch.data)
                    size += len(patch.data)
                    blocks.append(
                        Block(
                            pair.file,
                            pair.segment,
                            paths.index(pair.old_path),
                            pair.old_offset,
                            pair.old_size,
                            patch.old_sha256,
                            patch.transform,
                            *place,
                        )
                    )
            made = writer.close()
        index = PatchIndex(1, old_recipe.version, made, tuple(paths), tuple(blocks))
        data = codec.to_json(index)
        with packs.PackWriter(self.root / "targets") as writer:
            place = writer.add(packs.frame(data))
            index_packs = writer.close()
        offer = Offer(
            old_recipe.version,
            old_bundle.sha256,
            len(blocks),
            size,
            Segment(manifests.digest(data), len(data), *place),
        )
        return offer, index_packs

    # -- what a device asks ----------------------------------------------------

    def manifest(self, reference, kind="model") -> bytes:
        return self._target(reference, manifests.FILE_NAME)

    def transfer(self, reference, kind="model") -> bytes:
        return self._target(reference, recipes.FILE_NAME)

    def _target(self, reference, name: str) -> bytes:
        path = self.root / "targets" / "models" / reference.name / reference.version / name
        if not path.exists():
            raise RefusedError(f"the registry has no {reference}", where=self.url)
        return path.read_bytes()

    @contextlib.contextmanager
    def open_range(self, path: str, start: int, length: int):
        self.asked.append((path, start, length))
        with (self.root / path).open("rb") as file:
            file.seek(start)
            yield self._blocks(file, length)

    def _blocks(self, file, length: int):
        while length:
            room = min(self.block, length)
            if self.budget is not None:
                room = min(room, self.budget)
                self.budget -= room
            block = file.read(room)
            if not block:
                if self.budget == 0:
                    raise NetworkError("the line was cut", where=self.url)
                return
            length -= len(block)
            yield block

    def pack_bytes(self, skip: tuple[str, ...] = ()) -> int:
        """Bytes of all requests for packs."""
        return sum(length for path, _, length in self.asked if path not in skip)
