"""The two action plugins that decide before a host is touched, through the real ansible-playbook and playbooks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.slow
Play = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "inventory/emulated", tmp_path / "inventory")
    return tmp_path / "inventory"


@pytest.fixture
def play(fleet: Path, tmp_path: Path) -> Play:
    """Run a playbook on hosts that no network has: whoever asks one fails."""

    def run(playbook: Path, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", fleet, playbook, *options],
            env=os.environ
            | {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
                "ANSIBLE_FORCE_COLOR": "0",
                "ANSIBLE_TIMEOUT": "1",
                "ANSIBLE_SSH_RETRIES": "0",
            },
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
        )

    return run


def lock(fleet: Path, old: str, new: str) -> None:
    file = fleet / "group_vars/all/release.yml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("playbook", ["site.yml", "upgrade.yml"])
def test_a_lock_that_cannot_work_stops_the_play_before_a_host_is_asked(fleet: Path, play: Play, playbook: str) -> None:
    lock(fleet, "    library: 5.1.1\n", "    library: 5.2.0\n")
    done = play(ROOT / "playbooks" / playbook, "--limit", "pi-orchard-1")
    assert done.returncode != 0
    assert "hailo-one-version (forbidden; §3.4, F1, F2)" in done.stdout
    assert "UNREACHABLE" not in done.stdout
    assert "Read the host" not in done.stdout


def test_a_misspelt_row_is_named(fleet: Path, play: Play) -> None:
    lock(fleet, "  dkms:\n", "  dkmz:\n")
    done = play(ROOT / "playbooks/upgrade.yml")
    assert "fleet_release is wrong" in done.stdout
    assert "dkmz" in done.stdout


def test_the_plan_follows_the_rings_and_the_label_hold(fleet: Path, play: Play, tmp_path: Path) -> None:
    hosts = fleet / "hosts.yml"
    text = hosts.read_text(encoding="utf-8")
    hosts.write_text(
        text.replace("labels: { ring: main }", "labels: { ring: main, hold: on loan }", 1), encoding="utf-8"
    )
    playbook = tmp_path / "plan.yml"
    playbook.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "pis",
                    "gather_facts": False,
                    "tasks": [
                        {
                            "hedgerow_upgrade_plan": {"rings": ["canary", "main"], "batch": "50%"},
                            "run_once": True,
                            "delegate_to": "localhost",
                            "delegate_facts": True,
                        },
                        {
                            "ansible.builtin.debug": {
                                "msg": "{{ hostvars.localhost.ansible_facts.upgrade | to_json }}"
                            },
                            "run_once": True,
                        },
                    ],
                }
            ]
        ),
        encoding="utf-8",
    )
    done = play(playbook)
    assert done.returncode == 0, done.stdout
    assert "ring canary: pi-orchard-1" in done.stdout
    assert "ring main: pi-orchard-3" in done.stdout
    assert "held: pi-orchard-2 (on loan)" in done.stdout
    assert '"serial": [1, 1]' in done.stdout.replace("\\", "")


def test_a_host_in_no_ring_is_refused(play: Play) -> None:
    done = play(ROOT / "playbooks/upgrade.yml", "-e", '{"upgrade_rings": ["canary", "late"]}')
    assert done.returncode != 0
    assert "is in ring main, which upgrade_rings does not name" in " ".join(done.stdout.split())
