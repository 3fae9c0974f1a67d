"""Looks at hosts that have the release already: all of them in a wait, some of them before a wave.

- A host that fails in several looks in a row fell. One that does not answer is no
  word against the release: it may be rebooting. One that serves something else
  was changed by somebody.
- ``LOOKS_PER_S`` bounds what a controller spends, in a wait as before a wave.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

from hedgerow.rollout.events import HostState
from hedgerow.rollout.gate import judge
from hedgerow.rollout.gate.judge import Expectation, Look, Verdict
from hedgerow.rollout.plan import Release

LOOKS_PER_S = 20
"""Over all hosts together: what a controller spends on TLS, and what a site's link carries, stays bounded."""

AGAIN_S = 1.0
"""Between two looks at a host that failed in the first."""

LOOKERS = LOOKS_PER_S
"""Threads: a second's looks begin together, and hosts that do not answer (5 s each) do not hold up all others."""


class Patrol:
    """Looks at confirmed hosts in turn. ``look`` makes a look at a host; that runs in a thread and never raises."""

    def __init__(self, release: Release, look: Callable[[str], Callable[[], Look]], *, falls_after: int) -> None:
        self._release = release
        self._look = look
        self.falls_after = falls_after
        self._queue: deque[str] = deque()
        self._under_way: dict[str, Future[Look]] = {}
        self._failing: dict[str, int] = {}
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def on(self) -> Iterator[Patrol]:
        """While it is entered, looks are made; threads that still wait for an answer are left to their time limit."""
        self._pool = ThreadPoolExecutor(LOOKERS, thread_name_prefix="patrol")
        try:
            yield self
        finally:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
            self._under_way.clear()

    def begin(self, name: str) -> Future[Look]:
        """Begin one look at a host.

        Raises:
            ValueError: The patrol is not on.
        """
        if self._pool is None:
            raise ValueError("a patrol looks only while it is on")
        return self._pool.submit(self._look(name))

    def failing(self, look: Look, host: HostState) -> str | None:
        """Why a look is one at a failing host; None: it is not."""
        baseline = frozenset(host.baseline)
        expected = Expectation(version=self._release.serves, sha256=self._release.serves_sha256, baseline=baseline)
        verdict = judge.judge_look(look, expected)
        # A final failure with another version in service is somebody's doing, not the release's.
        failing = verdict.verdict is Verdict.FAIL and look.version == expected.version
        return verdict.reason if failing else None

    def fallen(self, hosts: dict[str, HostState]) -> list[tuple[str, str]]:
        """Hosts that have failed often enough since they were first asked, with why. Begins the next looks.

        ``hosts`` are those to watch. Called once a second.
        """
        found = [each for name in list(self._under_way) if (each := self._read(name, hosts)) is not None]
        self._ask_next(hosts)
        return found

    def _read(self, name: str, hosts: dict[str, HostState]) -> tuple[str, str] | None:
        future = self._under_way[name]
        if not future.done():
            return None
        del self._under_way[name]
        if name not in hosts:
            return None
        reason = self.failing(future.result(), hosts[name])
        self._failing[name] = self._failing.get(name, 0) + 1 if reason is not None else 0
        return (name, reason) if reason is not None and self._failing[name] >= self.falls_after else None

    def _ask_next(self, hosts: dict[str, HostState]) -> None:
        if not self._queue:
            self._queue.extend(name for name in hosts if name not in self._under_way)
        for _ in range(min(LOOKS_PER_S, len(self._queue))):
            if len(self._under_way) >= LOOKERS:
                break
            name = self._queue.popleft()
            if name in hosts:
                self._under_way[name] = self.begin(name)


class Round:
    """One look at each of ``hosts``, and more at those that fail, until they pass or have fallen."""

    def __init__(self, patrol: Patrol, hosts: Mapping[str, HostState]) -> None:
        self.fallen: list[tuple[str, str]] = []
        self.seen: list[str] = []
        self.away: list[str] = []
        self._patrol = patrol
        self._hosts = hosts
        self._due = deque((name, 0.0) for name in hosts)
        self._under_way: dict[str, Future[Look]] = {}
        self._failing: dict[str, int] = {}

    @property
    def over(self) -> bool:
        """Whether every host has been seen as often as it needs."""
        return not self._due and not self._under_way

    def go_on(self, now: float, *, looks: int) -> None:
        """Read what has come in at ``now`` (seconds of a clock that never jumps), and begin at most ``looks`` more."""
        for name in [name for name, future in self._under_way.items() if future.done()]:
            self._read(name, self._under_way.pop(name).result(), now)
        for _ in range(min(looks, len(self._due), LOOKERS - len(self._under_way))):
            name, not_before = self._due.popleft()
            if now >= not_before:
                self._under_way[name] = self._patrol.begin(name)
            else:
                self._due.append((name, not_before))

    def _read(self, name: str, look: Look, now: float) -> None:
        reason = self._patrol.failing(look, self._hosts[name])
        self._failing[name] = self._failing.get(name, 0) + 1
        if reason is not None and self._failing[name] < self._patrol.falls_after:
            self._due.append((name, now + AGAIN_S))
            return
        self.seen.append(name)
        if reason is not None:
            self.fallen.append((name, reason))
        if not look.reached or look.status == "failing" or look.version is None:
            self.away.append(name)


def sample(hosts: Sequence[str], *, after: str | None, most: int) -> list[str]:
    """At most ``most`` of ``hosts``: those that come after ``after`` (who was last), and round again. Pure."""
    first = hosts.index(after) + 1 if after in hosts else 0
    return [*hosts[first:], *hosts[:first]][:most]
