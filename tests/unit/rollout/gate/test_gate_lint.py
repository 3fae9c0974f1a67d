from __future__ import annotations

import pytest

from hedgerow.rollout.gate.lint import remarks
from hedgerow.rollout.policy import parse


def said(**gate: object) -> list[tuple[str, str]]:
    return [(remark.key, remark.what) for remark in remarks(parse({"gate": gate}, where="test"))]


def criterion(**condition: object) -> dict[str, object]:
    return {"criteria": [{"name": "mine", "all_of": [condition]}]}


def test_the_defaults_are_meant() -> None:
    assert said() == []


@pytest.mark.parametrize(
    "gate, key, what",
    [
        ({"probes": {"count": 4}}, "gate.probes", "slower compares 8 answers .* puts 4 questions"),
        ({"probes": {"baseline_s": 0}}, "gate.probes", "in 0 s then: it will always be skipped"),
        ({"without": ["slower"], "probes": {"count": 4}}, None, None),
        (
            criterion(metric="p95_ms", worse_by=2, minimum_samples=3),
            "gate.criteria",
            "mine: 3 samples prove nothing",
        ),
        (criterion(metric="p95_ms", worse_by=2, minimum_samples=9, against="untouched"), None, None),
        (criterion(metric="queue", worse_by=2), None, None),
        (criterion(metric="p95_ms", above=9, against="untouched"), "gate.criteria", "mine: against has no effect"),
        (criterion(metric="restarts", above=9, even_if_before=True), "gate.criteria", "even_if_before has no effect"),
        (criterion(metric="queue", worse_by=2, even_if_before=True), "gate.criteria", "even_if_before has no effect"),
        (criterion(metric="queue", above=2, minimum_samples=5), "gate.criteria", "minimum_samples has no effect"),
        (criterion(metric="queue", above=2, even_if_before=True), None, None),
        (criterion(metric="error_ratio", above=0.1, minimum_samples=50, even_if_before=True), None, None),
        ({"controls": 3}, None, None),
        ({"controls": 3, "without": ["slower"]}, "gate.controls", "no untouched host is asked"),
        (
            {"prometheus": {"url": "https://p", "queries": {"cpu": "x"}}},
            "gate.prometheus.queries.cpu",
            "no criterion uses it",
        ),
        (
            criterion(query="cpu", above=1) | {"prometheus": {"url": "http://p", "queries": {"cpu": "x"}}},
            "gate.prometheus.url",
            "without TLS",
        ),
    ],
)
def test_what_nobody_can_have_meant(gate: dict[str, object], key: str | None, what: str | None) -> None:
    found = said(**gate)
    assert [each[0] for each in found] == ([] if key is None else [key])
    if what is not None:
        import re

        assert re.search(what, found[0][1])


def test_the_advice_suffices() -> None:
    advice = next(remarks(parse({"gate": criterion(metric="p95_ms", worse_by=2, minimum_samples=3)}, where="x"))).next
    samples = int(advice.removeprefix("minimum_samples: ").partition(",")[0])
    assert samples > 3
    assert said(**criterion(metric="p95_ms", worse_by=2, minimum_samples=samples)) == []
