"""Runs one model in a process of its own and prints what it took, as JSON: ``python -m … JOB`` with a JSON job.

A process of its own, because a peak of memory belongs to a process, and because a throttle or an empty page cache
must be there before the first byte is read. The job: ``model`` (ONNX file), ``folder``, ``generates``, ``feed`` (an
.npz file) or ``messages``, ``requests``, ``max_tokens``, ``threads`` (onnxruntime-genai takes its own number).
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import Any


def main() -> None:
    job: dict[str, Any] = json.loads(sys.argv[1])
    found = _generate(job) if job["generates"] else _infer(job)
    found["peak_memory_mb"] = _peak_memory_mb()
    found["waited"] = _waited(Path("/proc/self/task"))
    print(json.dumps(found))  # noqa: T201 -- this is the output


def _infer(job: dict[str, Any]) -> dict[str, Any]:
    import numpy as np

    from hedgerow.models.validate.builds import Session

    with np.load(job["feed"], allow_pickle=False) as archive:
        feed = {name: archive[name] for name in archive.files}
    begun = time.perf_counter()
    session = Session(Path(job["model"]), threads=job["threads"])
    session.run(feed)
    loaded = time.perf_counter()
    return {"load_ms": 1000 * (loaded - begun), "latency_ms": [_timed(session, feed) for _ in range(job["requests"])]}


def _timed(session: Any, feed: dict[str, Any]) -> float:
    begun = time.perf_counter()
    session.run(feed)
    return 1000 * (time.perf_counter() - begun)


def _generate(job: dict[str, Any]) -> dict[str, Any]:
    from hedgerow.models.genai import Generator
    from hedgerow.registry.manifest import Message

    messages = [Message(each["role"], each["content"]) for each in job["messages"]]
    begun = time.perf_counter()
    generator = Generator(Path(job["folder"]))
    prompt = generator.prompt(messages)
    generator.paced(prompt, max_tokens=1)
    loaded = time.perf_counter()
    first, speeds = [], []
    for _ in range(job["requests"]):
        moments = generator.paced(prompt, max_tokens=job["max_tokens"])
        first.append(1000 * moments[0])
        if len(moments) > 1:
            speeds.append((len(moments) - 1) / (moments[-1] - moments[0]))
    return {"load_ms": 1000 * (loaded - begun), "ttft_ms": first, "tokens_per_s": speeds}


def _peak_memory_mb() -> float:
    """This process's largest resident size so far, MB of 10^6 bytes, mapped weights included (proc_pid_status(5))."""
    text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def _waited(tasks: Path) -> float:
    """Share of this process's time on a run queue that it waited there, for others to leave a processor.

    From ``schedstat`` of each thread: nanoseconds that it ran and that it waited (kernel's Documentation/scheduler/
    sched-stats.rst, "/proc/<pid>/schedstat"). 0.0 where the kernel does not count.
    """
    ran = waited = 0
    for path in tasks.glob("*/schedstat"):
        fields = path.read_text(encoding="ascii").split()
        ran += int(fields[0])
        waited += int(fields[1])
    return waited / (ran + waited) if ran + waited else 0.0


if __name__ == "__main__":
    main()
