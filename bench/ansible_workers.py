"""What a task costs a controller on each host, with and without plugins/callback/hedgerow_workers.py.

    .venv/bin/python -m bench.ansible_workers [--hosts 20] [--json]

A task that does nothing but template its message with a filter, on hosts that need no connection. Processor time of
ansible-playbook and its workers, a host and task; the same with no plugin of ours at all is what Ansible itself takes,
the limit. All three in turns, the median of three rounds. Ends with 1 where the callback saves less than half of what
our plugins add.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.proof import ROOT, machine

from hedgerow import output

TASKS, ROUNDS = 10, 3
PLAYBOOK = ROOT / ".venv/bin/ansible-playbook"
WITH, WITHOUT, LIMIT = "with the callback", "without it", "Ansible alone"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hosts", type=int, default=20, help="(default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        environments = _environments(Path(folder), arguments.hosts)
        taken: dict[str, list[float]] = {name: [] for name in environments}
        for _ in range(ROUNDS):
            for name, environment in environments.items():
                taken[name].append(_measure(Path(folder), environment) / (arguments.hosts * TASKS) * 1000)
    median = {name: statistics.median(values) for name, values in taken.items()}
    ok = median[WITHOUT] - median[WITH] >= (median[WITHOUT] - median[LIMIT]) / 2
    if arguments.json:
        output.print_json({"machine": machine(), "ms_a_host_and_task": median, "ok": ok})
    else:
        rows = [(name, f"{value:.0f}", f"{value / median[LIMIT]:.1f}") for name, value in median.items()]
        output.print_table(f"a task on a host, {machine()}", ("", "processor time, ms", "times Ansible's own"), rows)
    return 0 if ok else 1


def _environments(folder: Path, hosts: int) -> dict[str, dict[str, str]]:
    tasks = "".join('    - debug: {msg: "{{ inventory_hostname | upper }}"}\n' for _ in range(TASKS))
    (folder / "play.yml").write_text(f"- hosts: all\n  gather_facts: false\n  tasks:\n{tasks}", encoding="utf-8")
    names = "".join(f"    h{number}:\n" for number in range(hosts))
    (folder / "hosts.yml").write_text(f"all:\n  hosts:\n{names}", encoding="utf-8")
    shutil.copytree(ROOT / "plugins/callback", folder / "callback", ignore=lambda *_: {"hedgerow_workers.py"})
    (folder / "ansible.cfg").touch()
    ours = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    return {
        WITH: ours,
        WITHOUT: ours | {"ANSIBLE_CALLBACK_PLUGINS": str(folder / "callback")},
        LIMIT: {"ANSIBLE_CONFIG": str(folder / "ansible.cfg"), "ANSIBLE_FORKS": "10"},
    }


def _measure(folder: Path, environment: dict[str, str]) -> float:
    """Seconds of processor time of one run, workers included."""
    before = _children_s()
    done = subprocess.run(
        [PLAYBOOK, "-i", "hosts.yml", "play.yml"],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(done.stdout + done.stderr)
    return _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
