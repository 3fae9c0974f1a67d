"""Figures that say how far one build's outputs are from another's. Pure: arrays and numbers in, numbers out.

A figure that cannot be computed is NaN, and NaN meets no limit (``thresholds``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]
TOP: Final = 5


def cosines(new: Array, reference: Array) -> Floats:
    """Cosine of the angle between rows: ``(rows, values)`` twice → ``(rows,)``.

    Two rows of zeros are equal (1); one of them alone has no direction (0). NaN or infinity in a row gives NaN.
    """
    a, b = new.astype(np.float64), reference.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        found = (a * b).sum(axis=1) / lengths
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    one_zero = (~a.any(axis=1) ^ ~b.any(axis=1)) & np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    found[both_zero] = 1.0
    found[one_zero] = 0.0
    return np.asarray(found, np.float64)


def top_agreement(new: Array, reference: Array, count: int) -> Floats:
    """Share of the places of the ``count`` largest values that both rows have, row by row.

    Of equal values at the end any may count, the same ones in equal rows. A row with NaN shares nothing.
    """
    count = min(count, new.shape[1])
    first, second = _largest(new, count), _largest(reference, count)
    shared = (first[:, :, None] == second[:, None, :]).any(axis=2).sum(axis=1) / count
    broken = np.isnan(new).any(axis=1) | np.isnan(reference).any(axis=1)
    return np.where(broken, 0.0, shared)


def _largest(values: Array, count: int) -> NDArray[np.intp]:
    """Places of each row's ``count`` largest values, in no order."""
    if count == 1:
        return np.asarray(values.argmax(axis=1)[:, None])
    # Not sorted whole: a vocabulary has 50,000 entries, and five of them matter.
    return np.asarray(np.argpartition(values, values.shape[1] - count, axis=1)[:, -count:])


def log_probabilities(logits: Array) -> Floats:
    """Natural logarithm of the softmax of each row."""
    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        shifted = values - values.max(axis=1, keepdims=True)
        return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def divergence(new: Array, reference: Array) -> Floats:
    """Kullback-Leibler divergence of ``new`` from ``reference`` in nats, row by row, of logits."""
    p, q = log_probabilities(reference), log_probabilities(new)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=1))


def surprises(logits: Array, tokens: Sequence[int]) -> Floats:
    """Nats that each next token costs: row ``i`` foretells ``tokens[i + 1]``; one fewer than tokens."""
    rows = log_probabilities(logits)[: len(tokens) - 1]
    return np.asarray(-rows[np.arange(len(rows)), np.asarray(tokens[1:], dtype=np.int64)])


def perplexity(costs: Sequence[float] | Floats) -> float:
    """Exponential of the mean cost in nats; infinity where that is beyond a float, NaN of none."""
    with np.errstate(over="ignore"):
        return float(np.exp(mean(costs)))


def mean(values: Sequence[float] | Floats) -> float:
    """Arithmetic mean; NaN of none."""
    return float(np.mean(values)) if len(values) else math.nan


def least(values: Sequence[float] | Floats) -> float:
    """Smallest value; NaN of none, and where one is NaN."""
    return float(np.min(values)) if len(values) else math.nan


def outputs(pairs: Sequence[tuple[Array, Array]]) -> dict[str, float]:
    """Figures of one output over several runs: each pair is new and reference, ``(rows, values)`` of the same shape.

    ``cosine_*``, ``max_abs_error`` and ``relative_error`` (root mean square of the difference over that of the
    reference) always; ``top1_agreement`` and ``top5_agreement`` where a row has more than one value.
    """
    angles = np.concatenate([cosines(a, b) for a, b in pairs]) if pairs else np.zeros(0)
    squares = error = 0.0
    worst = [0.0]
    for a, b in pairs:
        with np.errstate(invalid="ignore", over="ignore"):
            difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
            worst.append(float(difference.max(initial=0.0)))
            error += float((difference**2).sum())
            squares += float((b.astype(np.float64) ** 2).sum())
    relative = 0.0 if error == 0 else (math.sqrt(error / squares) if squares else math.inf)
    found = {
        "cosine_mean": mean(angles),
        "cosine_min": least(angles),
        "max_abs_error": float(np.max(worst)),
        "relative_error": relative,
    }
    if pairs and all(a.shape[1] > 1 for a, _ in pairs):
        for name, count in (("top1_agreement", 1), ("top5_agreement", TOP)):
            found[name] = mean(np.concatenate([top_agreement(a, b, count) for a, b in pairs]))
    return found


def bleu(answers: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU, 0 to 100, as sacreBLEU computes it by default (tokenizer 13a, exponential smoothing)."""
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(answers), [list(references)]).score)


def rouge_l(answers: Sequence[str], references: Sequence[str]) -> float:
    """Mean F1 of the longest common subsequence of words, 0 to 1 (ROUGE-L, no stemming)."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(references, answers, strict=True)
    return mean([float(scorer.score(reference, answer)["rougeL"].fmeasure) for reference, answer in pairs])
