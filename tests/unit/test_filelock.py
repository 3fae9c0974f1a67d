from __future__ import annotations

import os
import subprocess
import sys

import pytest

from hedgerow import filelock
from hedgerow.errors import DeviceError


def test_a_second_one_waits_and_then_says_who_has_it(tmp_path):
    with (
        filelock.exclusive(tmp_path / "lock", wait_s=0, work="first"),
        pytest.raises(DeviceError, match=r"another process is counting .* within 0\.2 s") as caught,
        filelock.exclusive(tmp_path / "lock", wait_s=0.2, work="counting"),
    ):
        pass
    assert f"process {os.getpid()}" in caught.value.where
    assert str(os.getpid()) in caught.value.next_step


def test_it_ends_with_its_holder_however_that_ends(tmp_path):
    code = (
        "import os, signal, sys; from pathlib import Path; from hedgerow import filelock\n"
        "with filelock.exclusive(Path(sys.argv[1]), wait_s=0, work='x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lock")], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "lock").read_text().strip().isdigit()
    with filelock.exclusive(tmp_path / "lock", wait_s=0, work="x"):
        assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
