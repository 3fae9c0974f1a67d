"""Wait until a wave may start: for its approval, the end of a pause, of a freeze, or for its window.

    - name: Wait until the wave may start, and watch who has the release already
      hedgerow_rollout_wait: {folder: "{{ folder }}"}
      run_once: true
      register: turn

With ``until: staging`` until devices may fetch the release ahead of their turns.

Asks ``hedgerow.rollout.decide`` once a second and journals what operators ask meanwhile
(``hedgerow rollout pause|resume|approve|abort|rollback|supersede``). Hosts that were confirmed are looked
at all the while; one that got worse counts as failed, and may end the rollout. Prints a
line when what it waits for changes, and tells whom the policy names. Before the first wave
it asks every host whether what it would go back to is known.

Returns ``over`` (true: no further wave starts), ``wave`` (from 1), ``undo`` (hosts that got worse
and have to go back before the wait goes on), ``drill`` (the canary is to go back and forward
again), ``drains`` (hosts leave service while they change) and ``msg``.
The decisions are ``hedgerow.rollout``'s.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

from hedgerow.errors import HedgerowError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout import decide, requests
from hedgerow.rollout.gate.judge import Look
from hedgerow.rollout.gate.watcher import HttpsWatcher
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.messenger import Messenger
from hedgerow.rollout.patrol import Patrol
from hedgerow.rollout.prepare import plain
from hedgerow.rollout.survey import registry, survey
from hedgerow.rollout.waiting import Turn, await_staging, await_wave


class ActionModule(ActionBase):
    """``hedgerow_rollout_wait``."""

    _requires_connection = False
    _VALID_ARGS = frozenset({"folder", "until"})

    def run(self, tmp: Any = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        variables = task_vars or {}
        result: dict[str, Any] = super().run(tmp, variables)
        journal = Journal.shared(Path(plain(self._task.args["folder"])), pid=os.getppid())
        try:
            turn = self._wait(journal, variables)
            plan = journal.read().plan
        except HedgerowError as error:
            return result | {"failed": True, "msg": str(error)}
        drill, drains = plan.policy.rollback.drill and turn.wave == 1, decide.drains(plan.release.kind)
        said = {"changed": False, "over": turn.over, "wave": turn.wave, "undo": turn.undo, "msg": turn.msg}
        return result | said | {"drill": drill, "drains": drains, "_ansible_verbose_always": True}

    def _wait(self, journal: Journal, variables: dict[str, Any]) -> Turn:
        plan = journal.read().plan
        approvers = plain(variables.get("rollout_approvers") or {})
        look_at = _looker(variables)
        survey(journal, look_at, registry(str(plain(variables["fleet"])), plan.release.stage), self._display.display)
        patrol = Patrol(plan.release, look_at, falls_after=plan.policy.soak.passes)
        messenger = Messenger(journal, self._display.display)

        def attend() -> None:
            requests.take(journal, approvers)
            messenger.collect()

        def say(line: str) -> None:
            self._display.display(line)
            messenger.tell("waiting")

        await_it = {"wave": await_wave, "staging": await_staging}[self._task.args.get("until", "wave")]
        return await_it(journal, plain(variables["ansible_play_batch"]), patrol, attend, say)


def _looker(variables: dict[str, Any]) -> Callable[[str], Callable[[], Look]]:
    """Looks over mutual TLS at hosts by their names in the inventory; a connection of its own each."""
    fleet = str(plain(variables["fleet"]))
    hostvars = variables["hostvars"]
    context = cache(partial(access.context, fleet, Profile.OPERATOR))

    def look_at(host: str) -> Callable[[], Look]:
        # Templating is not for threads; here it is done for one host at a time, and for watched ones alone.
        address, site = plain(hostvars[host]["ansible_host"]), plain(hostvars[host]["site"])
        endpoint, tls = access.endpoint(host, address, site=site, fleet=fleet), context()

        def look() -> Look:
            with DeviceClient(endpoint, tls) as client:
                return HttpsWatcher(client).look()

        return look

    return look_at
