"""A model's version with adapters in it: what it holds, what its manifest says, what is refused."""

import json
import shutil

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper

from hedgerow.commands.model import model
from hedgerow.errors import HedgerowError, PublisherError, RefusedError, UsageError
from hedgerow.models import amend, describing, pack_adapter, place
from hedgerow.models.attach import attach
from hedgerow.models.describing import Description
from hedgerow.models.pack_adapter import AdapterRequest
from hedgerow.models.validate import builds
from hedgerow.registry import bundle, manifest
from hedgerow.registry.manifest import Base, GoldenText, Proof, Requires, Variant

HELLO = [{"role": "user", "content": "hi"}]


def golden(path, expect):
    path.write_text(json.dumps([{"kind": "text", "messages": HELLO, "expect": expect}]))
    return path


def graph(path):
    inputs = [helper.make_tensor_value_info("lora.A", TensorProto.FLOAT, [4, "rank"])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, "rank"])]
    made = helper.make_graph([helper.make_node("Identity", ["lora.A"], ["y"])], "g", inputs, outputs)
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def base(tmp_path):
    """``assistant@1.0.0``, whose graph has a place for an adapter."""
    said = Description("assistant", "1.0.0", "Apache-2.0", golden=golden(tmp_path / "base.json", "ahoy"))

    def fill(folder):
        graph(folder / "model.onnx")
        return describing.make(said, folder, files=[said.golden], tools={}, format="onnx-genai", requires=Requires(300))

    made = place.build(fill, name="assistant", version="1.0.0", inputs=[], facts=0, tools={}, cache=tmp_path / "b")
    return place.export(made, tmp_path / "assistant-1.0.0")


@pytest.fixture
def pack(tmp_path, base):
    """Pack an adapter; its tensor is full of ``fill``."""

    def packed(name="tone", version="1.0.0", *, fill=1.0, expect="good day", license_id="MIT", base_version=">=1.0,<2"):
        form = onnxruntime.AdapterFormat()
        form.set_adapter_version(1)
        form.set_model_version(1)
        value = np.full((4, 2), fill, dtype=np.float32)
        form.set_parameters({"lora.A": onnxruntime.OrtValue.ortvalue_from_numpy(value)})
        file = tmp_path / f"{name}-{version}.onnx_adapter"
        form.export_adapter(str(file))
        text = tmp_path / f"{name}.txt"
        text.write_text(f"license of {name}")
        asked = golden(tmp_path / f"{name}.json", expect)
        said = Description(name, version, license_id, license_file=text, golden=asked)
        made = pack_adapter.pack(
            AdapterRequest(file, Base("assistant", base_version), base, said), cache=tmp_path / "a"
        )
        return place.export(made, tmp_path / f"{name}-{version}-{fill}")

    return packed


def test_the_model_goes_on_as_it_was_and_the_adapter_is_beside_it(tmp_path, base, pack):
    tone = pack()
    before, made = bundle.load(base).manifest, attach(base, [tone], tmp_path / "out", version="1.1.0")
    found = bundle.verify_files(made.directory).manifest
    assert (found.reference, found.kind, found.format, found.base) == ("assistant@1.1.0", "model", "onnx-genai", None)
    paths = {file.path: file.sha256 for file in found.files}
    assert paths.items() >= {file.path: file.sha256 for file in before.files}.items()
    assert set(paths) - {file.path for file in before.files} == {"adapters/tone.onnx_adapter", "adapters/tone.LICENSE"}
    said = (tone / pack_adapter.ADAPTER_FILE).read_bytes()
    assert (made.directory / "adapters/tone.onnx_adapter").read_bytes() == said
    assert [(each.adapter, each.expect) for each in found.golden] == [(None, "ahoy"), ("tone", "good day")]
    assert found.requires.memory_mb == 302
    assert found.license == "Apache-2.0 AND MIT"
    sources = [(each.name, each.version, each.sha256) for each in found.provenance.sources]
    assert sources == [
        ("assistant", "1.0.0", bundle.load(base).sha256),
        ("tone", "1.0.0", bundle.load(tone).sha256),
    ]


def test_the_same_parts_give_the_same_bundle(tmp_path, base, pack):
    tone = pack()
    made = [attach(base, [tone], tmp_path / name, version="1.1.0").sha256 for name in ("one", "two")]
    assert made[0] == made[1]


def test_a_newer_adapter_takes_the_place_of_the_one_of_its_name(tmp_path, base, pack):
    formal = pack("formal", expect="good evening")
    first = attach(base, [pack(), formal], tmp_path / "first", version="1.1.0")
    newer = pack(version="1.1.0", fill=2.0, expect="good night")
    second = attach(first.directory, [newer], tmp_path / "second", version="1.2.0").manifest
    assert [(each.adapter, each.expect) for each in second.golden] == [
        (None, "ahoy"),
        ("formal", "good evening"),
        ("tone", "good night"),
    ]
    assert second.requires.memory_mb == first.manifest.requires.memory_mb == 304
    assert len(second.files) == len(first.manifest.files)
    bundle.verify_files(tmp_path / "second")


def test_every_variant_gets_it(tmp_path, base, pack):
    whole = tmp_path / "whole"
    for name in ("small", "large"):
        (whole / name).mkdir(parents=True)
        graph(whole / name / "model.onnx")
    before = bundle.load(base).manifest
    variants = tuple(
        Variant(name=name, folder=name, format="onnx-genai", requires=Requires(memory), golden=own)
        for name, memory, own in (("small", 100, ()), ("large", 200, before.golden))
    )
    document = msgspec.structs.replace(
        before,
        schema=2,
        variants=variants,
        requires=Requires(100),
        files=bundle.describe_files(whole),
        license_file=None,
    )
    (whole / "manifest.json").write_bytes(manifest.encode(document))
    found = attach(whole, [pack()], tmp_path / "out", version="1.1.0").manifest
    assert [each.requires.memory_mb for each in found.variants] == [102, 202]
    assert [len(each.golden) for each in found.variants] == [0, 2]
    assert [each.adapter for each in found.golden] == [None, "tone"]
    assert "adapters/tone.onnx_adapter" in {file.path for file in found.files}, "in no variant's folder: all have it"


def test_what_was_proven_of_other_bytes_is_left_out(tmp_path, base, pack):
    amend.add_files(
        base,
        {"proofs/x.json": b"{}"},
        lambda found: msgspec.structs.replace(found, schema=2, proofs=(Proof("benchmark", "proofs/x.json"),)),
    )
    found = attach(base, [pack()], tmp_path / "out", version="1.1.0").manifest
    assert found.proofs == ()
    assert "proofs/x.json" not in {file.path for file in found.files}


def test_what_is_compared_is_the_model_as_it_is(tmp_path, base, pack):
    made = attach(base, [pack()], tmp_path / "out", version="1.1.0")
    build = builds.Build("x", made.directory / "model.onnx", made.directory, made.manifest)
    assert [each.adapter for each in build.golden] == [None]


def test_an_adapter_for_another_base_is_refused(tmp_path, base, pack):
    tone = pack(base_version="<1.5")
    older = attach(base, [tone], tmp_path / "one", version="1.5.0").directory
    with pytest.raises(
        RefusedError, match=r"rule base: this is assistant@1\.5\.0, and the adapter is for assistant <1"
    ):
        attach(older, [tone], tmp_path / "two", version="1.6.0")
    assert not (tmp_path / "two").exists()


@pytest.mark.parametrize(
    "how, says",
    [
        ({"version": "1.0.0"}, "assistant@1.0.0 is the base"),
        ({"version": "v2"}, "'v2' is no version"),
        ({"twice": True}, "two adapters are called 'tone'"),
        ({"swapped": True}, "tone@1.0.0 is of kind adapter, onnx-adapter"),
        ({"model_only": True}, "of kind model, no adapter"),
    ],
)
def test_a_wrong_call_is_told(tmp_path, base, pack, how, says):
    tone = pack()
    source, adapters = (tone, [base]) if how.get("swapped") else (base, [tone] * (2 if how.get("twice") else 1))
    adapters = [base] if how.get("model_only") else adapters
    with pytest.raises(UsageError, match=says):
        attach(source, adapters, tmp_path / "out", version=how.get("version", "1.1.0"))
    assert not (tmp_path / "out").exists()


def test_a_damaged_adapter_and_a_graph_without_its_place_are_refused(tmp_path, base, pack):
    tone = pack()
    damaged = shutil.copytree(tone, tmp_path / "damaged")
    (damaged / pack_adapter.ADAPTER_FILE).write_bytes(b"x")
    with pytest.raises(PublisherError):
        attach(base, [damaged], tmp_path / "out", version="1.1.0")
    other = shutil.copytree(base, tmp_path / "other")
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])]
    made = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", inputs, [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    ])  # fmt: skip
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), other / "model.onnx")
    document = msgspec.structs.replace(bundle.load(other).manifest, files=bundle.describe_files(other))
    (other / "manifest.json").write_bytes(manifest.encode(document))
    with pytest.raises(PublisherError, match=r"no input 'lora\.A'"):
        attach(other, [tone], tmp_path / "out", version="1.1.0")
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made_and_leaves_a_full_folder_alone(tmp_path, base, pack):
    tone, out = pack(), tmp_path / "out"
    words = ["attach", str(base), str(tone), "--version", "1.1.0", "--output", str(out), "--json"]
    done = CliRunner().invoke(model, words)
    assert done.exit_code == 0, done.output
    shown = json.loads(done.output)
    assert (shown["name"], shown["version"], shown["kind"]) == ("assistant", "1.1.0", "model")
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    again = CliRunner().invoke(model, words)
    assert isinstance(again.exception, HedgerowError)
    assert "not empty" in str(again.exception)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


# --- what a manifest may say of it


def test_a_question_for_an_adapter_that_is_not_there_is_no_manifest(base):
    found = bundle.load(base).manifest
    asked = (GoldenText(found.golden[0].messages, "x", adapter="tone"),)
    with pytest.raises(ValueError, match=r"golden\.adapter names 'adapters/tone\.onnx_adapter', which is not in files"):
        msgspec.structs.replace(found, schema=2, golden=asked)


def test_schema_1_has_no_such_question(tmp_path, base, pack):
    found = attach(base, [pack()], tmp_path / "out", version="1.1.0").manifest
    assert manifest.newer_fields(found) == ["golden.adapter"]
    document = json.loads(manifest.encode(found)) | {"schema": 1}
    with pytest.raises(PublisherError, match=r"golden\.adapter needs schema 2"):
        manifest.decode(json.dumps(document).encode(), where="x")
    from jsonschema import Draft202012Validator

    validator = Draft202012Validator(manifest.json_schema())
    assert not validator.is_valid(document)
    assert validator.is_valid(document | {"schema": 2})
