"""playbooks/rollout.yml, run by the real ansible-playbook over devices in memory and servers in this process."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from hedgerow import inventory as inventories
from hedgerow.commands.rollout import rollout as rollout_group
from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import store
from hedgerow.rollout.events import HostRetried, HostStarted, HostUndone, Notified, Outcome, State, WaveOpened

ROOT = Path(__file__).parents[3]
PLUGINS = Path(__file__).parent / "connection_plugins"
FLEET, NEW, OLD = "meadow-unit", "assistant@1.1.0", "assistant@1.0.0"
NAMES = ["pi-1", "pi-2", "pi-3"]

POLICY = {
    "soak": {"passes": 2, "interval_s": 0.05, "deadline_s": 20},
    # How fast a double on a busy machine answers says nothing about a release.
    "gate": {"without": ["slower"], "probes": {"count": 2, "baseline_s": 0}},
}

pytestmark = pytest.mark.slow

_spec = importlib.util.spec_from_file_location("fakepi", PLUGINS / "fakepi.py")
assert _spec is not None
assert _spec.loader is not None
fakepi = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fakepi)


class Site:
    """Three Pis behind addresses of their own, an inventory and a published bundle."""

    def __init__(self, folder: Path, sha256: str, make_pi) -> None:
        self.folder = folder
        self.hashes = {NEW: sha256, OLD: "01" * 32}
        hosts = {}
        for number, name in enumerate(NAMES, start=1):
            # The whole of 127/8 is this machine's: each host has the contract's port on an address of its own.
            address = f"127.9.{os.getpid() % 250}.{number}"
            self.set(address, serves=OLD, previous=None, pending=False, calls=[], hashes=self.hashes)
            pi = make_pi(name, (address, 8443))
            pi.answers["/health/report"] = self._answer(address)
            pi.answers["/v1/chat/completions"] = (200, "text/event-stream", _says("It is Paris."))
            hosts[name] = {"ansible_host": address, "labels": {}}
        self.hosts = hosts
        self.common: dict[str, object] = {
            "fleet": FLEET,
            "site": "orchard",
            "ansible_connection": "fakepi",
            "ansible_become": False,
        }
        self.write()

    def approvers(self, keys: dict[str, list[str]]) -> None:
        """Who may approve, as the inventory says it."""
        self.common["rollout_approvers"] = keys
        self.write()

    def write(self) -> None:
        common = self.common
        document = {"pis": {"hosts": self.hosts, "vars": common}}
        (self.folder / "hosts.yml").write_text(yaml.safe_dump(document))

    def address(self, name: str) -> str:
        return str(self.hosts[name]["ansible_host"])

    def set(self, host: str, **values: object) -> None:
        path = self._path(host)
        known = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps(known | values))

    def get(self, host: str) -> dict[str, object]:
        return json.loads(self._path(host).read_text())

    def serves(self) -> dict[str, object]:
        return {name: self.get(name)["serves"] for name in NAMES}

    def _path(self, host: str) -> Path:
        return self.folder / f"{self.hosts[host]['ansible_host'] if host in NAMES else host}.json"

    def _answer(self, address: str):
        def answer() -> tuple[int, str, bytes]:
            return 200, "application/json", json.dumps(fakepi.report(self.get(address))).encode()

        return answer

    def play(self, *arguments: str, playbook: str = "rollout.yml") -> subprocess.CompletedProcess[str]:
        environment = os.environ | {
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_CONNECTION_PLUGINS": str(PLUGINS),
            "ANSIBLE_NOCOLOR": "1",
            "FAKEPI_FOLDER": str(self.folder),
        }
        values = {"rollout_policy": POLICY}
        return subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(self.folder / "hosts.yml"), f"playbooks/{playbook}"),
                *("-e", json.dumps(values), *arguments),
            ],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def rollout(self, *arguments: str, **policy: object) -> subprocess.CompletedProcess[str]:
        """Roll NEW out; ``policy`` adds to, or replaces, sections of the usual one."""
        values = {"bundle": NEW, "rollout_policy": POLICY | policy}
        return self.play("-e", json.dumps(values), *arguments)


def _says(text: str) -> bytes:
    piece = json.dumps({"choices": [{"delta": {"content": text}}]})
    return f"data: {piece}\n\ndata: [DONE]\n\n".encode()


def recap(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, int]]:
    """PLAY RECAP as numbers."""
    lines = re.findall(r"^(\S+)\s+: (ok=.*)$", done.stdout, re.MULTILINE)
    assert lines, done.stdout + done.stderr
    return {
        host: {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", counts)}
        for host, counts in lines
        if host != "localhost"
    }


def order() -> list[str]:
    return store.read(store.folder(FLEET))[1].plan.hosts


@pytest.fixture
def site(tmp_path: Path, make_pi, published) -> Site:
    folder = tmp_path / "site"
    folder.mkdir()
    return Site(folder, published, make_pi)


def test_a_good_release_reaches_all_and_a_second_run_changes_nothing(site: Site) -> None:
    done = site.rollout()
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(site.serves().values()) == {NEW}
    assert all(not site.get(name)["pending"] for name in NAMES)
    assert {name: counts["changed"] for name, counts in recap(done).items()} == dict.fromkeys(NAMES, 2)
    assert f"{NEW}: complete. 3 confirmed" in done.stdout
    for name in NAMES:
        site.set(name, calls=[])
    again = site.rollout()
    assert again.returncode == 0
    assert {name: counts["changed"] for name, counts in recap(again).items()} == dict.fromkeys(NAMES, 0)
    assert [site.get(name)["calls"] for name in NAMES] == [["report"]] * 3


def test_check_plans_and_touches_nothing(site: Site) -> None:
    done = site.rollout("--check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 host(s) in 3 wave(s)" in done.stdout
    assert [site.get(name)["calls"] for name in NAMES] == [[]] * 3
    assert store.ids(store.folder(FLEET)) == []


def test_a_bad_release_stops_at_the_first_host_and_is_undone(site: Site) -> None:
    for name in NAMES:
        site.set(name, fails_with=NEW)
    done = site.rollout()
    assert done.returncode == 2, done.stdout + done.stderr
    first, *others = order()
    assert set(site.serves().values()) == {OLD}
    assert recap(done)[first]["failed"] == 1
    assert all(recap(done)[name]["failed"] == 0 and site.get(name)["calls"] == [] for name in others)
    assert "stopped: 1 host(s) failed and the rollout may cost 0" in done.stdout
    assert f"{first}: reverted: gate says fail: failing: model_failed; serves {OLD}" in done.stdout


def test_a_wider_budget_goes_on_past_a_failed_host(site: Site) -> None:
    site.set("pi-2", full=True)
    done = site.rollout(budgets={"failures": 1})
    assert done.returncode == 2
    assert site.serves() == {"pi-1": NEW, "pi-2": OLD, "pi-3": NEW}
    assert {name: counts["failed"] for name, counts in recap(done).items()} == {"pi-1": 0, "pi-2": 1, "pi-3": 0}
    assert "no space left on the device" in done.stdout


def test_a_host_that_is_off_is_counted_apart_and_the_others_go_on(site: Site) -> None:
    site.set("pi-1", off=True)
    done = site.rollout()
    assert done.returncode == 4, done.stdout + done.stderr
    assert site.serves() == {"pi-1": OLD, "pi-2": NEW, "pi-3": NEW}
    assert {name: counts["unreachable"] for name, counts in recap(done).items()} == {"pi-1": 1, "pi-2": 0, "pi-3": 0}
    assert "2 confirmed, 1 unreachable" in done.stdout
    site.set("pi-1", off=False)
    assert site.rollout().returncode == 0
    assert set(site.serves().values()) == {NEW}


def test_a_host_that_dies_in_its_activation_stops_the_rollout(site: Site) -> None:
    for name in NAMES:
        site.set(name, dies=True)
    done = site.rollout()
    first = order()[0]
    assert done.returncode == 2
    assert list(site.serves().values()).count(NEW) == 1
    assert f"{first}: lost" in done.stdout
    assert "it goes back by itself within 600 s" in done.stdout


def test_limit_and_hold_narrow_the_plan(site: Site) -> None:
    site.hosts["pi-3"]["labels"] = {"hold": "fan on order"}
    site.write()
    done = site.rollout("--limit", "pi-2,pi-3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.serves() == {"pi-1": OLD, "pi-2": NEW, "pi-3": OLD}
    assert "1 host(s) in 1 wave(s), 1 held, 1 outside --limit" in done.stdout
    assert "held: pi-3 (fan on order)" in done.stdout


def test_a_wave_of_several_hosts(site: Site) -> None:
    done = site.rollout(waves=[1, 2])
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(site.serves().values()) == {NEW}
    assert "3 host(s) in 2 wave(s)" in done.stdout


def test_a_wave_that_a_site_cannot_spare_at_once_goes_in_batches(site: Site, command: Callable[..., int]) -> None:
    """Three hosts of one site, of which one is to be available: two have their turn, then one. The approval is one."""
    asked = {"before_wave": 1, "by": ["ada"], "unsigned": True}
    site.approvers({"ada": []})
    running = Background(site, waves=[3], approvals=[asked])
    running.until(lambda state: state.waiting is not None)
    assert command("approve", "--as", "ada") == 0
    done = running.end()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wave 1 [3 more]: 3 host(s), then 3 of 3 (100 %) have it, batches: 2 + 1" in done.stdout
    journal = store.Journal(next(store.folder(FLEET).glob("*/journal.jsonl")).parent)
    opened = [event for event in journal.events() if isinstance(event, WaveOpened)]
    assert [(event.number, len(event.hosts)) for event in opened] == [(1, 2), (1, 1)]
    assert set(site.serves().values()) == {NEW}


def test_a_run_that_was_cut_off_is_gone_on_with(site: Site) -> None:
    site.rollout("--limit", "pi-1")
    rollouts = store.folder(FLEET)
    journal = next(rollouts.glob("*/journal.jsonl"))
    lines = journal.read_text().splitlines(keepends=True)
    started = next(number for number, line in enumerate(lines) if '"host_activated"' in line)
    journal.write_text("".join(lines[: started + 1]))
    site.set("pi-1", pending=True)
    forgotten = site.rollout("--limit", "pi-2")
    assert forgotten.returncode == 2
    assert "rule no-host-forgotten" in forgotten.stdout + forgotten.stderr
    done = site.rollout()
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(store.ids(rollouts)) == 1
    assert site.get("pi-1")["pending"] is False
    assert sum(isinstance(event, HostStarted) for event in store.Journal(journal.parent).events()) == 3


@pytest.mark.parametrize(
    "arguments, says",
    [
        ([], "say which bundle: -e bundle=assistant@1.1.0"),
        (["-e", "bundle=assistant"], "is not NAME@VERSION"),
        (["-e", "bundle=assistant@9.9.9"], "the registry has no assistant@9.9.9"),
        (["-e", f"bundle={NEW}", "-e", '{"rollout_policy": {"wave": [1]}}'], "unknown field `wave`"),
        (["-e", f"bundle={NEW}", "-e", "rollout_policy=/nowhere.yml"], "/nowhere.yml"),
    ],
)
def test_wrong_use_is_said_before_a_host_is_touched(site: Site, arguments: list[str], says: str) -> None:
    done = site.play(*arguments)
    assert done.returncode == 2
    assert says in done.stdout + done.stderr
    assert [site.get(name)["calls"] for name in NAMES] == [[]] * 3


def test_rollback_of_named_hosts(site: Site) -> None:
    site.rollout()
    done = site.play("-e", "target=pi-2", playbook="rollback.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.serves() == {"pi-1": NEW, "pi-2": OLD, "pi-3": NEW}
    check = site.play("-e", "target=pi-1", "--check", playbook="rollback.yml")
    assert recap(check)["pi-1"]["changed"] == 1
    assert site.serves()["pi-1"] == NEW
    unnamed = site.play(playbook="rollback.yml")
    assert unnamed.returncode == 2
    assert "say which hosts: -e target=pi-orchard-1" in unnamed.stdout
    assert site.serves()["pi-3"] == NEW


@pytest.mark.parametrize("playbook", ["rollout.yml", "rollback.yml", "publish.yml"])
def test_syntax_can_be_checked_without_values(site: Site, playbook: str) -> None:
    done = site.play("--syntax-check", playbook=playbook)
    assert done.returncode == 0, done.stderr


def test_a_breach_in_a_later_wave_brings_everybody_back(site: Site) -> None:
    site.set("pi-2", fails_with=NEW)
    site.set("pi-3", fails_with=NEW)
    done = site.rollout(waves=[1, 2], seed="first")
    assert done.returncode == 2, done.stdout + done.stderr
    assert set(site.serves().values()) == {OLD}
    state = store.read(store.folder(FLEET))[1]
    assert (state.phase, state.turns, state.holding) == ("stopped", {}, {})
    assert not any(site.get(name)["pending"] for name in NAMES)


def test_a_registry_that_is_gone_is_tried_again_then_the_rollout_stops_and_takes_nothing_back(site: Site) -> None:
    site.set("pi-2", cut_off=True)
    done = site.rollout(retry={"attempts": 2, "backoff_s": 0.1})
    assert done.returncode == 2, done.stdout + done.stderr
    state = store.read(store.folder(FLEET))[1]
    assert state.hosts["pi-2"].outcome is Outcome.SKIPPED
    assert "could not get the release in 2 tries" in str(state.stopped)
    before = order()[: order().index("pi-2")]
    assert site.serves() == dict.fromkeys(NAMES, OLD) | dict.fromkeys(before, NEW)
    site.set("pi-2", cut_off=False)
    assert site.rollout().returncode == 0
    assert set(site.serves().values()) == {NEW}


class Background:
    """A rollout that runs while the test types commands beside it."""

    def __init__(self, site: Site, **policy: object) -> None:
        self._thread = threading.Thread(target=self._run, args=(site, policy))
        self.done: subprocess.CompletedProcess[str] | None = None
        self._thread.start()

    def _run(self, site: Site, policy: dict[str, object]) -> None:
        self.done = site.rollout(**policy)

    def until(self, true: Callable[[State], bool], within_s: float = 60) -> State:
        """The state in which something has become true."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            with contextlib.suppress(UsageError):
                state = store.read(store.folder(FLEET))[1]
                if true(state):
                    return state
            assert self._thread.is_alive(), self.done
            time.sleep(0.05)
        raise AssertionError("it did not come to that")

    def end(self) -> subprocess.CompletedProcess[str]:
        self._thread.join(60)
        assert self.done is not None
        return self.done


@pytest.fixture
def command(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``hedgerow rollout WORDS`` as an operator types it; its exit code. Refusals are raised."""
    monkeypatch.setenv("ANSIBLE_CONNECTION_PLUGINS", str(PLUGINS))
    monkeypatch.setenv("FAKEPI_FOLDER", str(site.folder))
    # The inventory's own rules ask for more than devices in memory have.
    pis = [SimpleNamespace(name=name, vars=variables) for name, variables in site.hosts.items()]
    monkeypatch.setattr(inventories, "load", lambda _: SimpleNamespace(fleet=FLEET, vars=site.common, pis=pis))

    def type_in(*words: str) -> int:
        line = [*words, "-i", str(site.folder / "hosts.yml")]
        done = CliRunner().invoke(rollout_group, line, standalone_mode=False, catch_exceptions=False)
        return int(done.return_value or 0)

    return type_in


def test_an_emergency_stop_in_a_wait_brings_everybody_back(site: Site, command: Callable[..., int]) -> None:
    site.approvers({"ada": ["ssh-ed25519 AAAA"]})
    running = Background(site, approvals=[{"before_wave": 2, "by": ["ada"]}])
    state = running.until(lambda state: state.waiting is not None)
    assert state.waiting is not None
    assert state.waiting[0] == "approval"
    assert sorted(site.serves().values()) == [OLD, OLD, NEW]
    with pytest.raises(RefusedError, match="rule signed-approval"):
        command("approve", "--as", "ada")
    asked = time.monotonic()
    assert command("abort", "--reason", "smoke") == 0
    running.until(lambda state: state.stopped is not None)
    assert time.monotonic() - asked < 5
    done = running.end()
    assert done.returncode == 2
    assert set(site.serves().values()) == {OLD}
    assert "emergency stop by" in done.stdout


def test_a_signed_approval_lets_the_next_wave_start_and_a_rollback_takes_all_back(
    site: Site, command: Callable[..., int], tmp_path: Path
) -> None:
    key = tmp_path / "id_ed25519"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    site.approvers({"ada": [key.with_suffix(".pub").read_text()]})
    running = Background(site, waves=[1, 2], approvals=[{"before_wave": 2, "by": ["ada"]}])
    running.until(lambda state: state.waiting is not None)
    assert command("approve", "--as", "ada", "--key", str(key)) == 0
    assert running.end().returncode == 0
    assert set(site.serves().values()) == {NEW}
    assert command("rollback", "--reason", "slow") == 0
    assert set(site.serves().values()) == {OLD}
    assert store.read(store.folder(FLEET))[1].phase == "rolled_back"
    with pytest.raises(RefusedError, match="rule no-rollback-of-a-rollback"):
        command("rollback")


def test_a_lost_host_is_resolved_when_it_is_back(site: Site, command: Callable[..., int]) -> None:
    for name in NAMES:
        site.set(name, dies=True)
    assert site.rollout(retry={"attempts": 1}).returncode == 2
    [lost] = store.read(store.folder(FLEET))[1].lost
    # Its deadline took it back while it was gone.
    site.set(lost, off=False, dies=False, serves=OLD, previous=None, pending=False)
    assert command("resume") == 0
    state = store.read(store.folder(FLEET))[1]
    assert (state.lost, state.hosts[lost].outcome) == ({}, Outcome.REVERTED)
    assert "had gone back by itself" in state.hosts[lost].reason
    assert set(site.serves().values()) == {OLD}


def test_a_host_that_gets_worse_in_a_wait_goes_back_at_once_where_the_budget_bears_it(
    site: Site, command: Callable[..., int]
) -> None:
    approvals = [{"before_wave": 3, "by": ["ada"], "unsigned": True}]
    running = Background(site, waves=[1], approvals=approvals, budgets={"failures": 1})
    state = running.until(lambda state: state.waiting is not None and len(state.holding) == 2)
    worse, well = state.holding
    site.set(worse, fails_with=NEW)
    running.until(lambda state: state.hosts[worse].outcome is Outcome.REVERTED)
    assert (site.get(worse)["serves"], site.get(well)["serves"]) == (OLD, NEW)
    assert command("approve", "--as", "ada") == 0
    assert running.end().returncode == 2
    assert store.read(store.folder(FLEET))[1].count() == {"confirmed": 2, "reverted": 1}


def test_who_went_wrong_is_left_out_until_its_release_where_the_policy_says_so(
    site: Site, command: Callable[..., int]
) -> None:
    site.set("pi-2", fails_with=NEW)
    first = site.rollout(budgets={"failures": 1}, quarantine_s=3600)
    assert re.search(r"pi-2: in quarantine until \S+Z", first.stdout), first.stdout + first.stderr
    assert site.serves() == dict.fromkeys(NAMES, NEW) | {"pi-2": OLD}
    site.set("pi-2", fails_with=None, calls=[])
    again = site.rollout()
    assert again.returncode == 0, again.stdout + again.stderr
    assert "quarantined: pi-2 (gate says fail" in again.stdout
    assert site.get("pi-2")["calls"] == []
    assert command("release", "pi-2", "--reason", "another card") == 0
    assert site.rollout().returncode == 0
    assert set(site.serves().values()) == {NEW}


def test_what_was_taken_back_does_not_come_again_at_once(site: Site, command: Callable[..., int]) -> None:
    assert site.rollout().returncode == 0
    assert command("rollback", "--reason", "slow") == 0
    assert set(site.serves().values()) == {OLD}
    for name in NAMES:
        site.set(name, calls=[])
    refused = site.rollout()
    assert refused.returncode == 2
    assert f"rule cooldown: {NEW} was taken back from 3 host(s)" in refused.stdout + refused.stderr
    assert [site.get(name)["calls"] for name in NAMES] == [[]] * 3
    assert site.rollout(cooldown_s=0).returncode == 0
    assert set(site.serves().values()) == {NEW}


def test_what_was_staged_ahead_is_not_fetched_again_and_the_run_goes_on_from_there(
    site: Site, command: Callable[..., int]
) -> None:
    staged = site.rollout("-e", "stage_ahead=only")
    assert staged.returncode == 0, staged.stdout + staged.stderr
    assert [site.get(name)["calls"] for name in NAMES] == [["stage"]] * 3
    assert set(site.serves().values()) == {OLD}
    state = store.read(store.folder(FLEET))[1]
    assert (state.phase, state.wave, [host.staged_s is not None for host in state.hosts.values()]) == (
        "open",
        0,
        [True] * 3,
    )
    assert "staged ahead of their turn: 3 of 3 host(s)" in staged.stdout
    # The registry is gone by then: nobody needs it any more.
    for name in NAMES:
        site.set(name, cut_off=True)
    assert command("resume") == 0
    assert set(site.serves().values()) == {NEW}
    assert len(store.ids(store.folder(FLEET))) == 1
    assert [site.get(name)["calls"].count("stage") for name in NAMES] == [2] * 3


def test_staging_ahead_in_the_same_run_and_a_host_that_cannot(site: Site) -> None:
    site.set("pi-2", full=True)
    done = site.rollout("-e", "stage_ahead=true", budgets={"failures": 1})
    assert done.returncode == 2, done.stdout + done.stderr
    assert site.serves() == {"pi-1": NEW, "pi-2": OLD, "pi-3": NEW}
    assert "not staged ahead, its turn tries again" in done.stdout
    assert site.get("pi-1")["calls"][:3] == ["stage", "report", "stage"]
    wrong = site.rollout("-e", "stage_ahead=perhaps")
    assert "ahead is one of only, true, yes, false, no, not 'perhaps'" in wrong.stdout + wrong.stderr


def test_who_was_passed_over_gets_it_with_resume(site: Site, command: Callable[..., int]) -> None:
    site.set("pi-2", pending=True)
    first = site.rollout()
    assert first.returncode == 2, first.stdout + first.stderr
    assert "pi-2: skipped: " in first.stdout
    assert "next: 1 host(s) were passed over and get it with: hedgerow rollout resume" in first.stdout
    assert site.serves() == dict.fromkeys(NAMES, NEW) | {"pi-2": OLD}
    site.set("pi-2", pending=False)
    assert command("resume") == 0
    assert set(site.serves().values()) == {NEW}
    with pytest.raises(UsageError, match="there is nothing to go on with"):
        command("resume")


def test_a_webhook_that_hangs_holds_up_neither_a_stop_nor_the_way_back(site: Site, command: Callable[..., int]) -> None:
    """A listener that accepts nothing: a connection to it is made by the kernel, and never answered."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hook = {"webhook": f"http://127.0.0.1:{silent.getsockname()[1]}/", "timeout_s": 60}
        approvals = [{"before_wave": 2, "by": ["ada"], "unsigned": True}]
        running = Background(site, waves=[1, 2], approvals=approvals, notify=[hook])
        running.until(lambda state: state.waiting is not None)
        assert command("abort", "--reason", "smoke") == 0
        asked = time.monotonic()
        assert running.end().returncode == 2
        assert time.monotonic() - asked < 40
        assert set(site.serves().values()) == {OLD}
    journal = store.Journal(next(store.folder(FLEET).glob("*/journal.jsonl")).parent)
    told = [(event.about, event.known) for event in journal.events() if isinstance(event, Notified)]
    assert told == [("waiting", False), ("stopped", False)]


def test_a_silent_host_is_waited_for_when_the_others_are_back(site: Site) -> None:
    plan = site.rollout("--check", waves=[2, 1]).stdout
    [lost] = re.findall(r"wave 2 .*: (pi-\d)$", plan, re.MULTILINE)
    site.set(lost, dies=True)
    done = site.rollout(waves=[2, 1], retry={"attempts": 2, "backoff_s": 0.1})
    assert done.returncode == 2, done.stdout + done.stderr
    journal = store.Journal(next(store.folder(FLEET).glob("*/journal.jsonl")).parent)
    happened = journal.events()
    undone = [number for number, event in enumerate(happened) if isinstance(event, HostUndone)]
    retried = [number for number, event in enumerate(happened) if isinstance(event, HostRetried)]
    assert {happened[number].host for number in undone} == set(NAMES) - {lost}
    assert {happened[number].host for number in retried} == {lost}
    assert max(retried) > max(undone)
    assert f"{lost}: lost: activation failed" in done.stdout
    assert "tried once, and again when the others are back" in done.stdout
