"""The same commands on models that generate text: a tiny Llama with random weights."""

import json

import pytest

from hedgerow.errors import UsageError
from hedgerow.models import measure, measure_worker, variants
from hedgerow.models.importer import ImportRequest, import_gguf
from hedgerow.models.quantize_onnx import Options
from hedgerow.models.validate import builds, probes
from hedgerow.models.validate.compare import compare
from hedgerow.models.variants import Wanted
from hedgerow.registry import bundle
from hedgerow.registry.manifest import Source

PROBE = probes.TextProbe(
    schema=1,
    texts=("hello hello, said the hedge to the lane " * 3, "hell no"),
    prompts=(
        probes.Prompt("hello", reference="hello there", max_tokens=8),
        probes.Prompt("hello", must_contain="\N{SNOWMAN}", max_tokens=4),
    ),
    tokens=70,
)


@pytest.fixture(scope="module")
def imported(tiny_gguf, tmp_path_factory):
    """``imported[quality]`` → folder of the bundle."""
    cache = tmp_path_factory.mktemp("bundles")
    return {
        quality: import_gguf(
            ImportRequest(tiny_gguf, quality, "1.0.0", "Apache-2.0", (Source("tiny.gguf"),), quality=quality),
            cache=cache,
        )
        for quality in ("fast", "faithful")
    }


def compared(new, reference):
    with builds.opened(new) as first, builds.opened(reference) as second:
        return compare(first, second, PROBE)


@pytest.mark.slow
def test_a_text_probe_measures_tokens_and_answers(imported):
    found = compared(imported["fast"], imported["faithful"])
    figures = found.measured
    assert set(figures) == {
        "logits_cosine_mean", "logits_cosine_min", "kl_mean", "top1_agreement", "top5_agreement", "perplexity",
        "perplexity_ratio", "bleu", "bleu_drop", "rouge_l", "rouge_l_drop", "prompts_passed", "golden_passed",
    }  # fmt: skip
    assert 0.9 < figures["logits_cosine_mean"] < 1
    assert figures["kl_mean"] > 0
    assert figures["perplexity"] > 1
    assert figures["prompts_passed"] == 0
    assert figures["golden_passed"] == 1
    assert [each.passed for each in found.answers] == [None, False]
    assert found.rows == len(found.series["cosine"]) > 70


def test_a_generator_against_itself_is_perfect(imported):
    figures = compared(imported["fast"], imported["fast"]).measured
    assert figures["logits_cosine_min"] == pytest.approx(1)
    assert figures["kl_mean"] == pytest.approx(0, abs=1e-9)
    assert (figures["top1_agreement"], figures["perplexity_ratio"], figures["bleu_drop"]) == (1, 1, 0)


def test_a_tensor_probe_does_not_fit_a_generator(imported, models):
    probe = probes.load(models / "mlp.npz")
    with builds.opened(imported["fast"]) as build, pytest.raises(UsageError, match="is in no array"):
        compare(build, build, probe)


def test_variants_of_a_generator_keep_the_tokenizer_shared(imported, tmp_path):
    pruned = Wanted("pruned", Options("float32", prune=0.2), {})
    built = variants.build(imported["fast"], tmp_path / "out", [Wanted("full", Options("float32"), {}), pruned])
    paths = {each.path for each in bundle.verify_files(tmp_path / "out").manifest.files}
    assert {"tokenizer.json", "genai_config.json", "full/model.onnx", "pruned/model.onnx"} <= paths
    assert not [path for path in paths if path.startswith("full/") and "model.onnx" not in path]
    assert built.document.variants[0].golden == bundle.load(imported["fast"]).manifest.golden
    with builds.opened(tmp_path / "out", "full") as build:
        assert build.generates
        assert build.document.variant == "full"


def test_the_worker_times_first_token_and_the_rest(imported, monkeypatch, capsys):
    with builds.opened(imported["fast"]) as build:
        plan = measure.Plan(requests=2, max_tokens=4)
        job = measure._job(build, plan, imported["fast"])
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(job)])
    measure_worker.main()
    found = json.loads(capsys.readouterr().out)
    assert len(found["ttft_ms"]) == 2
    assert all(each > 0 for each in found["ttft_ms"] + found["tokens_per_s"])
    assert "latency_ms" not in found
