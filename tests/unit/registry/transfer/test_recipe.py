from __future__ import annotations

import contextlib
import json

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import PublisherError
from hedgerow.registry.manifest import File as ManifestFile
from hedgerow.registry.manifest import GoldenText, Manifest, Message, Provenance, Requires, Source
from hedgerow.registry.reference import Reference
from hedgerow.registry.transfer import codec, recipe
from hedgerow.registry.transfer.recipe import Block, File, Offer, Pack, PatchIndex, Recipe, Segment, Tensor

A, B = "a" * 64, "b" * 64
SEGMENTS = (Segment(A, 100, 0, 0, 60), Segment(B, 50, 0, 60, 50))


def make(**changes) -> Recipe:
    fields = {
        "schema": 1,
        "name": "assistant",
        "version": "1.1.0",
        "packs": (Pack(A, 200),),
        "files": (File("model.onnx", B, 150, SEGMENTS, (Tensor("w", "int8", 0, 100), Tensor("v", "int8", 120, 20))),),
        "patches": (Offer("1.0.0", B, 1, 10, Segment(A, 80, 0, 110, 70)),),
    }
    return Recipe(**(fields | changes))


def raw(**changes) -> bytes:
    return json.dumps(json.loads(codec.to_json(make())) | changes).encode()


def file(**changes) -> dict:
    return json.loads(codec.to_json(make()))["files"][0] | changes


def test_round_trip_in_both_forms():
    assert codec.decode(codec.encode(make()), where="x") == make()
    assert codec.decode(codec.to_json(make()), where="x") == make()
    assert codec.encode(make()) == codec.encode(make())


def test_it_lies_beside_the_manifest():
    reference = Reference("assistant", "1.1.0")
    assert recipe.target(reference).rpartition("/")[0] == reference.target.rpartition("/")[0]
    assert recipe.pack_path("ab" + "0" * 62) == "packs/ab/ab" + "0" * 62


def test_offsets_and_tensors_of_a_file():
    one = make().files[0]
    assert one.offsets() == [0, 100]
    found = [one.tensor_at(offset) for offset in (0, 99, 100, 119, 120, 139, 140)]
    assert [tensor and tensor.name for tensor in found] == ["w", "w", None, None, "v", "v", None]
    assert File("empty", A, 0, ()).offsets() == []


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"schema": 2}, "knows 1"),
        ({"surprise": 1}, "unknown field `surprise`"),
        ({"name": "../x"}, "is no bundle's name"),
        ({"version": "1/../2"}, "is no semantic version"),
        ({"packs": []}, "names pack 0, there are 0"),
        ({"packs": [[A, 100]]}, "beyond the end of pack"),
        ({"packs": [[A, 1 << 40]]}, "33554432"),
        ({"files": [file(path="../etc/passwd")]}, "'.' or '..' part"),
        ({"files": [file(), file()]}, "stands twice"),
        ({"files": [file(size=151)]}, "have 150 bytes together, the file has 151"),
        ({"files": [file(segments=[[A, 150, 0, 0, 151]])]}, "takes 151 bytes in its pack"),
        ({"files": [file(segments=[[A, 1 << 30, 0, 0, 1]])]}, "8388608"),
        ({"files": [file(segments=[[A, 0, 0, 0, 0]])]}, ">= 1"),
        ({"files": [file(segments=[["A" * 64, 150, 0, 0, 150]])]}, "regex"),
        ({"files": [file(tensors=[["w", "int8", 0, 100], ["v", "int8", 99, 1]])]}, "overlaps the one before"),
        ({"files": [file(tensors=[["w", "int8", 0, 151]])]}, "reach to byte 151"),
        ({"patches": [{"version": "../..", "manifest_sha256": A, "blocks": 0, "size": 0, "index": [A, 1, 0, 0, 1]}]},
         "is no semantic version"),
        ({"patches": [{"version": "1.0.0", "manifest_sha256": A, "blocks": 0, "size": 0, "index": [A, 9, 0, 199, 9]}]},
         "patches names bytes beyond the end"),
    ],
)  # fmt: skip
def test_what_breaks_a_rule_is_refused_and_named(changes, says):
    with pytest.raises(PublisherError) as caught:
        codec.decode(raw(**changes), where="here")
    assert says in caught.value.what
    assert caught.value.where == "here"


def test_a_bomb_is_refused_before_it_is_expanded(monkeypatch):
    bomb = zstandard.ZstdCompressor().compress(b" " * (recipe.MAX_JSON_BYTES + 1))
    assert len(bomb) < 10_000
    monkeypatch.setattr(zstandard, "ZstdDecompressor", None)  # expanding would now be a TypeError
    with pytest.raises(PublisherError, match="would expand to more than"):
        codec.decode(bomb, where="x")


def test_a_frame_that_hides_its_size_is_refused():
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(codec.to_json(make()))
    with pytest.raises(PublisherError, match="would expand to more than"):
        codec.decode(hidden, where="x")


def test_plain_json_is_bounded_too():
    with pytest.raises(PublisherError, match="are allowed"):
        codec.decode(b"{" + b" " * recipe.MAX_JSON_BYTES, where="x")


@given(st.data())
def test_altered_bytes_are_refused_or_decode(data):
    content = bytearray(codec.encode(make()))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(PublisherError):
        decoded = codec.decode(bytes(content[: data.draw(st.integers(0, len(content)))]), where="x")
        assert decoded.reference == "assistant@1.1.0" or content[:4] != b"\x28\xb5\x2f\xfd"


def test_encode_refuses_what_decode_would():
    with pytest.raises(msgspec.ValidationError):
        codec.encode(make(packs=(Pack(A, 1 << 40),)))


def test_index_round_trip_and_its_rules():
    block = Block(0, 1, 0, 5, 50, A, "bytes", 0, 0, 9)
    index = PatchIndex(1, "1.0.0", (Pack(A, 9),), ("model.onnx",), (block,))
    assert codec.decode_index(codec.to_json(index), where="x") == index
    document = json.loads(codec.to_json(index))
    for changes, says in (
        ({"paths": []}, "names old file 0, there are 0"),
        ({"paths": ["/etc/passwd"]}, "is absolute"),
        ({"packs": [[A, 8]]}, "beyond the end"),
        ({"version": ".."}, "is no semantic version"),
    ):
        with pytest.raises(PublisherError, match=says):
            codec.decode_index(json.dumps(document | changes).encode(), where="x")


@pytest.mark.parametrize("kind, name", [(Recipe, "recipe"), (PatchIndex, "patch_index")])
def test_json_schema_files_are_current(kind, name):
    from pathlib import Path

    kept = Path(codec.__file__).with_name(f"{name}.schema.json")
    assert json.loads(kept.read_text()) == codec.json_schema(kind), (
        f"run: python -m hedgerow.registry.transfer.codec {kind.__name__} > {kept}"
    )


def test_json_schema_judges_as_the_decoder_does():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(codec.json_schema(Recipe))
    assert validator.is_valid(json.loads(raw()))
    assert not validator.is_valid(json.loads(raw(packs=[["short", 1]])))
    assert not validator.is_valid(json.loads(raw(surprise=1)))


def manifest(**changes) -> Manifest:
    fields = {
        "schema": 1,
        "name": "assistant",
        "version": "1.1.0",
        "format": "onnx",
        "license": "Apache-2.0",
        "files": (ManifestFile("model.onnx", B, 150),),
        "requires": Requires(memory_mb=64),
        "provenance": Provenance(sources=(Source("a test"),), builder="a test", tools={}),
        "golden": (GoldenText((Message("user", "The capital of France?"),), "Paris"),),
    }
    return Manifest(**(fields | changes))


def test_a_recipe_must_agree_with_the_manifest():
    recipe.check_agrees(make(), manifest())
    for changes, says in (
        ({"version": "1.2.0"}, "describes assistant@1.1.0"),
        ({"files": (ManifestFile("model.onnx", A, 150),)}, "another size or sha256 for model.onnx"),
        ({"files": (ManifestFile("model.onnx", B, 151),)}, "another size or sha256 for model.onnx"),
        ({"files": (ManifestFile("model.onnx", B, 150), ManifestFile("z", B, 1))}, "lacks z"),
        ({"files": (ManifestFile("a.onnx", B, 150),)}, "lacks a.onnx"),
    ):
        with pytest.raises(PublisherError, match=says):
            recipe.check_agrees(make(), manifest(**changes))
