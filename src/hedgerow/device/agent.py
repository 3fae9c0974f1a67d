"""The agent: watches the model in service, tells how it is, and takes back what nobody has confirmed yet.

- It delivers nothing and decides nothing about versions but one thing: a pending version that fails is given up before
  its deadline. That goes through ``Activation`` and its lock, as the deadline's own revert does: whichever comes first
  finds the note, the other finds it gone.
- It is never what stops a device: an agent that is down leaves the deadline, systemd's watchdog of the server and all
  commands as they are.
- Every ``LOOK_S`` it has applications looked at, where the device runs any; the answer is the switch's to write down.
- Findings and their ends go into the event log, once each; every beat goes into memory (``heartbeat``).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from hedgerow.device import events, heartbeat, links, watchdog
from hedgerow.device.activation import LOCK, Activation
from hedgerow.device.application import SocketApplicationSwitcher
from hedgerow.device.assembled import activation_of, outdated, slot_home
from hedgerow.device.canonical import Canonical
from hedgerow.device.change import Change
from hedgerow.device.config import DeviceConfig
from hedgerow.device.heartbeat import Heartbeat
from hedgerow.device.notify import notify
from hedgerow.device.watchdog import Answer, Look, Watch
from hedgerow.errors import DeviceError, HedgerowError

# How soon a version that was just activated is noticed, and how often a beat is written while nothing happens.
TICK_S = 1.0
BEAT_S = 5.0
LOOK_S = 5.0


class Question(Protocol):
    """What the agent asks the server; ``canonical.Canonical`` is one."""

    def look(self) -> Look: ...


class Agent:
    """One device's. ``step`` does what is due; ``now`` is UTC, ``clock`` monotonic seconds.

    ``look`` has applications looked at; None: this device runs none.
    """

    def __init__(
        self,
        config: DeviceConfig,
        question: Question,
        activation: Activation,
        *,
        beats: Path = heartbeat.FILE,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
        look: Callable[[], object] | None = None,
    ) -> None:
        self._config = config
        self._look = look
        self._looked_s: float | None = None
        self._question = question
        self._activation = activation
        self._beats = beats
        self._now = now
        self._clock = clock
        self._watch = Watch()
        self._finding: str | None = None
        self._last_answer: datetime | None = None
        self._beaten_s: float | None = None

    def step(self) -> None:
        """Ask if it is time, act on what was found, and beat."""
        pending = self._pending()
        watch = watchdog.begin(self._watch, None if pending is None else str(pending))
        if watch is not self._watch:
            self._watch, self._finding = watch, None
        asked = watchdog.due(self._watch, self._config.agent, self._clock())
        if asked:
            self._beat()  # an answer may take its time, and the agent is alive meanwhile
            look = self._question.look()
            self._watch = watchdog.observe(self._watch, look, self._clock())
            if look.answer is Answer.ANSWERED:
                self._last_answer = self._now()
            self._note(watchdog.finding(self._watch, self._config.agent))
            if self._finding is not None and pending is not None:
                self._give_up(pending, self._finding)
        self._look_at_applications()
        if asked or self._beaten_s is None or self._clock() - self._beaten_s >= BEAT_S:
            self._beat()

    def _look_at_applications(self) -> None:
        if self._look is None or (self._looked_s is not None and self._clock() - self._looked_s < LOOK_S):
            return
        self._looked_s = self._clock()
        with suppress(DeviceError):  # commands say so; the model is watched all the same
            self._look()

    def _pending(self) -> Change | None:
        """The version that waits for its confirmation, and nothing else: not one that is on its way back."""
        try:
            pending = links.read_pending(self._config.activation_dir)
        except (DeviceError, OSError):  # damaged; commands say so, and nothing is to be reverted by it
            return None
        if pending is None or pending.reverting is not None:
            return None
        current = links.target(slot_home(self._config, pending.change), links.CURRENT)
        return pending.change if current == pending.to else None

    def _note(self, found: str | None) -> None:
        """Log a finding when it comes and when it goes; not its growing figures."""
        if (found is None) != (self._finding is None):
            self._log("answers again" if found is None else "fails its watchdog", found)
        self._finding = found

    def _give_up(self, pending: Change, why: str) -> None:
        try:
            outcome = self._activation.give_up(pending, reason=f"the device's own watchdog: {why}")
        except HedgerowError as error:  # tried again with the next question
            _say(f"{pending} is not reverted yet: {error}")
            return
        _say(f"{pending}: {outcome.note}")

    def _log(self, event: str, reason: str | None) -> None:
        model = self._watch.version or self._config.serving_model
        _say(f"{model} {event}" + (f": {reason}" if reason else ""))
        with suppress(OSError):  # a full disk keeps a line from the log, nothing else
            events.append(self._config.activation_dir, events.Event(self._now(), event, model, reason))

    def _beat(self) -> None:
        beat = Heartbeat(self._now(), self._last_answer, self._watch.failures, self._finding)
        with suppress(OSError):
            heartbeat.write(beat, self._beats)
        self._beaten_s = self._clock()


def watch(config: DeviceConfig) -> None:
    """Run until the process is ended; may be killed anywhere (``activation``)."""
    question = Canonical(
        config.models_dir,
        config.serving_model,
        config.control_socket,
        lock=config.activation_dir / LOCK,
        timeout_s=config.agent.timeout_s,
    )
    look = SocketApplicationSwitcher(config.application_socket).look if config.applications else None
    agent = Agent(config, question, activation_of(config), look=look)
    notify("READY=1")
    while True:
        agent.step()
        if outdated(config):
            raise DeviceError("another runtime was confirmed: it runs the agent from now on", next_step="systemd does")
        notify("WATCHDOG=1")
        time.sleep(TICK_S)


def _say(line: str) -> None:
    """One line for the journal."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
