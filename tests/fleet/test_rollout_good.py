"""A release that is fine: it reaches all, costs nobody an answer, and its engine keeps to its rules."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import rollout_fleet as fleets

pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.usefixtures("sound")]


def test_it_reaches_all_and_no_answer_is_missing(woods) -> None:
    bundle, before = woods.release(), woods.serves()
    with fleets.Callers(woods, woods.pis) as callers:
        done = woods.rollout(bundle, waves=[1, 3, 4])
    assert done.returncode == 0, done.stdout + done.stderr
    assert woods.serves() == dict.fromkeys(woods.pis, bundle)
    assert set(woods.outcomes().values()) == {"confirmed"}
    callers.none_failed()
    numbers = [float(name.rpartition(".")[2]) for name in (str(before[woods.pis[0]]), bundle)]
    assert callers.numbers == dict.fromkeys(woods.pis, numbers), "each host switched once, from the old to the new"


def test_the_second_run_changes_nothing(woods) -> None:
    served = woods.serves()
    done = woods.rollout(str(served[woods.pis[0]]))
    assert done.returncode == 0, done.stdout + done.stderr
    assert woods.serves() == served
    assert set(woods.outcomes().values()) <= {"confirmed", "already"}


def test_a_second_controller_is_refused_with_who_has_the_lease(woods, tmp_path: Path) -> None:
    bundle = woods.release()
    with woods.running(bundle, tmp_path / "log", waves=[1, 7], soak={"passes": 20, "deadline_s": 90}) as run:
        run.until(lambda state: state.turns)
        second = woods.rollout(bundle)
        assert second.returncode != 0
        assert "one-writer" in second.stdout + second.stderr
        assert str(run.process.pid) in second.stdout + second.stderr
        assert run.wait() == 0, run.text
    assert woods.serves() == dict.fromkeys(woods.pis, bundle)


def test_an_emergency_stop_takes_hold_within_five_seconds_and_takes_all_back(woods, tmp_path: Path) -> None:
    before, bundle = woods.serves(), woods.release()
    with (
        fleets.Callers(woods, woods.pis) as callers,
        woods.running(
            bundle, tmp_path / "log", waves=[2, 6], soak={"passes": 40, "interval_s": 0.5, "deadline_s": 90}
        ) as run,
    ):
        run.until(lambda state: any(host.activated_s is not None for host in state.hosts.values()))
        with ThreadPoolExecutor(1) as aside:
            asked = time.monotonic()
            # It goes on for a while after it took hold: it waits for the answer, and the audit log takes it down.
            abort = aside.submit(woods.hedgerow, "rollout", "abort", "--reason", "a test")
            run.until(lambda state: state.stopped)
            took_s = time.monotonic() - asked
            stopped = abort.result()
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
        assert took_s <= 5.0
        assert run.wait() != 0
    assert woods.serves() == before
    callers.none_failed()
    assert not [name for name, host in woods.state().hosts.items() if host.outcome == "confirmed"]


def test_a_rollback_of_a_rollback_is_refused_with_its_rule(woods) -> None:
    before, bundle = woods.serves(), woods.release()
    done = woods.rollout(bundle, waves=[8])
    assert done.returncode == 0, done.stdout + done.stderr
    with fleets.Callers(woods, woods.pis) as callers:
        back = woods.hedgerow("rollout", "rollback", "--reason", "a test")
    assert back.returncode == 0, back.stdout + back.stderr
    assert woods.serves() == before
    callers.none_failed()
    again = woods.hedgerow("rollout", "rollback")
    assert again.returncode == 3
    assert "no-rollback-of-a-rollback" in again.stdout + again.stderr


def test_status_is_for_machines_too(woods) -> None:
    shown = json.loads(woods.hedgerow("rollout", "status", "--json").stdout)
    assert (shown["phase"], shown["lease"]) == ("rolled_back", None)
