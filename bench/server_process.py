"""What the benches of the server share: ``hedgerow serve`` as a process, what it costs, and spreads of figures."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

# A start takes two seconds; this is for a machine that is busy otherwise.
READY_S = 600.0
_POLL_S = 0.01
_PAGE = os.sysconf("SC_PAGE_SIZE")
PROGRAM = Path(sys.executable).parent / "hedgerow"


@dataclass(frozen=True)
class Spread:
    """Median, least and greatest."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        return cls(*(round(value, 3) for value in (statistics.median(values), min(values), max(values))))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.least:.3g} to {self.greatest:.3g})"


def process_cpu_s(pid: int) -> float:
    """CPU seconds of a process so far, all its threads, in the kernel as well; exact, where ``/proc`` has ticks.

    The clock's number is what glibc's clock_getcpuclockid(3) makes: the process's id inverted, and CPUCLOCK_SCHED.
    """
    return time.clock_gettime((~pid << 3) | 2)


def process_rss(pid: int) -> int:
    """Bytes of a process that are in memory, shared libraries included."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE


def tree(pid: int) -> list[int]:
    """A process and all that came of it and are still there (``/proc/PID/task/TID/children``)."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text(encoding="ascii").split():
            found += tree(int(child))
    return found


def percentile(ordered: list[float], share: float) -> float:
    """Of ascending values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A device's server of one model out of ``models``, on loopback; its own files lie in ``folder``."""

    def __init__(self, folder: Path, models: Path, model: str, **settings: Any) -> None:
        folder.mkdir(parents=True)
        self.port, self.grpc_port = free_port(), free_port()
        self.control = folder / "server.sock"
        config = {
            "host": "bench", "serial": "0", "fleet": "bench", "site": "bench", "model": model,
            "models_dir": str(models), "activation_dir": str(folder), "https": None, "grpcs": None,
            "control_socket": str(self.control),
            "http": {"address": "127.0.0.1", "port": self.port},
            "grpc": {"address": "127.0.0.1", "port": self.grpc_port},
            **settings,
        }  # fmt: skip
        (folder / "server.yml").write_text(json.dumps(config), encoding="utf-8")
        self._log = folder / "server.log"
        self.started = time.monotonic()
        with self._log.open("wb") as log:
            self._child = subprocess.Popen([PROGRAM, "serve", "--config", folder / "server.yml"], stderr=log)
        self.pid = self._child.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_ready(self) -> float:
        """Seconds from the start of the process until it was ready."""
        return self.wait(lambda: self.get("/health/ready")[0] == http.HTTPStatus.OK)

    def wait(self, reached: Callable[[], bool]) -> float:
        """Seconds from the start of the process until ``reached``; no answer is a no."""
        while time.monotonic() - self.started < READY_S:
            with contextlib.suppress(OSError):
                if reached():
                    return time.monotonic() - self.started
            if self._child.poll() is not None:
                break
            time.sleep(_POLL_S)
        raise SystemExit(f"the server did not get ready:\n{self._log.read_text(encoding='utf-8')[-2000:]}")

    def get(self, path: str) -> tuple[int, bytes]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=READY_S)
        with contextlib.closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()

    def tell(self, path: str, document: dict[str, Any]) -> dict[str, Any]:
        """POST to the control socket, as ``hedgerow-device`` does."""
        connection = http.client.HTTPConnection("localhost", timeout=READY_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(READY_S)
        connection.sock.connect(str(self.control))
        with contextlib.closing(connection):
            connection.request("POST", path, json.dumps(document), {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        if response.status != http.HTTPStatus.OK:
            raise SystemExit(f"{path} was answered with {response.status}: {body.decode()}")
        answer: dict[str, Any] = json.loads(body)
        return answer

    @property
    def cpu_s(self) -> float:
        return process_cpu_s(self.pid)

    @property
    def rss(self) -> int:
        return process_rss(self.pid)

    def close(self) -> None:
        self._child.terminate()
        self._child.wait()


class Child:
    """A part of a bench in a process of its own: a line of JSON in, a line of JSON out."""

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def ask(self, **asked: Any) -> dict[str, Any]:
        """What it answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended")  # type: ignore[arg-type] # a list
        document: dict[str, Any] = json.loads(line)
        return document


def questions() -> Iterator[dict[str, Any]]:
    """The child's side of ``Child``."""
    for line in sys.stdin:
        yield json.loads(line)


def reply(document: dict[str, Any]) -> None:
    """The answer to a question."""
    print(json.dumps(document), flush=True)
