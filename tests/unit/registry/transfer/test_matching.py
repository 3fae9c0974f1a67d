"""Two versions of a bundle on disk, one said in terms of the other."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from transfer_formats import gguf, safetensors

from hedgerow.registry import bundle as bundles
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.transfer import make, matching, patches
from hedgerow.registry.transfer.matching import Pair
from hedgerow.registry.transfer.recipe import MAX_CHUNK_BYTES, Recipe

RNG = np.random.default_rng(11)


def tensor(count: int, dtype: str = "float32") -> np.ndarray:
    values = RNG.standard_normal(count)
    return (values * 30).astype(dtype) if dtype == "int8" else values.astype(dtype)


def bundle(folder: Path, version: str, files: dict[str, bytes]) -> Recipe:
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    manifest = Manifest(
        schema=1,
        name="assistant",
        version=version,
        format="onnx",
        license="Apache-2.0",
        files=bundles.describe_files(folder),
        requires=Requires(memory_mb=64),
        provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        golden=(GoldenText((Message("user", "The capital of France?"),), "Paris"),),
    )
    return make.describe(folder, manifest)


def pairs(tmp_path: Path, old: dict[str, bytes], new: dict[str, bytes]) -> tuple[Recipe, tuple[Pair, ...]]:
    before, after = bundle(tmp_path / "old", "1.0.0", old), bundle(tmp_path / "new", "1.1.0", new)
    return after, matching.match(after, before)


def check(recipe: Recipe, found: tuple[Pair, ...], old: dict[str, bytes], new: dict[str, bytes]) -> int:
    """Make and apply every patch; the bytes of all of them."""
    total = 0
    for pair in found:
        file = recipe.files[pair.file]
        segment, offset = file.segments[pair.segment], file.offsets()[pair.segment]
        was = old[pair.old_path][pair.old_offset : pair.old_offset + pair.old_size]
        assert len(was) == pair.old_size <= MAX_CHUNK_BYTES
        now = new[file.path][offset : offset + segment.size]
        assert hashlib.sha256(now).hexdigest() == segment.sha256
        patch = patches.make(was, now, dtype=pair.dtype, worth=segment.length)
        total += len(now) if patch is None else len(patch.data)
        if patch is not None:
            made = patches.apply(
                was, patch.data, transform=patch.transform, old_sha256=patch.old_sha256, size=segment.size,
                sha256=segment.sha256, where="x",
            )  # fmt: skip
            assert made == now
    return total


def test_a_described_bundle_agrees_with_its_files(tmp_path):
    recipe = bundle(tmp_path, "1.0.0", {"a.safetensors": safetensors({"w": tensor(300_000)}), "empty": b"", "t": b"x"})
    assert [file.path for file in recipe.files] == ["a.safetensors", "empty", "t"]
    assert [len(file.segments) for file in recipe.files] == [3, 0, 1]
    assert recipe.packs == (make.NOWHERE,)


def test_what_is_the_same_needs_no_pair(tmp_path):
    files = {"m.safetensors": safetensors({"w": tensor(100_000)}), "t.json": b"{}"}
    assert pairs(tmp_path, files, files)[1] == ()


def test_a_chunk_that_lies_in_another_file_needs_none_either(tmp_path):
    assert pairs(tmp_path, {"a": b"the same"}, {"b": b"the same"})[1] == ()


def test_tensors_are_matched_by_name_wherever_they_moved(tmp_path):
    w, v = tensor(300_000), tensor(50_000)
    old = {"m.safetensors": safetensors({"v": v, "w": w})}
    new = {"m.safetensors": safetensors({"adapter": tensor(5000), "w": w * np.float32(1.001), "v": v})}
    recipe, found = pairs(tmp_path, old, new)
    named = {recipe.files[0].tensor_at(recipe.files[0].offsets()[pair.segment]) for pair in found if pair.dtype}
    assert {each.name for each in named if each} == {"w"}
    # The header changed as well; the adapter is new.
    assert {pair.dtype for pair in found} == {"", "float32"}
    assert check(recipe, found, old, new) < 0.75 * w.nbytes


def test_a_tensor_that_moved_to_another_file_is_found(tmp_path):
    w = tensor(100_000)
    old = {"part1.safetensors": safetensors({"w": w})}
    new = {"all.safetensors": safetensors({"u": tensor(2000), "w": w + np.float32(1e-5)})}
    _, found = pairs(tmp_path, old, new)
    assert [(pair.old_path, pair.dtype) for pair in found if pair.dtype] == [("part1.safetensors", "float32")]


def test_renamed_tensors_are_matched_in_order(tmp_path):
    a, b = tensor(20_000), tensor(20_000)
    old = {"m.safetensors": safetensors({"layer0": a, "layer1": b})}
    new = {"m.safetensors": safetensors({"h.0": a * np.float32(1.001), "h.1": b * np.float32(1.001)})}
    recipe, found = pairs(tmp_path, old, new)
    assert len([pair for pair in found if pair.dtype]) == 2
    assert check(recipe, found, old, new) < 0.6 * (a.nbytes + b.nbytes)


def test_a_tensor_of_another_type_is_not_compared(tmp_path):
    old = {"m.safetensors": safetensors({"w": tensor(20_000, "int8")})}
    new = {"m.safetensors": safetensors({"w": tensor(20_000)})}
    assert [pair for pair in pairs(tmp_path, old, new)[1] if pair.dtype] == []


def test_a_tensor_that_grew_is_compared_as_far_as_both_reach(tmp_path):
    w = tensor(600_000)
    grown = np.concatenate([w * np.float32(1.001), tensor(600_000)])
    old, new = {"m.safetensors": safetensors({"w": w})}, {"m.safetensors": safetensors({"w": grown})}
    recipe, found = pairs(tmp_path, old, new)
    # Of five blocks the first two lie within the old tensor; the third would reach beyond its file.
    assert len([pair for pair in found if pair.dtype]) == 2
    check(recipe, found, old, new)


def test_equal_new_chunks_are_patched_once(tmp_path):
    w = tensor(30_000)
    old = {"m.safetensors": safetensors({"a": w, "b": w + np.float32(1)})}
    new = {"m.safetensors": safetensors({"a": w * np.float32(1.001), "b": w * np.float32(1.001)})}
    assert len([pair for pair in pairs(tmp_path, old, new)[1] if pair.dtype]) == 1


def test_gguf_with_new_scales(tmp_path):
    blocks = RNG.integers(0, 256, (40_000, 34)).astype(np.uint8)
    scaled = blocks.copy()
    scaled[:, 0] += 1
    old, new = ({"m.gguf": gguf({"w": (8, 32 * 40_000, each.tobytes())})} for each in (blocks, scaled))
    recipe, found = pairs(tmp_path, old, new)
    assert {pair.dtype for pair in found} == {"q8_0"}
    assert check(recipe, found, old, new) < blocks.nbytes / 100


def test_text_between_is_found_around_its_place(tmp_path):
    lines = [b'{"id": %d, "content": "tok%d"},' % (number, number * 7919) for number in range(30_000)]
    old = {"tokenizer.json": b"".join(lines)}
    lines[15_000:15_000] = [b'{"id": %d, "content": "new%d"},' % (number, number) for number in range(30)]
    new = {"tokenizer.json": b"".join(lines)}
    recipe, found = pairs(tmp_path, old, new)
    assert 0 < len(found) < len(recipe.files[0].segments)
    assert check(recipe, found, old, new) < len(new["tokenizer.json"]) / 50
