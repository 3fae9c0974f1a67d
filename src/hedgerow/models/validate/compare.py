"""Run two builds on a probe and measure how far apart they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.quantize_calibration import Inputs
from hedgerow.models.validate import metrics
from hedgerow.models.validate.builds import Array, Build, Session, generator
from hedgerow.models.validate.probes import Prompt, TextProbe
from hedgerow.registry import probe as golden_probe
from hedgerow.registry.manifest import GoldenTensors, GoldenText, Message

# Which of several outputs' figures counts: the worst.
_HIGHER_IS_WORSE: Final = ("max_abs_error", "relative_error")
# Rows of logits looked at together: 64 of 50,000 in float64 are 26 MB, and there are a few copies of them.
_ROWS: Final = 64


@dataclass(frozen=True)
class Answered:
    """One prompt and what the two builds said. ``passed`` None: nothing was demanded."""

    ask: str
    new: str
    reference: str
    passed: bool | None


@dataclass
class Comparison:
    """``measured`` by metric; ``by_output`` the same for each output; ``series`` for the plots; ``answers`` to read."""

    rows: int = 0
    measured: dict[str, float] = field(default_factory=dict)
    by_output: dict[str, dict[str, float]] = field(default_factory=dict)
    series: dict[str, list[float]] = field(default_factory=dict)
    answers: list[Answered] = field(default_factory=list)


def compare(new: Build, reference: Build, probe: Inputs | TextProbe) -> Comparison:
    """Measure everything that the probe allows.

    Raises:
        UsageError: the probe does not fit the models, or the two cannot be compared.
        PublisherError: a model cannot be loaded, or the outputs' shapes differ.
    """
    found = Comparison()
    if isinstance(probe, TextProbe):
        for build in (new, reference):
            if not build.generates:
                raise UsageError(
                    "this build generates no text (no genai_config.json)",
                    where=str(build.folder),
                    next_step="give --probe an .npz file with the model's inputs",
                )
        _texts(new, reference, probe, found)
        _prompts(new, reference, probe.prompts, found)
    else:
        _tensors(new, reference, probe, found)
    _golden(new, found)
    return found


def _tensors(new: Build, reference: Build, probe: Inputs, found: Comparison) -> None:
    first, second = Session(new.model), Session(reference.model)
    lacking = sorted(set(second.outputs) - set(first.outputs))
    if lacking:
        raise UsageError(
            f"the new build lacks output {lacking[0]!r}", where=new.label, next_step="compare like with like"
        )
    pairs: dict[str, list[tuple[Array, Array]]] = {name: [] for name in second.outputs}
    # What one model takes has to suit the other: a batch that only one of them has fixed cannot be told apart.
    for feed in probe.fitted(_narrower(first.shapes, second.shapes)):
        ours, theirs = first.run(feed), second.run(feed)
        for name, b in zip(second.outputs, theirs, strict=True):
            a = ours[first.outputs.index(name)]
            if a.dtype.kind not in "biuf" or b.dtype.kind not in "biuf":
                continue
            if a.shape != b.shape:
                raise PublisherError(
                    f"output {name!r} has shape {list(a.shape)}; the reference's has {list(b.shape)}",
                    where=new.label,
                    next_step="were the two made from the same model, with the same static shapes?",
                )
            pairs[name].append((_rows(a), _rows(b)))
    found.by_output = {name: metrics.outputs(each) for name, each in pairs.items() if each}
    if not found.by_output:
        raise UsageError("no output holds numbers", where=reference.label, next_step="nothing to compare here")
    for name in dict.fromkeys(key for figures in found.by_output.values() for key in figures):
        values = [figures[name] for figures in found.by_output.values() if name in figures]
        worst = np.max(values) if name in _HIGHER_IS_WORSE else np.min(values)  # NaN wins in both
        found.measured[name] = float(worst)
    found.rows = sum(len(a) for a, _ in pairs[next(iter(found.by_output))])
    found.series["cosine"] = [float(x) for each in pairs.values() for a, b in each for x in metrics.cosines(a, b)]
    flat = [(a.ravel(), b.ravel()) for each in pairs.values() for a, b in each]
    _scatter(np.concatenate([a for a, _ in flat]), np.concatenate([b for _, b in flat]), found)


def _narrower(first: dict[str, list[Any]], second: dict[str, list[Any]]) -> dict[str, list[Any]]:
    """Both models' inputs, with every dimension that one of them has fixed."""
    found = {}
    for name in {**first, **second}:
        shapes = [each[name] for each in (first, second) if name in each]
        found[name] = [
            next((dim for dim in dims if isinstance(dim, int)), dims[0]) for dims in zip(*shapes, strict=False)
        ]
    return found


def _rows(values: Array) -> Array:
    return values.reshape(len(values), -1) if values.ndim else values.reshape(1, 1)


def _scatter(new: Array, reference: Array, found: Comparison, *, most: int = 2000) -> None:
    """At most ``most`` pairs of values, evenly spread, for a plot."""
    step = max(1, math.ceil(len(new) / most))
    found.series["new"] = [float(each) for each in new[::step]]
    found.series["reference"] = [float(each) for each in reference[::step]]


def _texts(new: Build, reference: Build, probe: TextProbe, found: Comparison) -> None:
    if not probe.texts:
        return
    first, second = Session(new.model), Session(reference.model)
    ours, theirs = generator(new), generator(reference)
    cost, cost_reference = [], []
    series: dict[str, list[float]] = {name: [] for name in ("cosine", "kl", "top1", "top5")}
    for text in probe.texts:
        tokens = theirs.encode(text)[: probe.tokens]
        if ours.encode(text)[: probe.tokens] != tokens:
            raise UsageError(
                "the two builds cut a text into different tokens, so their logits mean different things",
                where=new.label,
                next_step="compare builds of the same checkpoint",
            )
        if len(tokens) < 2:  # noqa: PLR2004 -- a token and the one it foretells
            raise UsageError(f"the text {text!r} is a single token", next_step="give the probe longer texts")
        a, b = first.logits(tokens), second.logits(tokens)
        if a.shape != b.shape:
            raise UsageError("the two builds have different vocabularies", where=new.label, next_step="see above")
        cost += list(metrics.surprises(a, tokens))
        cost_reference += list(metrics.surprises(b, tokens))
        for start in range(0, len(tokens), _ROWS):
            x, y = a[start : start + _ROWS], b[start : start + _ROWS]
            series["cosine"] += list(metrics.cosines(x, y))
            series["kl"] += list(metrics.divergence(x, y))
            series["top1"] += list(metrics.top_agreement(x, y, 1))
            series["top5"] += list(metrics.top_agreement(x, y, metrics.TOP))
        _scatter(a[-1], b[-1], found)
    found.rows = len(series["cosine"])
    found.series |= {"cosine": series["cosine"], "kl": series["kl"]}
    perplexity, before = metrics.perplexity(cost), metrics.perplexity(cost_reference)
    found.measured |= {
        "logits_cosine_mean": metrics.mean(series["cosine"]),
        "logits_cosine_min": metrics.least(series["cosine"]),
        "kl_mean": metrics.mean(series["kl"]),
        "top1_agreement": metrics.mean(series["top1"]),
        "top5_agreement": metrics.mean(series["top5"]),
        "perplexity": perplexity,
        "perplexity_ratio": perplexity / before,
    }


def _prompts(new: Build, reference: Build, prompts: Sequence[Prompt], found: Comparison) -> None:
    if not prompts:
        return
    ours, theirs = generator(new), generator(reference)
    for prompt in prompts:
        first, second = (
            each.greedy(each.prompt((Message("user", prompt.ask),)), max_tokens=prompt.max_tokens).text
            for each in (ours, theirs)
        )
        passed = None if prompt.must_contain is None else prompt.must_contain in first
        found.answers.append(Answered(prompt.ask, first, second, passed))
    demanded = [each.passed for each in found.answers if each.passed is not None]
    if demanded:
        found.measured["prompts_passed"] = sum(demanded) / len(demanded)
    referenced = [(a, p.reference) for a, p in zip(found.answers, prompts, strict=True) if p.reference is not None]
    if referenced:
        references = [reference for _, reference in referenced]
        said, said_before = [a.new for a, _ in referenced], [a.reference for a, _ in referenced]
        for name, measure in (("bleu", metrics.bleu), ("rouge_l", metrics.rouge_l)):
            found.measured[name] = measure(said, references)
            found.measured[f"{name}_drop"] = measure(said_before, references) - found.measured[name]


def _golden(new: Build, found: Comparison) -> None:
    if not new.golden:
        return
    wrong = 0
    for question in new.golden:
        answer = _tensor_answer(new, question) if isinstance(question, GoldenTensors) else _text_answer(new, question)
        wrong += golden_probe.wrong(question, answer) is not None
    found.measured["golden_passed"] = 1 - wrong / len(new.golden)


def _tensor_answer(build: Build, question: GoldenTensors) -> dict[str, Any]:
    session = Session(build.model)
    feed = {each.name: np.array(each.data).reshape(each.shape) for each in question.inputs}
    pairs = zip(session.outputs, session.run(feed), strict=True)
    return {"outputs": [{"name": name, "shape": list(x.shape), "data": x.ravel().tolist()} for name, x in pairs]}


def _text_answer(build: Build, question: GoldenText) -> dict[str, Any]:
    asked = generator(build)
    said = asked.greedy(asked.prompt(question.messages), max_tokens=question.max_tokens).text
    return {"choices": [{"message": {"content": said}}]}
