"""The line to one host: ``hedgerow-device`` run there, its answers read, tried again where the cause passes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from hedgerow.errors import NetworkError
from hedgerow.fleet.reported import Report
from hedgerow.rollout.remote import Completed, parse_answer, parse_report

SERVER_BACK_S = 20
"""Seconds within which systemd has restarted a server that crashed, and it has loaded a small model."""


class Device(Protocol):
    """Runs ``hedgerow-device`` on the host."""

    def __call__(self, arguments: Sequence[str], *, timeout_s: int) -> Completed:
        """Run it with ``arguments``.

        Raises:
            NetworkError: The host could not be reached, or the line broke.
        """


def _utc() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class Clock:
    """Time, so that tests need none."""

    monotonic: Callable[[], float] = field(default=time.monotonic)
    sleep: Callable[[float], None] = field(default=time.sleep)
    now: Callable[[], datetime] = field(default=_utc)


class HostLine:
    """Commands to one host. ``failed_once`` is told attempt, cause and says how long to wait, or None to give up."""

    def __init__(
        self, host: str, device: Device, clock: Clock, failed_once: Callable[[int, NetworkError], float | None]
    ) -> None:
        self._host = host
        self._device = device
        self._clock = clock
        self._failed_once = failed_once

    def report(self) -> Report:
        """The host's report, asked once.

        Raises:
            NetworkError: It cannot be reached.
            DeviceError: It gave none.
        """
        return parse_report(self._device(["report", "--json"], timeout_s=60), host=self._host)

    def settled_report(self, before: str | None) -> Report:
        """A report that names a model, if one was served before: a server that crashed is back within seconds."""
        for _ in range(SERVER_BACK_S):
            report = self.report()
            if report.model is not None or before is None:
                break
            self._clock.sleep(1)
        return report

    def run_once(self, arguments: Sequence[str], *, timeout_s: int = 60) -> dict[str, Any]:
        """Run a command. Raises as ``run``."""
        done = self._device([*arguments, "--json"], timeout_s=timeout_s)
        return parse_answer(done, host=self._host, verb=arguments[0])

    def run(self, arguments: Sequence[str], *, timeout_s: int = 60) -> dict[str, Any]:
        """Run a command; again after a broken line or an unreachable registry, never after a refusal.

        For commands that change nothing when they had come through the first time: all but ``revert``.

        Raises:
            NetworkError: It did not come through in as many tries as the policy allows.
            DeviceError: The device refused or failed.
        """
        return self.repeat(lambda: self.run_once(arguments, timeout_s=timeout_s))

    def repeat(self, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Do ``work``, again after a broken line or an unreachable registry. Raises as ``run``."""
        attempt = 0
        while True:
            attempt += 1
            try:
                return work()
            except NetworkError as error:
                wait_s = self._failed_once(attempt, error)
                if wait_s is None:
                    raise
            self._clock.sleep(wait_s)
