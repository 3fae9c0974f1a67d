"""Limits that a build has to meet, in a YAML file; and the judgement. Pure.

```yaml
schema: 1
limits:
  logits_cosine_mean: {min: 0.99}
  perplexity_ratio: {max: 1.1}
```

A value meets a limit if it is a finite number within it: NaN and infinity meet none. A limit on a metric that was not
measured is missed too, because a probe without references must not pass a limit on BLEU.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hedgerow import configfile
from hedgerow import json_schema as schemas
from hedgerow.errors import UsageError

METRICS: Final[dict[str, str]] = {
    "cosine_mean": "mean cosine of the outputs, sample by sample; the worst output counts",
    "cosine_min": "the least cosine of all samples and outputs",
    "max_abs_error": "largest difference of two values",
    "relative_error": "root mean square of the differences over that of the reference; the worst output counts",
    "top1_agreement": "share of rows (samples, tokens) with the same best place",
    "top5_agreement": "mean share of the five best places that both have",
    "logits_cosine_mean": "mean cosine of the logits, token by token",
    "logits_cosine_min": "the least cosine of all tokens",
    "kl_mean": "mean divergence from the reference, nats a token",
    "perplexity": "perplexity of the new build over the probe's texts",
    "perplexity_ratio": "its perplexity over the reference's",
    "bleu": "BLEU of its answers against the probe's references, 0 to 100",
    "bleu_drop": "the reference build's BLEU minus its own",
    "rouge_l": "ROUGE-L (F1) of its answers against the probe's references, 0 to 1",
    "rouge_l_drop": "the reference build's ROUGE-L minus its own",
    "prompts_passed": "share of the probe's prompts whose answer holds what it must",
    "golden_passed": "share of the new bundle's own golden questions that it answers within tolerance",
}


class Limit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """At least ``min``, at most ``max``; one of the two at least."""

    min: float | None = None
    max: float | None = None

    def __post_init__(self) -> None:
        if self.min is None and self.max is None:
            raise ValueError("a limit needs min or max")
        if any(each is not None and not math.isfinite(each) for each in (self.min, self.max)):
            raise ValueError("a limit is a finite number")

    def met_by(self, value: float | None) -> bool:
        """Whether a measured value is within; False for NaN, infinity and what was not measured."""
        if value is None or not math.isfinite(value):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)

    def __str__(self) -> str:
        low = "" if self.min is None else f"at least {self.min:g}"
        high = "" if self.max is None else f"at most {self.max:g}"
        return " and ".join(part for part in (low, high) if part)


class Thresholds(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A thresholds file."""

    schema: Literal[1]
    limits: dict[str, Limit]

    def __post_init__(self) -> None:
        if not self.limits:
            raise ValueError("limits is empty: nothing would be judged")
        for name in self.limits:
            if name not in METRICS:
                close = difflib.get_close_matches(name, METRICS, 1)
                hint = f"; did you mean {close[0]}?" if close else f"; these are: {', '.join(METRICS)}"
                raise ValueError(f"no metric is called {name!r}{hint}")


@dataclass(frozen=True)
class Judgement:
    """One limit against what was measured; ``value`` None: not measured."""

    metric: str
    limit: Limit
    value: float | None
    met: bool

    def __str__(self) -> str:
        shown = "not measured with this probe" if self.value is None else f"{self.value:.6g}"
        return f"{self.metric} is {shown}, the limit is {self.limit}"


def load(path: Path) -> Thresholds:
    """Read a thresholds file.

    Raises:
        UsageError: no such file, or it breaks a rule; the message names the key.
    """
    try:
        return configfile.decode(path.read_bytes(), Thresholds)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(
            f"no usable thresholds: {error}", where=str(path), next_step="see docs/proving-models.md for an example"
        ) from error


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a thresholds file, kept beside this module as ``thresholds.schema.json``."""
    schema = schemas.of(Thresholds, "Limits of hedgerow model validate")
    definition = schema["$defs"]["Thresholds"]["properties"]["limits"]
    definition |= {"minProperties": 1, "propertyNames": {"enum": list(METRICS)}}
    return schema


def judge(thresholds: Thresholds, measured: Mapping[str, float]) -> list[Judgement]:
    """Hold every limit against what was measured, in the file's order."""
    return [
        Judgement(name, limit, measured.get(name), limit.met_by(measured.get(name)))
        for name, limit in thresholds.limits.items()
    ]


if __name__ == "__main__":  # python -m hedgerow.models.validate.thresholds > src/…/validate/thresholds.schema.json
    print(json.dumps(json_schema(), indent=2, sort_keys=True))  # noqa: T201 -- this is the output
