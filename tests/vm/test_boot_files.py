"""What a task wrote on the boot partition is on the card when the task is done: the plug is pulled right behind it.

FAT has no journal, and keeps a file's place and size with its name: a name that was replaced a moment ago and read by
firmware as an empty `cmdline.txt` leaves a board that boots no more.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from hedgerow.device import boot_trial, files

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

BOOT, PROBES = "/boot/firmware", "/run/hedgerow-probe"


def python(vm, code: str) -> None:
    vm.root(f"python3 -I -B -c {json.dumps(f'import sys; sys.path.insert(0, {PROBES!r}); {code}')}")


@pytest.fixture
def sent(vm):
    vm.root(f"mkdir -p {PROBES}")
    for module in (files, boot_trial):
        source = base64.b64encode(Path(module.__file__).read_bytes()).decode()
        vm.root(f"echo {source} | base64 -d >{PROBES}/{module.__name__.rpartition('.')[2]}.py")
    yield vm
    vm.root(f"rm -f {BOOT}/probe-files.txt {BOOT}/probe-trial.txt")


def test_a_replaced_file_is_whole_after_a_power_cut(sent) -> None:
    def replace(text: str) -> None:
        content = base64.b64encode(text.encode()).decode()
        entry = f"dict(kind='file', path='{BOOT}/probe-files.txt', content='{content}')"
        python(sent, f"import files; files.place([{entry}])")
        put = f"put(pathlib.Path('{BOOT}/probe-trial.txt'), '{text}')"
        python(sent, f"import boot_trial, pathlib; boot_trial.Device().{put}")

    replace("the old one" * 300)  # two clusters, so that what is freed is told from what is used
    sent.root("sync")
    replace("the new one")
    sent.cut()
    sent.give()
    for name in ("probe-files.txt", "probe-trial.txt"):
        assert sent.root(f"cat {BOOT}/{name}") == "the new one"
