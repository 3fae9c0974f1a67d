"""Start ``playbooks/rollout.yml`` from the command line: the same playbook as by hand, in its own process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hedgerow import paths
from hedgerow.errors import ExitCode
from hedgerow.rollout import store


def arguments(inventory: Path, bundle: str, *, policy: Path | None, limit: str | None, check: bool) -> list[str]:
    """The command line of ``ansible-playbook``; values travel as JSON, so that none is taken for an option."""
    values = {"bundle": bundle} | ({} if policy is None else {"rollout_policy": str(policy.resolve())})
    line = ["-i", str(inventory.resolve()), "playbooks/rollout.yml", "-e", json.dumps(values)]
    if limit is not None:
        line += ["--limit", limit]
    if check:
        line.append("--check")
    return line


def start(inventory: Path, bundle: str, *, policy: Path | None, limit: str | None, check: bool) -> int:
    """Run it in view; return its exit code. Ctrl-C reaches it as well, and the same command goes on from there."""
    root = paths.repository_root()
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    command = [program, *arguments(inventory, bundle, policy=policy, limit=limit, check=check)]
    process = subprocess.Popen(command, cwd=root, env=os.environ | {"ANSIBLE_CONFIG": str(root / "ansible.cfg")})
    try:
        return process.wait()
    except KeyboardInterrupt:
        # It got the same signal and is about to end; without it this process would leave it behind.
        process.wait()
        raise


def exit_code(ansible: int, rollouts: Path, before: dict[str, int]) -> ExitCode:
    """What the run came to: Ansible knows that something failed, the journal whether it can be gone on with.

    ``before`` is ``store.sizes`` of the time when the run began: a journal it did not write to is not its own.
    """
    if ansible == 0:
        return ExitCode.OK
    written = [rollout for rollout, size in store.sizes(rollouts).items() if before.get(rollout) != size]
    if not written:
        return ExitCode.FAILED
    phase = store.read(rollouts, written[-1])[1].phase
    return ExitCode.PARTIAL if phase in {"open", "partial"} else ExitCode.FAILED
