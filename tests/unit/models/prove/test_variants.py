import json
from datetime import date

import msgspec
import numpy as np
import pytest

from hedgerow.errors import UsageError
from hedgerow.models import proof, quantize_calibration, quantize_files
from hedgerow.models import variants as variants_module
from hedgerow.models.quantize_onnx import Options
from hedgerow.models.validate import builds
from hedgerow.models.variants import Wanted
from hedgerow.registry import bundle, manifest, variants


def wanted(models):
    calibration = quantize_calibration.load(models / "mlp.npz")
    return [
        Wanted("int8", Options("static-qdq", calibration=calibration), {}),
        Wanted("small", Options("int4-weights"), {"memory_mb": 60, "hat": ("none",)}),
        Wanted("full", Options("float32"), {}),
    ]


def test_one_call_builds_several_variants_of_one_version(models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    built = variants_module.build(source, tmp_path / "out", wanted(models), version="1.1.0")
    whole = bundle.verify_files(tmp_path / "out")
    assert (built.document.version, built.document.schema) == ("1.1.0", 2)
    assert [each.name for each in built.document.variants] == ["int8", "small", "full"]
    assert {file.path for file in whole.manifest.files} == {
        "LICENSE", "int8/model.onnx", "small/model.onnx", "full/model.onnx",
    }  # fmt: skip
    assert whole.manifest.requires == whole.manifest.variants[0].requires
    assert whole.manifest.variants[1].requires.memory_mb == 60
    assert whole.manifest.variants[0].calibration.samples == 1
    origin = bundle.load(source)
    assert whole.manifest.provenance.sources[-1].sha256 == origin.sha256
    assert {"onnx", "onnxruntime", "numpy"} <= set(whole.manifest.provenance.tools)


def test_golden_answers_are_each_variants_own(models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    built = variants_module.build(source, tmp_path / "out", wanted(models))
    float_answer = np.array(bundle.load(source).manifest.golden[0].outputs[0].data)
    by_name = {each.name: each.golden[0] for each in built.document.variants}
    assert np.allclose(by_name["full"].outputs[0].data, float_answer, atol=1e-6)
    assert by_name["full"].atol == 1e-4
    for name in ("int8", "small"):
        answer = np.array(by_name[name].outputs[0].data)
        assert not np.array_equal(answer, float_answer)
        assert by_name[name].atol == pytest.approx(2 / 255 * np.ptp(answer))


def test_each_variant_is_a_bundle_that_can_be_taken_out(models, make_bundle, tmp_path):
    built = variants_module.build(make_bundle("mlp"), tmp_path / "out", wanted(models))
    for name in ("int8", "small", "full"):
        alone = variants.take(built.document, name)
        assert {file.path for file in alone.files} == {"LICENSE", "model.onnx"}
        manifest.encode(alone)


def test_the_same_call_gives_the_same_bytes(models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    for output in ("one", "two"):
        variants_module.build(source, tmp_path / output, wanted(models))
    assert bundle.load(tmp_path / "one").sha256 == bundle.load(tmp_path / "two").sha256


def test_what_was_said_of_the_old_bytes_does_not_move_on(models, make_bundle, tmp_path):
    machine = manifest.Machine("a board", "a processor", 1000)
    source = make_bundle(
        "mlp", schema=2, slo=manifest.Slo(p95_ms=3.0), expectations=(manifest.Expectation("full-power", machine, 5),)
    )
    built = variants_module.build(source, tmp_path / "out", wanted(models))
    assert (built.document.slo, built.document.expectations, built.document.proofs) == (None, (), ())


def test_a_failed_build_leaves_nothing(models, make_bundle, tmp_path):
    source = make_bundle("cnn")
    impossible = [Wanted("full", Options("float32"), {}), Wanted("small", Options("int4-weights"), {})]
    with pytest.raises(Exception, match="not one operator"):
        variants_module.build(source, tmp_path / "out", impossible)
    assert sorted(each.name for each in tmp_path.iterdir() if "out" in each.name) == []


def test_variants_of_variants_and_equal_names_are_refused(models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    full = Wanted("full", Options("float32"), {})
    with pytest.raises(UsageError, match="two variants are called 'full'"):
        variants_module.build(source, tmp_path / "out", [full, full])
    variants_module.build(source, tmp_path / "out", [full])
    with pytest.raises(UsageError, match="has variants already: full"):
        variants_module.build(tmp_path / "out", tmp_path / "again", [full])
    with pytest.raises(UsageError, match="not empty"):
        variants_module.build(source, tmp_path / "out", [full])


def test_an_altered_source_is_refused(models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    (source / "LICENSE").write_text("do as I say!!!\n")
    with pytest.raises(Exception, match="was altered"):
        variants_module.build(source, tmp_path / "out", wanted(models))


def test_the_command_says_what_it_did(hedgerow, models, make_bundle, tmp_path):
    arguments = ["--calibration", models / "cnn.npz", "--variant", "int8=static-qdq", "--variant"]
    arguments += ["half=float32,prune=0.5,memory_mb=70,hat=none|hat-plus-2", "--json"]
    code, out, _ = hedgerow("model", "quantize", make_bundle("cnn"), "--output", tmp_path / "out", *arguments)
    assert code == 0
    facts = json.loads(out)
    assert [each["variant"] for each in facts["variants"]] == ["int8", "half"]
    assert facts["variants"][1]["sparsity"] == pytest.approx(0.5)
    half = bundle.verify_files(tmp_path / "out").manifest.variants[1]
    assert (half.requires.memory_mb, half.requires.hat) == (70, ("none", "hat-plus-2"))
    assert msgspec.to_builtins(half.quantization)["sparsity"] == pytest.approx(0.5)


def test_a_bare_file_gives_a_file_and_a_table(hedgerow, models, tmp_path):
    code, out, err = hedgerow(
        "model", "quantize", models / "cnn.onnx", "--scheme", "dynamic-int8", "--output", tmp_path / "out.onnx"
    )
    assert code == 0
    assert "1 MatMulInteger" in out
    assert "stay in float" in err
    assert (tmp_path / "out.onnx").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--scheme", "int3"],
        ["--scheme", "static-qdq"],
        ["--variant", "small"],
        ["--variant", "Small=float32"],
        ["--variant", "small=float32,speed=9"],
        ["--variant", "small=float32,prune=much"],
        ["--scheme", "float32", "--variant", "small=float32"],
    ],
)
def test_wrong_use_says_what_to_type(hedgerow, make_bundle, tmp_path, arguments):
    code, _, err = hedgerow("model", "quantize", make_bundle("mlp"), "--output", tmp_path / "out", *arguments)
    assert code == 2
    assert "next:" in err


def test_a_variant_with_weights_in_a_file_of_their_own_is_opened_and_run(make_bundle, tiny, tmp_path):
    source = make_bundle("mlp", model=tiny.mlp(hidden=10_000))
    pruned = Wanted("pruned", Options("float32", prune=0.1), {})
    variants_module.build(source, tmp_path / "out", [pruned])
    before = sorted(each.name for each in tmp_path.iterdir())
    with builds.opened(tmp_path / "out", "pruned") as build:
        assert [each.name for each in quantize_files.files_of(build.model)] == ["model.onnx", "model.onnx.data"]
        assert build.size > 1 << 20
        assert np.isfinite(builds.Session(build.model).run(tiny.samples("mlp"))[0]).all()
    assert sorted(each.name for each in tmp_path.iterdir()) == before


def test_a_bundle_with_variants_is_proven_as_a_whole(models, make_bundle, tmp_path):
    variants_module.build(make_bundle("mlp"), tmp_path / "out", wanted(models))
    checked = proof.prove(tmp_path / "out", today=date(2026, 11, 20))
    document = checked.bundle.manifest
    bill = json.loads((tmp_path / "out/sbom.cdx.json").read_text())
    card = bill["metadata"]["component"]["modelCard"]
    assert card["modelParameters"]["datasets"][0]["name"] == "calibration set of variant int8"
    assert {each["name"] for each in card["properties"]} == {
        "hedgerow:quantization:int8",
        "hedgerow:quantization:small",
    }
    statement = json.loads((tmp_path / "out/provenance.intoto.json").read_text())
    assert {each["name"] for each in statement["subject"]} == {
        "LICENSE", "int8/model.onnx", "small/model.onnx", "full/model.onnx",
    }  # fmt: skip
    # Proofs speak of the whole bundle; whoever takes a variant out of it still has them.
    assert {each.path for each in variants.take(document, "small").proofs} <= {file.path for file in document.files}
