from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands.rollout import rollout
from hedgerow.rollout import lint
from hedgerow.rollout.lint import Finding, Fleet
from hedgerow.rollout.plan import Target
from hedgerow.rollout.policy import Policy, parse

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TEN = [Target(name=f"pi-{number}", site=f"s{number % 3}", labels={"ring": "main"}) for number in range(10)]


def found(policy: object, *targets: Target, **approvers: list[str]) -> list[tuple[str, str]]:
    fleet = Fleet(targets, approvers) if targets else None
    return [(each.severity, each.key) for each in lint.findings(parse(policy, where="test"), NOW, fleet)]


@pytest.mark.parametrize("hosts", [1, 2, 3, 10])
def test_the_defaults_are_sound_on_every_fleet(hosts: int) -> None:
    assert found(None, *TEN[:hosts]) == []


@pytest.mark.parametrize(
    "policy, finding",
    [
        ({"windows": {"activate": [{"from": "22:00", "to": "22:10"}]}}, ("error", "windows.activate")),
        (
            {
                "windows": {
                    "activate": [{"from": "22:00", "to": "24:00"}],
                    "download": [{"from": "01:00", "to": "05:00"}],
                }
            },
            ("error", "windows.download"),
        ),
        ({"freeze": [{"from": "2025-12-24", "to": "2025-12-26"}]}, ("warning", "freeze")),
        (
            {"freeze": [{"from": "2026-12-24T12:00+00:00", "to": "2026-12-24T12:30", "timezone": "Europe/Berlin"}]},
            ("error", "freeze"),
        ),
        ({"soak": {"deadline_s": 595}}, ("warning", "confirm_within_s")),
        ({"retry": {"backoff_s": 60}}, ("warning", "retry.backoff_s")),
        ({"notify": [{"webhook": "https://h", "header": "X-Token"}]}, ("warning", "notify")),
        ({"notify": [{"command": ["mail"], "attempts": 5}]}, ("warning", "notify")),
        (
            {"freeze": [{"from": "2026-12-24T12:00Z", "to": "2026-12-25T12:00Z", "timezone": "Europe/Berlin"}]},
            ("warning", "freeze"),
        ),
        ({"approvals": [{"before_wave": 5, "by": ["ada"]}]}, ("error", "approvals")),
    ],
)
def test_what_makes_no_sense_on_any_fleet(policy: object, finding: tuple[str, str]) -> None:
    assert found(policy) == [finding]


@pytest.mark.parametrize(
    "policy",
    [
        {"windows": {"activate": [{"from": "22:00", "to": "05:00"}]}},
        {"windows": {"activate": [{"from": "22:00", "to": "05:00"}], "download": [{"from": "01:00", "to": "05:00"}]}},
        {"windows": {"download": [{"days": ["sun"], "from": "01:00", "to": "05:00"}]}},
        {"freeze": [{"from": "2026-12-24", "to": "2026-12-26"}, {"from": "2026-11-21", "to": "2026-11-21"}]},
        {"waves": [1], "approvals": [{"before_wave": 9, "by": ["ada"]}]},
        {"notify": [{"webhook": "https://h", "header": "X-Token", "secret_env": "TOKEN"}, {"command": ["mail"]}]},
    ],
)
def test_what_does(policy: object) -> None:
    assert found(policy) == []


@pytest.mark.parametrize(
    "policy, findings",
    [
        ({"waves": [{"label": {"ring": "erly"}}, "100%"]}, [("warning", "waves"), ("warning", "waves")]),
        ({"waves": [{"label": {"ring": "main"}}, "100%"]}, [("warning", "waves")]),
        ({"waves": [5, "100%"]}, [("warning", "waves")]),
        ({"waves": [2, "100%"]}, []),
        ({"stratify": ["site", "board"]}, [("warning", "stratify")]),
        ({"budgets": {"failures": 10}}, [("warning", "budgets.failures")]),
        ({"budgets": {"failures": 9, "unreachable": 10}}, [("warning", "budgets.unreachable")]),
        ({"sites": {"min_available": 3}}, [("warning", "sites.min_available")]),
        ({"sites": {"min_available": 2}}, []),
    ],
)
def test_what_makes_no_sense_on_this_fleet(policy: object, findings: list[tuple[str, str]]) -> None:
    assert found(policy, *TEN) == findings


def test_approvals_that_nobody_can_give_or_is_asked_for() -> None:
    asks = {"approvals": [{"before_wave": 2, "by": ["ada", "bo"], "count": 2}]}
    assert found(asks, *TEN, ada=["ssh-ed25519 AAAA"]) == [("error", "approvals")]
    assert found(asks, *TEN, ada=["ssh-ed25519 AAAA"], bo=["ssh-ed25519 BBBB"]) == []
    # In a fleet of three, 10 % adds nobody to the first host: three waves, of which the fourth is none.
    late = {"approvals": [{"before_wave": 4, "by": ["ada"], "unsigned": True}]}
    assert found(late, *TEN[:3]) == [("warning", "approvals")]
    assert found(late, *TEN) == [("warning", "approvals")]


def test_a_fleet_that_is_held_whole() -> None:
    assert found(None, Target(name="a", hold="x"), Target(name="b", quarantine="y")) == [("warning", "waves")]


def test_errors_come_first() -> None:
    policy = {"approvals": [{"before_wave": 5, "by": ["ada"]}], "freeze": [{"from": "2025-12-24", "to": "2025-12-26"}]}
    assert [severity for severity, _ in found(policy)] == ["error", "warning"]
    assert all(isinstance(each, Finding) and each.next for each in lint.findings(parse(policy, where="x"), NOW))


# -- the command ----------------------------------------------------------


@pytest.fixture
def fleet(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    hosts = [SimpleNamespace(name=each.name, vars={"site": each.site, "labels": each.labels}) for each in TEN]
    found = SimpleNamespace(fleet="meadow-unit", pis=hosts, vars={"rollout_policy": {"budgets": {"failures": 99}}})
    monkeypatch.setattr(inventories, "load", lambda path: found)
    return found


def run(*arguments: object):
    words = [str(each) for each in arguments]
    return CliRunner().invoke(rollout, ["lint", *words], standalone_mode=False, catch_exceptions=False)


def test_a_file_of_yaml_as_people_write_it(tmp_path: Path) -> None:
    file = tmp_path / "policy.yml"
    file.write_text(
        "waves: [1, 10%, 100%]\n"
        "windows: {timezone: Europe/Berlin, activate: [{from: 22:00, to: 05:00}]}\n"
        "freeze: [{from: 2099-12-24, to: 2099-12-26, reason: feast}]\n"
    )
    done = run(file)
    assert (done.return_value, done.output) == (0, f"{file}: 0 error(s), 0 warning(s)\n")


@pytest.mark.parametrize(
    "text, key, says",
    [
        ("waves: [1, 50%]", "policy.yml", 'add "100%", or a count, which repeats'),
        ("wave: [1]", "policy.yml", "unknown field `wave`"),
        ("windows: {timezone: Europe/Berln}", "policy.yml", "there is no time zone 'Europe/Berln' here"),
        ("windows: {timezone: Europe}", "policy.yml", "there is no time zone 'Europe' here"),
        ("windows: {timezone: localtime}", "policy.yml", "time zone 'localtime' is another on each machine"),
        (
            "freeze: [{from: 2099-12-24, to: 2099-12-26, timezone: Mars/Olympus}]",
            "policy.yml",
            "there is no time zone 'Mars/Olympus' here",
        ),
        ("approvals: [{before_wave: 9, by: [ada]}]", "approvals", "wave 9 never comes"),
    ],
)
def test_errors_end_with_2(tmp_path: Path, text: str, key: str, says: str) -> None:
    file = tmp_path / "policy.yml"
    file.write_text(text)
    done = run(file, "--json")
    document = json.loads(done.output)
    assert (done.return_value, document["errors"]) == (2, 1)
    assert document["findings"][0]["key"].endswith(key)
    assert says in document["findings"][0]["what"]
    assert says in run(file).output


def test_a_fleets_own_policy_and_another(fleet, tmp_path: Path) -> None:
    own = run("-i", "inventory/x")
    assert (
        own.return_value,
        "warning: budgets.failures: 99 hosts may be lost, and the fleet has 10" in own.output,
    ) == (
        0,
        True,
    )
    file = tmp_path / "policy.yml"
    file.write_text("{}")
    assert "0 error(s), 0 warning(s)" in run(file, "-i", "inventory/x").output


def test_neither_file_nor_fleet() -> None:
    with pytest.raises(Exception, match="say which policy"):
        run()


def test_policies_are_compared_with_their_defaults() -> None:
    assert lint.findings(Policy(), NOW) == []
