"""Messages of a rollout: begun by the process that has the lease, sent by one of their own, never waited for.

- A message is journaled before it is sent (``Telling``), and what came of it when
  it is known (``Notified``). A run that is killed in between tells nothing twice:
  a message that may have gone out is not sent again.
- The end of a rollout gives channels ``GRACE_S`` seconds, so that what answers at
  once is in its journal and its evidence. Who has not answered by then is told
  all the same, and journaled as not known.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from subprocess import Popen

from hedgerow.rollout import notify, report, sender
from hedgerow.rollout.events import Closed, Event, HostRetried, Notified, Resumed, Telling
from hedgerow.rollout.hostline import Clock
from hedgerow.rollout.journal import Journal, timestamp
from hedgerow.rollout.notify import Errand
from hedgerow.rollout.policy.notify import About

GRACE_S = 2.0
"""What the end of a rollout spends on channels at most; no wait and no stop spends anything."""

Send = Callable[[Journal, Errand], "Popen[bytes]"]


class Messenger:
    """Begins messages, and says (``say``) which did not get there."""

    def __init__(
        self, journal: Journal, say: Callable[[str], None], *, clock: Clock | None = None, send: Send = sender.start
    ) -> None:
        self._journal = journal
        self._say = say
        self._clock = clock or Clock()
        self._send = send
        self._sent: dict[str, Popen[bytes]] = {}

    def tell(self, about: About) -> None:
        """Begin to tell everybody who wants to know."""
        state = self._journal.read()
        task = notify.errand(state.plan.policy, state, about, rollout=self._journal.folder.name)
        if task is None:
            return
        through = [notify.name(channel, os.environ) for channel in task.channels]
        self._journal.append(Telling(at=self._at(), about=about, through=through, message=task.key))
        self._sent[task.key] = self._send(self._journal, task)

    def tell_end(self) -> None:
        """Tell how the rollout ends, unless a run that was cut off at its very end has; return within ``GRACE_S``.

        Every message that nobody has answered by then, also one that a wait began, is journaled as not known.
        """
        about = notify.ending(self._journal.read())
        if not told(self._journal.events(), about):
            self.tell(about)
        until = self._clock.monotonic() + GRACE_S
        while self._clock.monotonic() < until and self._pending():
            self._clock.sleep(0.05)
        self.collect()
        for event, through in unanswered(self._journal.events()):
            unknown = Notified(at=self._at(), about=event.about, through=through, message=event.message, known=False)
            self._journal.append(unknown)
            self._say(report.line(unknown))

    def collect(self) -> None:
        """Say what did not get there, of those messages of this messenger that are through by now."""
        through = [key for key, process in self._sent.items() if process.poll() is not None]
        if not through:
            return
        for key in through:
            del self._sent[key]
        for event in self._journal.events():
            if isinstance(event, Notified) and event.message in through and event.failed is not None:
                self._say(report.line(event))

    def _pending(self) -> bool:
        return any(process.poll() is None for process in self._sent.values())

    def _at(self) -> str:
        return timestamp(self._clock.now())


def told(happened: Sequence[Event], about: str) -> bool:
    """Whether ``about`` was told, and nothing but the run's end has happened since. Pure."""
    for event in reversed(happened):
        match event:
            case Telling():
                return event.about == about
            case Notified() | Resumed() | HostRetried() | Closed():
                continue
        return False
    return False


def unanswered(happened: Sequence[Event]) -> list[tuple[Telling, str]]:
    """Messages to which a channel's answer is not journaled, with that channel. Pure."""
    sent: list[tuple[Telling, str]] = []
    for event in happened:
        match event:
            case Telling():
                sent += [(event, through) for through in event.through]
            case Notified():
                # Two channels of one server have one name.
                for each in sent:
                    if (each[0].message, each[1]) == (event.message, event.through):
                        sent.remove(each)
                        break
    return sent
