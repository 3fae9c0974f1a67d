"""``hedgerow rollout``: which commands there are.

Each is imported when it is asked for: an emergency stop waits for neither the simulator nor the report's pictures.
"""

from __future__ import annotations

import click

from hedgerow.commands.lazy import Entries, LazyGroup

_HERE = "hedgerow.commands.rollout_"
COMMANDS: Entries = {
    "plan": (f"{_HERE}start:plan", "Show who would get a release, in which order and in which waves."),
    "start": (f"{_HERE}start:start", "Release; go on with a release that was cut off."),
    "stage": (f"{_HERE}start:stage", "Have every host fetch a release, and change nothing that is served."),
    "status": (f"{_HERE}watching:status", "How far the newest rollout has come, and what it waits for."),
    "watch": (f"{_HERE}watching:watch", "Follow the newest rollout until it ends."),
    "pause": (f"{_HERE}steering:pause", "Start no further host until it is resumed."),
    "resume": (f"{_HERE}steering:resume", "Go on with a rollout that was paused or cut off."),
    "approve": (f"{_HERE}steering:approve", "Say yes to a wave that the policy holds back for people."),
    "abort": (f"{_HERE}steering:abort", "Emergency stop: every host that got the release goes back."),
    "rollback": (f"{_HERE}steering:rollback", "Bring every host of a rollout back to the version before."),
    "supersede": (f"{_HERE}steering:supersede", "Let another release take over from a rollout that is stuck."),
    "hold": (f"{_HERE}holds:hold", "Leave a host out of rollouts."),
    "release": (f"{_HERE}holds:release", "Take a host in again: end its hold and its quarantine."),
    "simulate": (f"{_HERE}simulate:simulate", "Say how a rollout would go, without a host."),
    "report": (f"{_HERE}report:show_report", "Show what a rollout did on every host, and why."),
    "lint": (f"{_HERE}lint:lint", "Say what is wrong with a policy."),
}


@click.command(cls=LazyGroup, entries=COMMANDS)
def rollout() -> None:
    """Start, watch and undo rolling updates.

    \b
    Every command works on the same playbook, policy and journal as
    ansible-playbook -i INVENTORY playbooks/rollout.yml -e bundle=NAME@VERSION
    """  # noqa: D301 - click reads \b
