import json
import math
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.quantize_onnx import Options, quantize_model
from hedgerow.models.validate import metrics, probes, thresholds
from hedgerow.models.validate.thresholds import Limit
from hedgerow.registry import bundle

GENEROUS = "schema: 1\nlimits:\n  cosine_min: {min: 0.9}\n  top1_agreement: {min: 0.5}\n"
STRICT = "schema: 1\nlimits:\n  cosine_min: {min: 0.9999999}\n  top1_agreement: {min: 0.5}\n"


def limits(folder, text):
    path = folder / "limits.yml"
    path.write_text(text)
    return path


def rows(*values):
    return np.array(values, dtype=np.float32)


def test_cosines():
    a = rows([1, 0], [1, 1], [0, 0], [0, 0], [1, np.nan])
    b = rows([0, 2], [2, 2], [0, 0], [1, 0], [1, 1])
    found = metrics.cosines(a, b)
    assert found[:4] == pytest.approx([0, 1, 1, 0])
    assert math.isnan(found[4])


@given(arrays(np.float32, (3, 4), elements=st.floats(-100, 100, width=32)), st.floats(0.1, 100))
def test_cosine_does_not_see_scale_and_is_at_most_one(values, factor):
    found = metrics.cosines(values, values * np.float32(factor))
    assert (found <= 1 + 1e-6).all()
    big = np.linalg.norm(values, axis=1) > 1e-3
    assert np.allclose(found[big], 1, atol=1e-5)


def test_top_agreement():
    a, b = rows([5, 4, 3, 2], [5, 4, 3, 2], [1, np.nan, 0, 0]), rows([4, 5, 3, 2], [9, 1, 0, 8], [1, 0, 0, 0])
    assert metrics.top_agreement(a, b, 1).tolist() == [0, 1, 0]
    assert metrics.top_agreement(a, b, 2).tolist() == [1, 0.5, 0]
    assert metrics.top_agreement(a, b, 5).tolist() == [1, 1, 0]  # of four places all are among the best five


def test_divergence_and_perplexity_by_hand():
    logits = np.log(rows([0.5, 0.5], [0.25, 0.75]))
    other = np.log(rows([0.25, 0.75], [0.25, 0.75]))
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert metrics.divergence(other, logits) == pytest.approx([expected, 0])
    assert metrics.surprises(logits, [0, 1]) == pytest.approx([math.log(2)])
    assert metrics.perplexity([math.log(8)] * 3) == pytest.approx(8)
    assert metrics.perplexity([1e6]) == math.inf


def test_outputs_by_hand():
    found = metrics.outputs([(rows([1, 2]), rows([1, 3])), (rows([0, 4]), rows([4, 0]))])
    assert found["max_abs_error"] == 4
    assert found["relative_error"] == pytest.approx(math.sqrt(33 / 26))
    assert found["top1_agreement"] == 0.5
    assert found["cosine_min"] == pytest.approx(0)


@pytest.mark.slow
def test_bleu_and_rouge():
    same, other = ["the cat sat on the mat today"], ["a dog ran in my garden all night"]
    assert metrics.bleu(same, same) == pytest.approx(100)
    assert metrics.bleu(other, same) < 10
    assert metrics.rouge_l(same, same) == 1
    assert metrics.rouge_l(["the cat sat"], ["the cat ran"]) == pytest.approx(2 / 3)
    assert math.isnan(metrics.rouge_l([], []))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("limit", [Limit(min=0.0), Limit(max=1.0), Limit(min=-1e300, max=1e300)])
def test_what_is_no_number_meets_no_limit(value, limit):
    assert not limit.met_by(value)


def test_limits_are_inclusive():
    limit = Limit(min=0.5, max=1.0)
    assert [limit.met_by(value) for value in (0.49, 0.5, 1.0, 1.01)] == [False, True, True, False]


@pytest.mark.parametrize(
    "text,said",
    [
        ("schema: 1\nlimits: {}\n", "nothing would be judged"),
        ("schema: 1\nlimits: {cosine_mim: {min: 1}}\n", "did you mean cosine_min"),
        ("schema: 1\nlimits: {cosine_min: {}}\n", "needs min or max"),
        ("schema: 1\nlimits: {cosine_min: {min: .nan}}\n", "finite"),
        ("schema: 1\nlimits: {cosine_min: {least: 1}}\n", "least"),
        ("schema: 2\nlimits: {cosine_min: {min: 1}}\n", "schema"),
        ("- 1\n", "array"),
    ],
)
def test_thresholds_that_would_judge_nothing_are_refused(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        thresholds.load(limits(tmp_path, text))


def test_the_schema_in_the_package_is_the_code_s(tmp_path):
    kept = json.loads(Path(thresholds.__file__).with_name("thresholds.schema.json").read_text())
    assert kept == thresholds.json_schema()
    validator = jsonschema.Draft202012Validator(kept)
    for text, good in ((GENEROUS, True), ("schema: 1\nlimits: {}", False), ("schema: 1\nlimits: {x: {min: 1}}", False)):
        assert validator.is_valid(yaml.safe_load(text)) is good


@pytest.mark.parametrize("text", ["schema: 1\n", "schema: 1\nprompts: [{say: hello}]\n", "schema: 1\ntexts: ['']\n"])
def test_probes_that_ask_nothing_are_refused(tmp_path, text):
    (tmp_path / "probe.yml").write_text(text)
    with pytest.raises(UsageError, match="no usable probe"):
        probes.load(tmp_path / "probe.yml")


@pytest.fixture
def int8(models):
    quantize_model(models / "mlp.onnx", models / "int8.onnx", Options("dynamic-int8"))
    return models / "int8.onnx"


def call(hedgerow, models, new, text, *more):
    arguments = ["--against", models / "mlp.onnx", "--probe", models / "mlp.npz"]
    return hedgerow("model", "validate", new, *arguments, "--thresholds", limits(models, text), *more)


def test_a_close_build_passes(hedgerow, models, int8):
    code, out, _ = call(hedgerow, models, int8, GENEROUS, "--json")
    facts = json.loads(out)
    assert code == 0
    assert facts["met"]
    assert facts["rows"] == 8
    assert 0.9 < facts["measured"]["cosine_min"] < 1


@pytest.mark.slow
def test_drift_is_exit_code_1_and_names_metric_value_and_limit(hedgerow, models, int8, tmp_path):
    report = tmp_path / "report"
    code, out, err = call(hedgerow, models, int8, STRICT, "--report", report)
    assert code == 1
    assert "cosine_min is 0.99" in err
    assert "at least 1" in err
    assert "top1_agreement is" not in err
    assert "MISSED" in out
    text = (report / "report.md").read_text()
    assert "**1 of 2 limits missed.**" in text
    for name in ("cosine.png", "values.png"):
        assert f"({name})" in text
        assert (report / name).read_bytes().startswith(b"\x89PNG")
    assert json.loads((report / "validation.json").read_text())["met"] is False


def test_a_model_against_itself_is_perfect(hedgerow, models):
    text = "schema: 1\nlimits:\n  max_abs_error: {max: 0}\n  relative_error: {max: 0}\n  top5_agreement: {min: 1}\n"
    assert call(hedgerow, models, models / "mlp.onnx", text)[0] == 0


def test_nan_never_passes(hedgerow, models, tiny):
    onnx.save(tiny.mlp(scale=np.nan), models / "nan.onnx")
    text = "schema: 1\nlimits:\n  {}\n"
    for limit in ("cosine_min: {min: -1}", "max_abs_error: {max: 1.0e+300}", "relative_error: {max: 1.0e+300}"):
        code, _, err = call(hedgerow, models, models / "nan.onnx", text.format(limit))
        assert (code, "nan" in err) == (1, True)
    assert call(hedgerow, models, models / "nan.onnx", text.format("top1_agreement: {min: 0.01}"))[0] == 1


def test_a_limit_on_what_the_probe_cannot_measure_is_missed(hedgerow, models, int8):
    code, _, err = call(hedgerow, models, int8, "schema: 1\nlimits: {bleu: {min: 0}}\n")
    assert code == 1
    assert "bleu is not measured" in err


def test_a_text_probe_needs_a_generator(hedgerow, models, int8):
    (models / "probe.yml").write_text("schema: 1\ntexts: [some words]\n")
    arguments = ["--against", models / "mlp.onnx", "--probe", models / "probe.yml"]
    code, _, err = hedgerow("model", "validate", int8, *arguments, "--thresholds", limits(models, GENEROUS))
    assert code == 2
    assert "generates no text" in err


def test_models_of_other_shapes_are_not_compared(hedgerow, models):
    code, _, err = call(hedgerow, models, models / "cnn.onnx", GENEROUS)
    assert code == 2
    assert "has shape" in err


def test_a_bundle_is_held_to_its_golden_answers_and_keeps_the_proof(hedgerow, models, make_bundle):
    text = "schema: 1\nlimits: {golden_passed: {min: 1}}\n"
    folder = make_bundle("mlp")
    code, _, _ = call(hedgerow, models, folder, text, "--attach")
    assert code == 0
    whole = bundle.verify_files(folder)
    assert [(proof.kind, proof.path) for proof in whole.manifest.proofs] == [("validation", "validation.json")]
    assert json.loads((folder / "validation.json").read_text())["measured"]["golden_passed"] == 1
    assert call(hedgerow, models, folder, text, "--attach")[0] == 0
    assert bundle.verify_files(folder).sha256 == whole.sha256


def test_a_wrong_golden_answer_is_drift(hedgerow, models, make_bundle, tiny):
    folder = make_bundle("mlp")
    golden = bundle.load(folder).manifest.golden
    other = make_bundle("mlp", folder="other", model=tiny.mlp(scale=2.0), golden=golden)
    code, _, err = call(hedgerow, models, other, "schema: 1\nlimits: {golden_passed: {min: 1}}\n", "--attach")
    assert code == 1
    assert "golden_passed is 0" in err
    assert bundle.verify_files(other).manifest.proofs == ()


def test_a_variant_is_named(hedgerow, models, make_bundle, tmp_path):
    source = make_bundle("mlp")
    arguments = ["--variant", "full=float32", "--variant", "small=int4-weights", "--output", tmp_path / "both"]
    assert hedgerow("model", "quantize", source, *arguments)[0] == 0
    exact = "schema: 1\nlimits: {max_abs_error: {max: 0}, golden_passed: {min: 1}}\n"
    assert call(hedgerow, models, tmp_path / "both", exact)[0] == 0
    assert call(hedgerow, models, tmp_path / "both", exact, "--variant", "small")[0] == 1
    code, _, err = call(hedgerow, models, tmp_path / "both", exact, "--variant", "tiny")
    assert code == 2
    assert "full, small" in err


def test_a_file_that_onnxruntime_refuses(models):
    from hedgerow.models.validate.builds import Session

    (models / "bad.onnx").write_bytes(b"nothing")
    with pytest.raises(PublisherError, match="cannot load"):
        Session(models / "bad.onnx")
