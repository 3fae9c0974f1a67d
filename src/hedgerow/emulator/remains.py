"""Who still runs in a podman environment, and whether anybody does.

A CI runner that ends a job, or an operator in a hurry, kills every process and leaves the rest: podman's belief that
its containers run, their network namespaces, and a bridge that keeps the fleet's addresses from everybody else.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

_PROC = Path("/proc")


def is_deserted(storage: Path, run: Path) -> bool:
    """True if the environment at ``run`` had containers, or has lost its storage, and no process of it lives."""
    records = [*(run / "crun").glob("*/status")]
    if not records and storage.is_dir():
        return False
    return not any(_lives(record) for record in records) and not any(attendants(storage))


def attendants(storage: Path) -> Iterator[tuple[str, Path]]:
    """Program and ``/proc`` folder of each conmon, and of each podman that a conmon called at its container's end."""
    marker = str(storage / "storage").encode()
    for program, process in _processes({"conmon", "podman"}):
        try:
            if marker in (process / "cmdline").read_bytes():
                yield program, process
        except OSError:  # it ended meanwhile
            continue


def to_end(storage: Path, run: Path) -> Iterator[int]:
    """Pids of what podman can no longer see once the namespace is lost.

    These are containers (children of conmon) and the name server, which would go on answering with old addresses.
    """
    for program, process in attendants(storage):
        if program == "conmon":
            try:
                children = (process / "task" / process.name / "children").read_text(encoding="ascii").split()
            except OSError:
                continue
            yield from map(int, [*children, process.name])
    for _, process in _processes({"aardvark-dns"}):
        try:
            if f"{run}/containers" in (process / "mountinfo").read_text(encoding="utf-8"):
                yield int(process.name)
        except OSError:
            continue


def _processes(programs: set[str]) -> Iterator[tuple[str, Path]]:
    for process in _PROC.glob("[0-9]*"):
        try:
            program = (process / "comm").read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        if program in programs:
            yield program, process


def _lives(record: Path) -> bool:
    """Whether the first process of the container that crun wrote ``record`` of still runs (crun(1), ``state``)."""
    try:
        told = json.loads(record.read_text(encoding="utf-8"))
        stat = (_PROC / str(told["pid"]) / "stat").read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return False
    # proc_pid_stat(5): the name may have spaces and brackets; the start time is field 22, the state field 3.
    fields = stat.rpartition(")")[2].split()
    return int(fields[19]) == told["process-start-time"] and fields[0] != "Z"
