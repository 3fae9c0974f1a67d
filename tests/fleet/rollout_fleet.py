"""What the rollout scenario's tests share: a fleet with its journal, callers that never stop asking, and faults.

The model is a few bytes of ONNX that add a number of their version, so every answer says which version gave it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from hedgerow.errors import HedgerowError
from hedgerow.fleet import access
from hedgerow.fleet.endpoint import DeviceClient
from hedgerow.identity.profiles import Profile
from hedgerow.rollout import store
from hedgerow.rollout.events import Event, State
from hedgerow.rollout.journal import Journal

# Looks and probes that are soon over; each test adds what it is about. Eight hosts on one small machine make each other
# slower by more than this model's few milliseconds, so only the test that is about it compares them.
PROBES = {"count": 12, "baseline_s": 2}
POLICY: dict[str, Any] = {
    "soak": {"passes": 2, "interval_s": 0.5, "deadline_s": 60},
    "gate": {"probes": PROBES, "without": ["slower"]},
    # Above what the slowest host of a wave may take: the wave goes step by step, and this machine may be busy.
    "confirm_within_s": 240,
    "retry": {"attempts": 3, "backoff_s": 0.5, "max_backoff_s": 2},
}
ASK_EVERY_S = 0.2
QUESTION = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [0.0]}]}
DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"


@dataclass
class Callers:
    """One caller a host, through mutual TLS as an application: asks all the time and keeps count.

    ``fresh``: a connection for each question, with certificate and CA as their files are at that moment. Else one
    connection that stays.
    """

    fleet: Fleet
    hosts: list[str]
    fresh: bool = False
    answered: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    numbers: dict[str, list[float]] = field(default_factory=dict)
    """Host → which versions answered, each time it changed."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)
    _opening: ClassVar[threading.Lock] = threading.Lock()

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._ask, args=(host,)) for host in self.hosts]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _ask(self, host: str) -> None:
        with ExitStack() as open_clients:
            client = open_clients.enter_context(self._client(host))
            while not self._stop.wait(ASK_EVERY_S):
                try:
                    if self.fresh:
                        open_clients.close()
                        client = open_clients.enter_context(self._client(host))
                    answer = client.post(f"/v2/models/{self.fleet.model}/infer", QUESTION)
                    number = round(float(answer["outputs"][0]["data"][0]), 3)
                except (HedgerowError, KeyError, IndexError, TypeError) as error:
                    self.failed.append(f"{host} at {time.strftime('%H:%M:%S')}: {error}")
                    continue
                self.answered[host] += 1
                seen = self.numbers.setdefault(host, [])
                if not seen or seen[-1] != number:
                    seen.append(number)

    def _client(self, host: str) -> DeviceClient:
        # One at a time: whoever finds the certificate due makes another, in two files.
        with self._opening:
            return self.fleet.client(host, Profile.CLIENT)

    def none_failed(self) -> None:
        """Every host was asked all along, and every question was answered."""
        assert self.failed == []
        assert set(self.answered) == set(self.hosts)
        assert min(self.answered.values()) > 5, self.answered


class Fleet:
    """A converged fleet and its controller (``conftest.Controller``)."""

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.inventory = controller.inventory
        self.pis: list[str] = controller.pis
        self.model = str(self.inventory.vars["serving_model"])
        self.rollouts = store.folder(self.inventory.fleet)

    def release(self, **how: Any) -> str:
        """Publish another version, higher than all before; ``how`` as ``Controller.publish``."""
        known = self.hedgerow("registry", "list", "--json")
        assert known.returncode == 0, known.stderr
        number = len(json.loads(known.stdout)["bundles"]) + 1
        return str(self.controller.publish(f"0.0.{number}", **how))

    # -- rolling out -----------------------------------------------------------

    def arguments(self, bundle: str, *, limit: Iterable[str] = (), **policy: Any) -> list[str]:
        """What ``ansible-playbook playbooks/rollout.yml`` takes; ``limit`` narrows the plan to some hosts."""
        only = ["--limit", ",".join(limit)] if limit else []
        return ["-e", json.dumps({"bundle": bundle, "rollout_policy": POLICY | policy}), *only]

    def rollout(self, bundle: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run one to its end."""
        done: subprocess.CompletedProcess[str] = self.controller.play("rollout.yml", *self.arguments(bundle, **options))
        return done

    def ready(self, bundle: str) -> str:
        """Have the whole fleet serve it."""
        done = self.rollout(bundle, waves=[len(self.pis)])
        assert done.returncode == 0, done.stdout + done.stderr
        assert self.serves() == dict.fromkeys(self.pis, bundle)
        return bundle

    @contextmanager
    def running(self, bundle: str, log: Path, **options: Any) -> Iterator[Run]:
        """One that goes on while the test does things; killed if the test leaves it."""
        known = store.ids(self.rollouts)
        # One that was cut off is taken over; all others are history.
        history = set(known[:-1] if known and self.state().phase == "open" else known)
        process = self.controller.start("rollout.yml", *self.arguments(bundle, **options), log=log)
        run = Run(self, process, log, history)
        try:
            yield run
        finally:
            run.kill()

    def hedgerow(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = self.controller.hedgerow(*arguments)
        return done

    def state(self, rollout: str | None = None) -> State:
        """What the journal of a rollout (the newest) says."""
        return store.read(self.rollouts, rollout)[1]

    def journal(self) -> list[Event]:
        """All lines of the newest rollout's journal."""
        return Journal(self.rollouts / store.ids(self.rollouts)[-1]).events()

    def settle(self) -> None:
        """Bring to its end what a test that failed has left half-way; nothing after one that passed."""
        if store.ids(self.rollouts) and self.state().turns:
            self.hedgerow("rollout", "abort", "--reason", "its test failed")

    def outcomes(self) -> dict[str, str | None]:
        """How each planned host came out of the newest rollout."""
        hosts = self.state().hosts
        return {name: None if host.outcome is None else str(host.outcome) for name, host in hosts.items()}

    # -- hosts -----------------------------------------------------------------

    def client(self, host: str, profile: Profile = Profile.OPERATOR) -> DeviceClient:
        """A door to a host, opened with this controller's own certificate of a profile."""
        found = self.inventory.hosts[host]
        endpoint = access.endpoint(host, found.address, site=found.site, fleet=self.inventory.fleet)
        return DeviceClient(endpoint, access.context(self.inventory.fleet, profile), timeout_s=10.0)

    def serves(self) -> dict[str, str | None]:
        """Host → what it serves, as its own report says; None where nothing answers."""
        return {host: self.served_by(host) for host in self.pis}

    def served_by(self, host: str) -> str | None:
        try:
            with self.client(host) as client:
                return client.report().reference
        except HedgerowError:
            return None

    def health(self, host: str) -> set[str]:
        """Its reasons for not being well; ``gone`` where nothing answers."""
        try:
            with self.client(host) as client:
                return {reason.code for reason in client.report().reasons}
        except HedgerowError:
            return {"gone"}

    def on(self, host: str, command: str) -> str:
        """Output of a shell line as root, which has to succeed."""
        done = self.controller.on(host, command)
        assert done.returncode == 0, f"{host}: {command}: {done.stdout}{done.stderr}"
        return str(done.stdout)

    def device(self, host: str, *arguments: str) -> Any:
        """``hedgerow-device`` on a host, its JSON."""
        return json.loads(self.on(host, " ".join([DEVICE, *arguments, "--json"])))

    def events(self, host: str) -> list[dict[str, Any]]:
        """The device's own log."""
        found: list[dict[str, Any]] = self.device(host, "events")
        return found

    def board(self, host: str, **values: object) -> None:
        """Play the board of an emulated host."""
        done = self.hedgerow("emulate", "set", host, *(f"{key}={value}" for key, value in values.items()))
        assert done.returncode == 0, done.stderr

    def power(self, host: str, state: str) -> None:
        done = self.hedgerow("emulate", "power", host, state)
        assert done.returncode == 0, done.stderr

    def passive(self) -> list[str]:
        return [host.name for host in self.inventory.pis if host.vars.get("cooling") == "passive"]

    def sound(self) -> list[str]:
        """What is wrong with the fleet: a host that is drained, serves nothing, or waits for somebody."""
        wrong = []
        for host in self.pis:
            reasons = self.health(host)
            if self.served_by(host) is None:
                wrong.append(f"{host} serves nothing: {sorted(reasons)}")
            wrong += [f"{host} is {code}" for code in ("draining", "confirm_pending") if code in reasons]
        return wrong


@dataclass
class Run:
    """A rollout under way."""

    fleet: Fleet
    process: subprocess.Popen[bytes]
    log: Path
    _history: set[str]

    def until(self, condition: Callable[[State], Any], *, within_s: float = 120.0) -> Any:
        """The first true value of ``condition`` on the journal's state."""
        deadline = time.monotonic() + within_s
        while True:
            ended = self.process.poll() is not None
            state = self.state()
            value = None if state is None else condition(state)
            if value:
                return value
            assert not ended, f"the rollout ended first:\n{self.text}"
            assert time.monotonic() < deadline, f"not within {within_s} s:\n{self.text}"
            time.sleep(0.05)

    def state(self) -> State | None:
        """The journal's, once this run has opened or taken over one."""
        known = [name for name in store.ids(self.fleet.rollouts) if name not in self._history]
        return Journal(self.fleet.rollouts / known[-1]).state() if known else None

    def wait(self, *, within_s: float = 300.0) -> int:
        """Its exit code."""
        return self.process.wait(timeout=within_s)

    def kill(self) -> None:
        """As a controller that loses its power: the process and all its workers, at once."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.log.read_text(encoding="utf-8", errors="replace"))


def seconds(earlier: str, later: str) -> float:
    """Between two times of a journal."""
    from datetime import datetime

    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
