from __future__ import annotations

import jsonschema
import pytest
import yaml

from hedgerow.errors import UsageError
from hedgerow.rollout import policy
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.policy.gate import EXPLAINED, Metric

FULL = """
soak: {passes: 5, interval_s: 2, minimum_s: 60, deadline_s: 300}
gate:
  slo: false
  without: [memory]
  alpha: 0.01
  controls: 3
  probes: {count: 50, share: 0.25, baseline_s: 60}
  criteria:
    - name: slow and restarting
      all_of:
        - {metric: p95_ms, worse_by: 1.2, and_by: 50, against: untouched, minimum_samples: 20}
        - {metric: restarts, above: 0}
    - name: busy
      unknown: skip
      all_of: [{query: cpu, above: 0.9, even_if_before: true}]
  prometheus:
    url: https://prometheus.example:9090
    ca: /etc/ssl/fleet.pem
    on_outage: ignore
    queries:
      cpu: 'sum(rate(node_cpu_seconds_total{mode!="idle", instance=~$host_re}[1m]))'
"""


def test_everything_that_can_be_said() -> None:
    document = yaml.safe_load(FULL)
    parsed = policy.parse(document, where="x")
    assert parsed.gate.needs_controls
    assert parsed.gate.criteria[0].all_of[0].samples == 20
    assert jsonschema.Draft202012Validator(policy.schema()).is_valid(document)


def test_other_hosts_are_asked_where_answers_are_compared() -> None:
    assert Policy().gate.needs_controls
    assert policy.parse({"gate": {}}, where="x") == Policy()
    alone = {"without": ["slower"], "criteria": [{"name": "mine", "all_of": [{"metric": "p95_ms", "above": 90}]}]}
    assert not policy.parse({"gate": alone}, where="x").gate.needs_controls
    alone["criteria"][0]["all_of"] = [{"metric": "reported_p95_ms", "worse_by": 1.5}]
    assert policy.parse({"gate": alone}, where="x").gate.needs_controls


def criteria(*conditions: object, **more: object) -> dict[str, object]:
    return {"gate": {"criteria": [{"name": "mine", "all_of": list(conditions)} | more]}}


@pytest.mark.parametrize(
    "value, says",
    [
        ({"gate": {"aplha": 1}}, "unknown field `aplha`"),
        ({"gate": {"alpha": 1}}, "$.gate.alpha"),
        ({"gate": {"without": ["wrong_answers"]}}, "$.gate.without"),
        (criteria(), "length >= 1"),
        (criteria({"metric": "p96_ms", "above": 1}), "Invalid enum value 'p96_ms'"),
        (criteria({"above": 1}), "one metric, or one query"),
        (criteria({"metric": "p95_ms", "query": "x", "above": 1}), "one metric, or one query"),
        (criteria({"metric": "p95_ms"}), "p95_ms: give exactly one of above, below and worse_by"),
        (criteria({"metric": "p95_ms", "above": 1, "worse_by": 2}), "exactly one"),
        (criteria({"metric": "p95_ms", "worse_by": 0.5}), ">= 1"),
        (criteria({"metric": "p95_ms", "above": 1, "and_by": 1}), "and_by goes with worse_by"),
        (criteria({"metric": "restarts", "worse_by": 2}), "restarts is counted since the activation"),
        (criteria({"query": "x", "above": 1}), "asks for query 'x'"),
        (
            {"gate": {"criteria": [{"name": "slower", "all_of": [{"metric": "queue", "above": 1}]}]}},
            "a name of its own",
        ),
        ({"gate": {"prometheus": {"url": "prometheus", "queries": {"x": "x"}}}}, "$.gate.prometheus.url"),
        ({"gate": {"prometheus": {"url": "http://p", "queries": {}}}}, "length >= 1"),
        ({"gate": {"prometheus": {"url": "http://p", "queries": {"x": "x{h=$hots}"}}}}, "query x has $hots"),
        ({"gate": {"prometheus": {"url": "http://p", "queries": {"x": "x"}, "ca": "a"}}}, "write https://"),
        ({"gate": {"prometheus": {"url": "https://p", "queries": {"x": "x"}, "key": "a"}}}, "come together"),
        ({"soak": {"minimum_s": 120}}, "must be longer than soak.minimum_s"),
    ],
)
def test_a_wrong_gate_says_what_is_wrong(value: object, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        policy.parse(value, where="x")
    assert says in caught.value.what


def test_the_environment_never_explains_wrong_answers_errors_or_restarts() -> None:
    assert {Metric.GOLDEN_FAILURES, Metric.ERROR_RATIO, Metric.RESTARTS} & EXPLAINED == set()
    assert {Metric.P50_MS, Metric.TOKENS_PER_S, Metric.TEMPERATURE_C, Metric.REPORTED_P95_MS} < EXPLAINED
