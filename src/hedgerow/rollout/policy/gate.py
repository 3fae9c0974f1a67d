"""Section ``gate``: what a host is held against while it is watched.

What the policy cannot switch off: a wrong golden answer fails, and no data never passes.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from hedgerow.rollout.policy.units import Count, Natural, Seconds

Ratio = Annotated[float, msgspec.Meta(gt=0)]
Probability = Annotated[float, msgspec.Meta(gt=0, lt=1)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]*$", max_length=63)]


class Metric(StrEnum):
    """What can be held against a limit. ``_ms`` is milliseconds, ``_s`` seconds, ``_c`` degrees Celsius.

    ``perplexity`` is of the model's own answers to the gate's questions, of which figures are medians: e to the mean of
    the negative logarithms of its tokens' probabilities. 1 is certain; weights that are damaged or too coarse raise it.
    """

    P50_MS = "p50_ms"
    P95_MS = "p95_ms"
    P99_MS = "p99_ms"
    TTFT_MS = "ttft_ms"
    TOKENS_PER_S = "tokens_per_s"
    ERROR_RATIO = "error_ratio"
    GOLDEN_FAILURES = "golden_failures"
    RESTARTS = "restarts"
    START_S = "start_s"
    REPORTED_P50_MS = "reported_p50_ms"
    REPORTED_P95_MS = "reported_p95_ms"
    REPORTED_P99_MS = "reported_p99_ms"
    REPORTED_TTFT_P95_MS = "reported_ttft_p95_ms"
    REPORTED_TOKENS_PER_S = "reported_tokens_per_s"
    MEMORY_USED_RATIO = "memory_used_ratio"
    TEMPERATURE_C = "temperature_c"
    THROTTLED = "throttled"
    UNDERVOLTAGE = "undervoltage"
    HEARTBEAT_AGE_S = "heartbeat_age_s"
    QUEUE = "queue"
    PERPLEXITY = "perplexity"


SAMPLED: Final = frozenset({
    Metric.P50_MS, Metric.P95_MS, Metric.P99_MS, Metric.TTFT_MS, Metric.TOKENS_PER_S, Metric.PERPLEXITY,
})  # fmt: skip
"""Measured by probes, one value an answer: these can be compared by a test."""
COUNTED: Final = frozenset({Metric.ERROR_RATIO, Metric.GOLDEN_FAILURES, Metric.RESTARTS, Metric.START_S})
"""Counted, or measured once, since the activation: waiting does not mend them."""
LESS_IS_WORSE: Final = frozenset({Metric.TOKENS_PER_S, Metric.REPORTED_TOKENS_PER_S})
"""The others are worse the higher they are."""
EXPLAINED: Final = frozenset(Metric) - COUNTED - {Metric.MEMORY_USED_RATIO, Metric.HEARTBEAT_AGE_S, Metric.PERPLEXITY}
"""What a supply that sags, or a board that is slowed down, makes worse without the release's doing."""
EXPLAINED_BY_LOAD: Final = EXPLAINED - {Metric.TEMPERATURE_C, Metric.THROTTLED, Metric.UNDERVOLTAGE}
"""What other work on the board makes worse without the release's doing."""
NOT_COMPARED: Final = frozenset({Metric.GOLDEN_FAILURES, Metric.RESTARTS, Metric.START_S})
"""Counted from the activation on: there is no value before it to be compared with."""


class Condition(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One limit: ``above`` or ``below`` a value, or ``worse_by`` a ratio than ``against``.

    Exactly one of ``metric`` and ``query`` (a name in ``prometheus.queries``).
    """

    metric: Metric | None = None
    query: str | None = None
    above: float | None = None
    below: float | None = None
    worse_by: Annotated[float, msgspec.Meta(ge=1)] | None = None
    """1.5: half as slow again. For metrics that are better the higher they are: a 1.5th of what it was."""
    and_by: Annotated[float, msgspec.Meta(gt=0)] | None = None
    """With ``worse_by``: by so much in the metric's own unit, too, for half of next to nothing harms nobody."""
    against: Literal["before", "untouched"] = "before"
    """The host itself before its activation, or hosts that do not have the release yet, in the same minutes."""
    minimum_samples: Count | None = None
    """Answers (before and after, each) under which nothing is said; None: 1 for a limit, 8 for a comparison. Of answers
    and errors alone; a report gives one figure."""
    even_if_before: bool = False
    """A limit counts, too, where the host broke it before the release touched it. What is counted since the activation
    (restarts, wrong answers, the start) always does."""

    def __post_init__(self) -> None:
        if (self.metric is None) == (self.query is None):
            raise ValueError("a condition names one metric, or one query of gate.prometheus")
        if [self.above, self.below, self.worse_by].count(None) != 2:  # noqa: PLR2004 - all but one of three
            raise ValueError(f"{self.subject}: give exactly one of above, below and worse_by")
        if self.and_by is not None and self.worse_by is None:
            raise ValueError(f"{self.subject}: and_by goes with worse_by")
        if self.worse_by is not None and self.metric in NOT_COMPARED:
            raise ValueError(f"{self.subject} is counted since the activation: give it a limit (above)")

    @property
    def subject(self) -> str:
        """What it is about."""
        return f"query {self.query}" if self.metric is None else str(self.metric)

    @property
    def samples(self) -> int:
        """Samples that are needed before it says anything."""
        return self.minimum_samples or (1 if self.worse_by is None else MINIMUM_SAMPLES)

    @property
    def tested(self) -> bool:
        """Whether it may come to a test of samples: a comparison, or errors of which there were many before, too."""
        if self.worse_by is not None:
            return self.metric in SAMPLED or self.metric is Metric.ERROR_RATIO
        return self.metric is Metric.ERROR_RATIO and not self.even_if_before


MINIMUM_SAMPLES: Final = 8
"""Two groups of 8 have C(16, 8) = 12 870 orders: complete separation has p = 0.00008, below any share of the
default ``alpha`` that is spent on one test."""


class Criterion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Breached when **all** of its conditions are."""

    name: str
    all_of: Annotated[list[Condition], msgspec.Meta(min_length=1)]
    unknown: Literal["no_data", "skip"] = "no_data"
    """What it is when nothing measures it: no data, which never passes, or left out and listed as such."""


class Probes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gate's own questions: the bundle's golden inputs in turn, one at a time."""

    count: Natural = 30
    """Questions over the shortest soak; a longer one goes on at the same pace. 0: one only, at the end."""
    slowest_s: Seconds = 5.0
    """A longer soak spreads them, but asks one at least this often."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5
    """Share of the time that they may keep the host busy: after an answer of 2 s, a pause of 2 s."""
    baseline_s: Annotated[float, msgspec.Meta(ge=0)] = 30.0
    """Seconds for the questions before the activation at most; ``count`` of a quick model take less than one."""
    timeout_s: Seconds = 30.0
    """Seconds within which an answer must begin; later is an error."""


PLACE: Final = re.compile(r"\$(\w+)")
LABELS: Final = ("host", "site", "fleet", "address")


class Prometheus(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where instant queries go.

    In a query, ``$host`` becomes the host's name as a quoted string, ``$host_re`` a quoted regular expression that
    matches it alone; ``$site``, ``$fleet`` and ``$address`` likewise.
    """

    url: Annotated[str, msgspec.Meta(pattern=r"^https?://[^\s?#]+$")]
    """Without ``/api/v1``."""
    queries: Annotated[dict[Name, str], msgspec.Meta(min_length=1)]
    """Name → PromQL that gives a scalar, or a vector of one sample."""
    timeout_s: Seconds = 5.0
    attempts: Count = 2
    on_outage: Literal["no_data", "ignore"] = "no_data"
    """``ignore``: while Prometheus gives no answer, what rests on it is left out, and listed as such."""
    ca: str | None = None
    """File with the certificate authorities; None: the system's."""
    certificate: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("gate.prometheus: certificate and key come together")
        for name, query in self.queries.items():
            unknown = sorted({place for place in PLACE.findall(query) if place.removesuffix("_re") not in LABELS})
            if unknown:
                known = ", ".join(f"${each}" for each in LABELS)
                raise ValueError(
                    f"gate.prometheus: query {name} has ${unknown[0]}; known are {known}, each also with _re"
                )
        if self.url.startswith("http:") and (self.ca or self.certificate):
            raise ValueError("gate.prometheus: a certificate is of no use with http://; write https://")


class Gate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a host must keep to."""

    slo: bool = True
    """Hold the answers to the gate's own questions to the bundle's ``slo``."""
    without: list[Literal["errors", "restarts", "memory", "start", "slower"]] = []
    """Built-in criteria that are not to count."""
    criteria: list[Criterion] = []
    """Added to the built-in ones."""
    alpha: Probability = 0.001
    """Chance that a host is failed by its comparisons although nothing changed, over all of them and all looks."""
    controls: Annotated[int, msgspec.Meta(ge=1, le=8)] = 2
    """How many untouched hosts are asked the same in the same time, where a criterion compares answers."""
    probes: Probes = Probes()
    prometheus: Prometheus | None = None

    def __post_init__(self) -> None:
        names = [criterion.name for criterion in self.criteria]
        twice = {name for name in names if names.count(name) > 1} | (set(names) & RESERVED_NAMES)
        if twice:
            raise ValueError(f"gate.criteria: a name of its own for each, not {', '.join(sorted(twice))}")
        known = {} if self.prometheus is None else self.prometheus.queries
        for criterion in self.criteria:
            for condition in criterion.all_of:
                if condition.query is not None and condition.query not in known:
                    raise ValueError(
                        f"gate.criteria: {criterion.name} asks for query {condition.query!r}, "
                        f"which gate.prometheus.queries does not have"
                    )
                if condition.query is not None and condition.worse_by is not None and condition.against == "untouched":
                    raise ValueError(f"gate.criteria: {criterion.name}: a query is compared with before alone")

    @property
    def weighs(self) -> bool:
        """Whether any criterion asks how probable the model's answers are by itself."""
        return any(each.metric is Metric.PERPLEXITY for criterion in self.criteria for each in criterion.all_of)

    @property
    def needs_controls(self) -> bool:
        """Whether any criterion compares with untouched hosts, or with a time before that was another for them, too."""
        compared = [each for criterion in self.criteria for each in criterion.all_of if each.worse_by is not None]
        return "slower" not in self.without or any(
            each.against == "untouched" or each.metric not in {None, Metric.ERROR_RATIO} for each in compared
        )


RESERVED_NAMES: Final = frozenset({"wrong_answers", "errors", "restarts", "memory", "start", "slower", "slo"})
