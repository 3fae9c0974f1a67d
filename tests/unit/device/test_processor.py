from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from hedgerow.device import processor
from hedgerow.device.processor import ProcessorState, parse

# A Raspberry Pi 5 of four cores, Linux 6.12; the cores' own lines follow in the file.
PI5 = "cpu  101200 800 35000 2400000 9000 0 1100 0 0 0\ncpu0 25300 200 8700 600000 2200 0 900 0 0 0\n"
GUEST = "cpu  2000 0 1000 6000 0 0 0 1000 500 0\n"


def test_user_time_of_others_is_told_from_the_servers_own() -> None:
    assert parse(PI5, own_s=400.0, ticks_per_s=100) == ProcessorState(total_s=25471.0, others_s=620.0)


def test_time_that_a_hypervisor_took_is_others_and_a_guests_is_not_counted_twice() -> None:
    assert parse(GUEST, own_s=0.0, ticks_per_s=100) == ProcessorState(total_s=100.0, others_s=30.0)


def test_ones_own_time_is_never_more_than_all() -> None:
    assert parse(GUEST, own_s=30.01, ticks_per_s=100) == ProcessorState(total_s=100.0, others_s=0.0)


@pytest.mark.parametrize("text", ["", "\n", "cpu 1 2 3\n", "cpu0 1 2 3 4 5 6 7 8\n", "cpu  a b c d e f g h\n"])
def test_another_form_is_unknown(text: str) -> None:
    assert parse(text, own_s=0, ticks_per_s=100) is None


def test_a_kernel_that_does_not_say(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processor, "STAT", tmp_path / "stat")
    assert processor.read() is None


def test_what_this_process_does_is_not_others() -> None:
    """Half a second of our own work: others cannot have got more than what the clock leaves beside it."""
    before = processor.read()
    begun = time.thread_time()
    while time.thread_time() - begun < 0.5:
        pass
    after = processor.read()
    assert before is not None
    assert after is not None
    assert after.total_s - before.total_s >= 0.45
    assert after.others_s - before.others_s <= after.total_s - before.total_s - 0.4


def test_what_another_process_does_is() -> None:
    """It is not waited for before the second count: what this process started and has ended is its own.

    Long sums between two looks at the clock: each look is a call of the kernel, and only user mode counts.
    """
    work = "while os.times().user < 0.5: sum(range(100_000))"
    spin = f"import os, sys\n{work}\nprint(flush=True)\nsys.stdin.read()"
    before = processor.read()
    with subprocess.Popen([sys.executable, "-c", spin], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        after = processor.read()
        other.communicate()
    assert before is not None
    assert after is not None
    assert after.others_s - before.others_s >= 0.3
