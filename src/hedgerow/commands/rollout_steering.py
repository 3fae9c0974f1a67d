"""What operators ask of a rollout: pause, resume, approve, abort, rollback, supersede.

Where a process rolls out, the request goes to it and its answer comes from the
journal. Where none does, what can be done is done by the playbook that these
commands then run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode, PartialError, RefusedError, UsageError
from hedgerow.output import out
from hedgerow.rollout import decide, lease, requests, store
from hedgerow.rollout import start as starting
from hedgerow.rollout.events import OperatorAsked, Outcome, Request, RequestKind, State
from hedgerow.rollout.journal import Journal, timestamp

ANSWER_WITHIN_S = 10.0
"""A run takes requests once a second, but for the time that a command on a host takes."""

reason_option = click.option("--reason", default="", help="Why; recorded.")
name_option = click.option("--as", "name", help="Your name in the policy and in rollout_approvers; else your login.")


class Rollout(msgspec.Struct):
    """The rollout that a command is about."""

    folder: Path
    state: State
    running: bool
    approvers: dict[str, list[str]]

    @property
    def id(self) -> str:
        """Its id, which is its folder's name."""
        return self.folder.name


def _find(path: Path, rollout_id: str | None = None) -> Rollout:
    found = inventories.load(path)
    rollouts = store.folder(found.fleet)
    name, state = store.read(rollouts, rollout_id)
    holder = lease.read(rollouts)
    running = holder is not None and holder.rollout == name
    return Rollout(rollouts / name, state, running, found.vars.get("rollout_approvers") or {})


def _login() -> str:
    return lease.whoami().partition("@")[0]


def _request(about: Rollout, kind: RequestKind, *, by: str | None = None, reason: str = "") -> Request:
    """A request, refused at once where the journal already says that it will be."""
    request = Request(kind=kind, rollout=about.id, by=by or _login(), at=timestamp(datetime.now(UTC)), reason=reason)
    refused = decide.refusal(about.state, request) if kind is not RequestKind.APPROVE else None
    if refused is not None:
        raise RefusedError(refused, where=about.id, next_step="see where it stands: hedgerow rollout status")
    return request


def _tell(about: Rollout, request: Request) -> OperatorAsked | None:
    """Hand the request over and wait for the answer; None where the run is busy with a host for longer."""
    number = requests.add(about.folder, request)
    journal = Journal(about.folder)
    answers: list[OperatorAsked] = []
    deadline = time.monotonic() + ANSWER_WITHIN_S
    while about.running and time.monotonic() < deadline:
        answers += [event for event in journal.advance() if isinstance(event, OperatorAsked)]
        if len(answers) >= number:
            answer = answers[number - 1]
            if answer.refused is not None:
                raise RefusedError(answer.refused, where=about.id)
            return answer
        holder = lease.read(about.folder.parent)
        about.running = holder is not None and holder.rollout == about.id
        time.sleep(0.1)
    return None


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)


def _busy(about: Rollout, request: Request) -> None:
    _say(f"{about.id}: {request.kind} is recorded; the run takes it when the command on its present hosts ends")
    _say("next: hedgerow rollout watch")


@click.command()
@inventory_option
@reason_option
def pause(*, path: Path, reason: str) -> None:
    """Start no further host until it is resumed; those in their turn come to its end."""
    about = _find(path)
    _require_running(about)
    request = _request(about, RequestKind.PAUSE, reason=reason)
    if _tell(about, request) is None:
        _busy(about, request)
        return
    _say(f"{about.id}: paused. Hosts that have the release are watched meanwhile")
    _say("next: hedgerow rollout resume")


@click.command()
@inventory_option
@reason_option
def resume(*, path: Path, reason: str) -> int:
    """Let a paused rollout go on; go on with one that was cut off; see to lost hosts that are back.

    One that ended with hosts passed over (a freeze, a pause, a hold, a site that could not spare them) is rolled out
    again, with the same policy: who has the release keeps it, and who was passed over gets it.
    """
    about = _find(path)
    if about.running:
        request = _request(about, RequestKind.RESUME, reason=reason)
        if _tell(about, request) is None:
            _busy(about, request)
        else:
            _say(f"{about.id}: goes on")
        return int(ExitCode.OK)
    if about.state.phase == "open":
        # A pause that the last run did not live to take is one, too.
        asked = [request.kind for request in requests.pending(about.folder, about.state.asked)]
        if about.state.paused is not None or about.state.no_data is not None or RequestKind.PAUSE in asked:
            requests.add(about.folder, _request(about, RequestKind.RESUME, reason=reason))
        return _run(about, lambda: starting.resume(path, about.state))
    if decide.unsettled(about.state) or decide.to_undo(about.state):
        return _run(about, lambda: starting.bring_back(path, about.id))
    if about.state.phase == "partial" and about.state.outcomes.get(Outcome.SKIPPED):
        return _run(about, lambda: starting.resume(path, about.state))
    raise UsageError(
        f"there is nothing to go on with: the newest rollout is {about.state.phase.replace('_', ' ')}",
        where=about.id,
        next_step=f"start one: hedgerow rollout start {about.state.plan.release.bundle}",
    )


@click.command()
@inventory_option
@reason_option
@click.option("--wave", type=click.IntRange(min=1), help="The wave that may start; without it the next one.")
@click.option("--key", type=click.Path(path_type=Path), help="Your SSH key: the file, or its .pub for the agent's.")
@name_option
def approve(*, path: Path, reason: str, wave: int | None, key: Path | None, name: str | None) -> None:
    """Say yes to a wave that the policy holds back for people."""
    about = _find(path)
    request = msgspec.structs.replace(
        _request(about, RequestKind.APPROVE, by=name, reason=reason),
        wave=wave if wave is not None else about.state.wave + 1,
    )
    refused = decide.refusal(about.state, request)
    if refused is not None:
        raise RefusedError(refused, where=about.id, next_step="see what it waits for: hedgerow rollout status")
    if key is not None:
        request = requests.sign(request, key)
    if key is not None or decide.needs_signature(about.state, request.wave or 0, request.by):
        # The run verifies it again: what counts is what the journal's writer has seen.
        requests.verify(request, about.approvers)
    if _tell(about, request) is not None:
        _say(f"{about.id}: wave {request.wave} is approved by {request.by}")
    elif about.running:
        _busy(about, request)
    else:
        _say(f"{about.id}: the approval of wave {request.wave} is recorded. Nobody is rolling out")
        _say("next: hedgerow rollout resume")


@click.command()
@inventory_option
@reason_option
def abort(*, path: Path, reason: str) -> int:
    """Emergency stop: no host starts after it, and every host that got the release goes back."""
    about = _find(path)
    if not about.running and about.state.phase != "open":
        raise UsageError(
            f"nobody is rolling out, and the newest rollout is {about.state.phase.replace('_', ' ')}",
            where=about.id,
            next_step="to take it back: hedgerow rollout rollback",
        )
    return _take_back(path, about, _request(about, RequestKind.ABORT, reason=reason), "stopped; its hosts go back")


@click.command()
@click.argument("rollout_id", metavar="ID", required=False)
@inventory_option
@reason_option
def rollback(*, rollout_id: str | None, path: Path, reason: str) -> int:
    """Bring every host of a rollout (the newest, or ID) back to the version before."""
    about = _find(path, rollout_id)
    request = _request(about, RequestKind.ROLLBACK, reason=reason)
    return _take_back(path, about, request, "stopped; every host that got the release goes back")


@click.command()
@click.argument("bundle", metavar="NAME@VERSION")
@inventory_option
@click.option("--policy", "policy_file", type=click.Path(path_type=Path), help="As for start.")
@click.option("-l", "--limit", help="As for start.")
@reason_option
def supersede(*, bundle: str, path: Path, policy_file: Path | None, limit: str | None, reason: str) -> int:
    """Let NAME@VERSION take over from a rollout that is stuck: end that one in order, then start."""
    about = _find(path)
    if about.running or about.state.turns:
        request = msgspec.structs.replace(_request(about, RequestKind.SUPERSEDE, reason=reason), bundle=bundle)
        _tell(about, request)
    if about.running:
        _say(f"{about.id}: starts no further host; waiting until those in their turn have ended it")
        _await_end(about)
    elif about.state.turns or decide.to_undo(about.state):
        code = starting.bring_back(path, about.id)
        if code != 0:
            raise PartialError(
                f"hosts of {about.id} are still half-way",
                where=", ".join(store.read(about.folder.parent, about.id)[1].turns),
                next_step="mend what is named above, then the same command again",
            )
    return _run(about, lambda: starting.start(path, bundle, policy=policy_file, limit=limit, check=False))


def _take_back(path: Path, about: Rollout, request: Request, done: str) -> int:
    answer = _tell(about, request)
    if answer is not None:
        _say(f"{about.id}: {done}")
        _say("next: hedgerow rollout watch")
        return int(ExitCode.OK)
    if about.running:
        _busy(about, request)
        return int(ExitCode.OK)
    return _run(about, lambda: starting.bring_back(path, about.id), back=True)


def _run(about: Rollout, play: Callable[[], int], *, back: bool = False) -> int:
    rollouts = about.folder.parent
    before = store.sizes(rollouts)
    code = play()
    if back and code != 0 and store.read(rollouts, about.id)[1].lost:
        return int(ExitCode.PARTIAL)
    return int(starting.exit_code(code, rollouts, before))


def _await_end(about: Rollout) -> None:
    """Wait for the run to give its lease back: as long as one host's turn may take, and its return."""
    policy = about.state.plan.policy
    deadline = time.monotonic() + 2 * policy.activate_within_s + policy.soak.deadline_s
    while (holder := lease.read(about.folder.parent)) is not None and holder.rollout == about.id:
        if time.monotonic() > deadline:
            raise PartialError(
                f"{about.id} has not ended yet", where=holder.by, next_step="hedgerow rollout watch, then again"
            )
        time.sleep(0.5)


def _require_running(about: Rollout) -> None:
    if not about.running:
        raise UsageError(
            f"nobody is rolling out; the newest rollout is {about.state.phase.replace('_', ' ')}",
            where=about.id,
            next_step="hedgerow rollout status",
        )
