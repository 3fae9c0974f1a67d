"""Who lives in a podman environment, told from crun's records and from processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.emulator import remains

# proc_pid_stat(5): field 22, counted after the name in brackets.
_START = 19


@pytest.fixture
def living() -> Iterator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    (tmp_path / "podman").mkdir()
    return tmp_path / "podman"


def started(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[_START])


def record(run: Path, pid: int, start: int) -> None:
    """As crun 1.8 writes it below its state folder, as far as it is read."""
    folder = run / "crun" / f"{pid}-{start}"
    folder.mkdir(parents=True)
    (folder / "status").write_text(json.dumps({"pid": pid, "process-start-time": start, "owner": "root"}))


def test_an_environment_that_waits_for_its_first_container_is_not_deserted(storage: Path, tmp_path: Path) -> None:
    assert not remains.is_deserted(storage, tmp_path / "run")


def test_one_whose_storage_is_gone_is_deserted(tmp_path: Path) -> None:
    assert remains.is_deserted(tmp_path / "never", tmp_path / "run")


def test_one_living_container_keeps_it(storage: Path, tmp_path: Path, living: int) -> None:
    record(tmp_path / "run", living, started(living))
    record(tmp_path / "run", 2**22 + 1, 1)  # beyond any pid_max
    assert not remains.is_deserted(storage, tmp_path / "run")


def test_a_process_that_only_has_the_containers_number_does_not(storage: Path, tmp_path: Path, living: int) -> None:
    record(tmp_path / "run", living, started(living) - 1)
    assert remains.is_deserted(storage, tmp_path / "run")


def test_a_container_that_nobody_has_waited_for_yet_is_dead(storage: Path, tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        record(tmp_path / "run", process.pid, started(process.pid))
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert remains.is_deserted(storage, tmp_path / "run")


def test_a_conmon_of_this_storage_keeps_it_and_is_among_those_to_end(storage: Path, tmp_path: Path) -> None:
    record(tmp_path / "run", 2**22 + 1, 1)
    # conmon is told podman's clean-up, --root and all; between two boots of a container it is all that lives.
    name = "import pathlib; pathlib.Path('/proc/self/comm').write_text('conmon'); print(flush=True); input()"
    pipe = subprocess.PIPE
    for root, keeps in ((storage / "storage", True), (tmp_path / "another" / "storage", False)):
        command = [sys.executable, "-c", name, "--exit-command-arg", "--root", "--exit-command-arg", str(root)]
        with subprocess.Popen(command, stdin=pipe, stdout=pipe) as conmon:
            assert conmon.stdout is not None
            conmon.stdout.readline()
            assert remains.is_deserted(storage, tmp_path / "run") is not keeps
            assert (conmon.pid in remains.to_end(storage, tmp_path / "run")) is keeps
            conmon.kill()
