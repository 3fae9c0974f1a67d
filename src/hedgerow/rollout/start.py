"""Start a rollout's playbooks from the command line: the same as by hand, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import msgspec

from hedgerow import paths
from hedgerow.errors import ExitCode
from hedgerow.rollout import kinds, store
from hedgerow.rollout.events import State

Ahead = Literal["no", "yes", "only"]
"""Whether hosts fetch a release ahead of their turns, or do nothing else."""


def arguments(
    inventory: Path,
    bundle: str,
    *,
    policy: Path | dict[str, Any] | None,
    limit: str | None,
    check: bool,
    ahead: Ahead = "no",
    model: str | None = None,
) -> list[str]:
    """The command line of ``ansible-playbook``; values travel as JSON, so that none is taken for an option.

    ``bundle`` may be no model, for which ``model`` says what hosts serve.
    """
    given = str(policy.resolve()) if isinstance(policy, Path) else policy
    values = {"change" if kinds.is_kind(bundle) else "bundle": bundle} | (
        {} if given is None else {"rollout_policy": given}
    )
    if model is not None:
        values["model"] = model
    if ahead != "no":
        values["stage_ahead"] = ahead
    line = ["-i", str(inventory.resolve()), "playbooks/rollout.yml", "-e", json.dumps(values)]
    if limit is not None:
        line += ["--limit", limit]
    if check:
        line.append("--check")
    return line


def start(
    inventory: Path,
    bundle: str,
    *,
    policy: Path | dict[str, Any] | None,
    limit: str | None,
    check: bool,
    ahead: Ahead = "no",
    model: str | None = None,
) -> int:
    """Run it in view; return its exit code. Ctrl-C reaches it as well, and the same command goes on from there."""
    words = arguments(inventory, bundle, policy=policy, limit=limit, check=check, ahead=ahead, model=model)
    return _play(words)


def resume(inventory: Path, state: State) -> int:
    """Go on with a rollout that was cut off: its own bundle, policy and limit. Returns as ``start``."""
    plan = state.plan
    limit = ":".join(["pis", *(f"!{host}" for host in plan.outside_limit)]) if plan.outside_limit else None
    policy = msgspec.to_builtins(plan.policy)
    release = plan.release
    return start(inventory, release.bundle, policy=policy, limit=limit, check=False, model=release.model)


def bring_back(inventory: Path, rollout: str) -> int:
    """Bring the hosts of a rollout that nobody runs back, as its requests say, or to an end. Returns as ``start``."""
    return _play(["-i", str(inventory.resolve()), "playbooks/rollback.yml", "-e", json.dumps({"rollout": rollout})])


def _play(words: list[str]) -> int:
    root = paths.repository_root()
    program = str(Path(sys.executable).with_name("ansible-playbook"))
    environment = os.environ | {"ANSIBLE_CONFIG": str(root / "ansible.cfg")}
    process = subprocess.Popen([program, *words], cwd=root, env=environment)
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
