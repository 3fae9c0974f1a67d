"""plugins/callback/hedgerow_workers.py under the real ansible-playbook: what is loaded is loaded by one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
SEEN = """
import os
with open({file!r}, "a") as seen:
    seen.write(f"{{os.getpid()}} ")
"""
FILTER = """
class FilterModule:
    def filters(self):
        return {"shout": str.upper}
"""
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - debug: {msg: "{{ inventory_hostname | shout }}"}
    - debug: {msg: "{{ inventory_hostname | shout }}"}
"""


def loaded_by(folder: Path, callbacks: Path) -> int:
    """How many processes loaded the filter."""
    (folder / "filter").mkdir()
    (folder / "filter" / "shout.py").write_text(SEEN.format(file=str(folder / "seen")) + FILTER)
    (folder / "ansible.cfg").touch()
    (folder / "play.yml").write_text(PLAYBOOK)
    (folder / "hosts.yml").write_text("all: {hosts: {a: , b: , c: }, vars: {ansible_connection: local}}\n")
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        cwd=folder,
        env=os.environ
        | {
            "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
            "ANSIBLE_CALLBACK_PLUGINS": str(callbacks),
            "ANSIBLE_FILTER_PLUGINS": str(folder / "filter"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "A" in done.stdout
    return len(set((folder / "seen").read_text().split()))


def test_the_parent_loads_them_for_all(tmp_path: Path) -> None:
    callbacks = tmp_path / "callback"
    callbacks.mkdir()
    (callbacks / "hedgerow_workers.py").symlink_to(ROOT / "plugins/callback/hedgerow_workers.py")
    assert loaded_by(tmp_path, callbacks) == 1


def test_without_it_each_worker_would(tmp_path: Path) -> None:
    (tmp_path / "callback").mkdir()
    assert loaded_by(tmp_path, tmp_path / "callback") > 1
