"""plugins/callback/hedgerow_audit.py under the real ansible-playbook: every run is traced, or refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hedgerow import audit
from hedgerow.audit.events import RunEnded, RunStarted

ROOT = Path(__file__).parents[3]
CANARY = "canary-3f9a1c"

PLAYBOOK = """
- hosts: all
  gather_facts: false
  vars:
    inner_secret: canary-3f9a1c-play
  tasks:
    - name: Change something
      ansible.builtin.command: "true"
      when: inventory_hostname != "pi-2"
      changed_when: true
      tags: [one]
    - name: Fail on one
      ansible.builtin.fail:
        msg: canary-3f9a1c-result
      when: inventory_hostname == "pi-3"
- hosts: pi-1
  gather_facts: false
  tasks: []
"""


@pytest.fixture
def play(tmp_path):
    """Run the playbook; its exit code and output."""
    inventory = tmp_path / "inventory"
    (inventory / "group_vars" / "all").mkdir(parents=True)
    (inventory / "hosts.yml").write_text("all: {hosts: {pi-1: , pi-2: , pi-3: }}\n")
    (inventory / "group_vars" / "all" / "fleet.yml").write_text("fleet: meadow-unit\nansible_connection: local\n")
    (tmp_path / "site.yml").write_text(PLAYBOOK)

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), "-i", inventory, tmp_path / "site.yml", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "HEDGEROW_VAR": str(tmp_path / "var"),
                "HEDGEROW_ROOT": str(ROOT),
                "PYTHONPATH": str(ROOT / "src"),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "var" / "fleets" / "meadow-unit"
    made.mkdir(parents=True)
    return made


def events(folder):
    return [each.value for each in audit.of_fleet(folder).entries()]


@pytest.mark.slow
def test_a_run_is_traced_from_its_begin_to_its_end_without_any_variable(play, folder):
    code, _ = play("--limit", "pi-1,pi-3", "--tags", "all,one", "-e", f"token={CANARY}")
    assert code == 2
    started, ended = events(folder)
    assert isinstance(started, RunStarted)
    assert isinstance(ended, RunEnded)
    assert (started.playbook, started.hosts, started.limit) == ("site.yml", ["pi-1", "pi-3"], "pi-1,pi-3")
    assert (started.tags, started.check, started.run) == (["one"], False, ended.run)
    assert (ended.changed, ended.failed, ended.unreachable) == (["pi-1", "pi-3"], ["pi-3"], [])
    assert ended.counts["failures"] == 1
    assert CANARY not in audit.of_fleet(folder).path.read_text()
    assert "token" not in audit.of_fleet(folder).path.read_text()


@pytest.mark.slow
def test_a_check_run_says_so(play, folder):
    assert play("--check", "--limit", "pi-1")[0] == 0
    assert events(folder)[0].check is True


@pytest.mark.slow
def test_a_run_that_cannot_be_traced_is_refused_before_its_first_task(play, folder):
    assert play("--limit", "pi-1")[0] == 0
    log = audit.of_fleet(folder)
    log.path.write_bytes(log.path.read_bytes().splitlines(keepends=True)[0])
    code, output = play("--limit", "pi-1")
    assert code not in {0, 2}
    assert "the run is refused" in output
    assert "Change something" not in output
    assert len(log.path.read_bytes().splitlines()) == 1
    code, output = play("--limit", "pi-1", "--check")
    assert code == 0
    assert "does not know of this check run" in " ".join(output.split())


@pytest.mark.slow
def test_a_fleet_without_state_here_gets_no_log(play, tmp_path):
    assert play("--limit", "pi-1")[0] == 0
    assert not (tmp_path / "var").exists()


@pytest.mark.slow
def test_news_of_other_logs_are_collected_at_the_end(play, folder):
    (folder / "lifecycle.jsonl").write_text(json.dumps({"event": "adopted", "host": "pi-1", "at": "t"}) + "\n")
    assert play("--limit", "pi-1")[0] == 0
    assert [type(each).__name__ for each in events(folder)] == ["RunStarted", "RunEnded", "Sealed"]
