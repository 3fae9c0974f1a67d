"""Role `storage` with real disks, a kernel of its own and a TPM: swap, the data partition, LUKS, cuts and losses.

    HEDGEROW_TEST_INVENTORY=INV pytest -m fleet tests/vm/test_storage.py

INV is a fleet with a virtual machine that is switched on, has a second disk (`virtual_machine_data_disk_mb`) and a TPM
(`virtual_machine_tpm`), and has had its first contact. The second disk is wiped: first it becomes a plain data
partition, then an encrypted one; what is below /var/lib/hedgerow moves there and back.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgerow import inventory as inventories
from hedgerow import paths, recovery_key, ssh
from hedgerow.errors import NetworkError
from hedgerow.inventory import Host, Inventory

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DISK = "/dev/disk/by-id/virtio-data"
DATA = "/var/lib/hedgerow"
FOLDER = f"{DATA}/of-this-test"
MARK = f"{FOLDER}/mark"
UNITS = (
    "hedgerow-server.service",
    "hedgerow-exporter.service",
    "hedgerow-agent.service",
    "hedgerow-deadline.timer",
    "prometheus-node-exporter.service",
)
BOOT_S = 600  # software emulation beside other work


class Machine:
    """One virtual machine: by SSH as an operator, and its plug."""

    def __init__(self, fleet: Inventory, host: Host) -> None:
        self.fleet, self.host = fleet, host
        self.folder = paths.var_dir() / "emulator" / fleet.fleet / host.name

    def try_root(self, command: str) -> subprocess.CompletedProcess[str]:
        quoted = command.replace("'", "'\\''")
        return ssh.run(self.fleet, self.host, f"sudo sh -c '{quoted}'", timeout_s=180)

    def root(self, command: str) -> str:
        done = self.try_root(command)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout

    def answers(self) -> bool:
        try:
            return ssh.run(self.fleet, self.host, "true", timeout_s=20).returncode == 0
        except NetworkError:
            return False

    def power(self, state: str) -> None:
        command = [tool("hedgerow"), "emulate", "power", "-i", str(self.fleet.path), self.host.name, state]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=900)
        # Units that wait for their data, or for a time server that nobody is, fail as part of a boot.
        assert done.returncode == 0 or "booted, but these units failed" in done.stderr, done.stderr

    def cycle(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Pull the plug, do something to the board, put it in again."""
        self.power("off")
        meanwhile()
        self.power("on")
        wait(self.answers, within_s=BOOT_S)

    def start(self, *options: str, **variables: object) -> subprocess.Popen[str]:
        command = [tool("ansible-playbook"), "-i", str(self.fleet.path), "molecule/storage/converge.yml", "--limit",
                   self.host.name, "-e", json.dumps(variables), *options]  # fmt: skip
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def converge(self, *options: str, **variables: object) -> str:
        said, code = self.attempt(*options, **variables)
        assert code == 0, said
        return said

    def attempt(self, *options: str, **variables: object) -> tuple[str, int]:
        running = self.start(*options, **variables)
        said, _ = running.communicate(timeout=900)
        return said, running.returncode

    @property
    def word(self) -> str:
        return f"{self.host.name}:{DISK}"


def tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def wait(condition: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    if path is None:
        pytest.skip("HEDGEROW_TEST_INVENTORY names no fleet")
    fleet = inventories.load(Path(path))
    found = [
        host
        for host in fleet.hosts.values()
        if host.vars.get("virtual_machine_tpm") and host.vars.get("virtual_machine_data_disk_mb")
    ]
    if not found:
        pytest.skip("no host of this fleet is a virtual machine with a second disk and a TPM")
    machine = Machine(fleet, found[0])
    if not machine.answers():
        pytest.skip(f"{machine.host.name} is switched off")
    give_back(machine)
    leave_a_mark(machine)
    yield machine
    give_back(machine)
    machine.root(f"rm -rf {FOLDER}")
    machine.converge()


def give_back(machine: Machine) -> None:
    """Everything on the card again and the disk as new: how each part begins, and how the host is left."""
    machine.root(
        f"""
        systemctl stop {" ".join(UNITS)} 2>/dev/null
        if mountpoint -q {DATA}; then
            rm -rf {DATA}.back && cp -a {DATA} {DATA}.back && rm -rf {DATA}.back/lost+found || exit 1
            systemctl disable --now var-lib-hedgerow.mount; umount {DATA}; chattr -i {DATA}
            rm -rf {DATA} && mv {DATA}.back {DATA} || exit 1
        fi
        chattr -i {DATA} 2>/dev/null; rm -rf {DATA}.card
        systemctl stop systemd-cryptsetup@hedgerow_data; cryptsetup close hedgerow_data
        rm -f /etc/systemd/system/var-lib-hedgerow.mount /etc/crypttab
        rm -f /etc/systemd/system/*.d/60-hedgerow-storage.conf /etc/udev/rules.d/99-gone.rules
        wipefs --quiet --all {DISK}; systemctl daemon-reload; udevadm settle
        for unit in {" ".join(UNITS)}; do systemctl is-enabled --quiet $unit && systemctl start $unit; done
        sync"""
    )


def leave_a_mark(machine: Machine) -> None:
    machine.root(
        f"mkdir -p {FOLDER}; head -c 8000000 /dev/urandom > {MARK}; sha256sum {MARK} > /root/mark.sha256; sync"
    )


def is_whole(machine: Machine) -> bool:
    return machine.try_root("sha256sum --check --status /root/mark.sha256").returncode == 0


def mounted(machine: Machine) -> str:
    return machine.try_root(f"findmnt --noheadings --output SOURCE --mountpoint {DATA}").stdout.strip()


# -- swap and journal ------------------------------------------------------


def test_swap_is_compressed_memory_after_a_boot(machine: Machine) -> None:
    machine.converge()
    machine.cycle()
    assert machine.root("tail -n +2 /proc/swaps | cut -d' ' -f1").split() == ["/dev/zram0"]
    assert machine.root("cat /sys/block/zram0/backing_dev").strip() == "none"
    half = int(machine.root("awk '/MemTotal/ {print $2}' /proc/meminfo")) // 1024 // 2
    size = int(machine.root("cat /sys/block/zram0/disksize")) // 2**20
    assert abs(size - min(half, 2048)) <= 16


def test_swap_is_used_and_writes_nothing_to_the_card(machine: Machine) -> None:
    """A process gives 100 MB away (MADV_PAGEOUT: memory limits are off on a Pi until asked for)."""
    machine.root("sync")
    swapped, written = _swapped_mb(machine), _sectors(machine)
    machine.root(
        'python3 -c "import mmap; m = mmap.mmap(-1, 100 * 2**20); '
        'm.write(bytes(range(256)) * (100 * 2**12)); m.madvise(21); assert m[255] == 255"'
    )
    assert _swapped_mb(machine) - swapped > 40
    assert (_sectors(machine) - written) * 512 < 10 * 2**20


def _swapped_mb(machine: Machine) -> int:
    pages = int(machine.root("grep ^pswpout /proc/vmstat").split()[1])
    return pages * int(machine.root("getconf PAGESIZE")) // 2**20


def _sectors(machine: Machine) -> int:
    root = machine.root("lsblk --noheadings --output PKNAME $(findmnt -no SOURCE /)").strip()
    return int(machine.root(f"cat /sys/block/{root}/stat").split()[6])


def test_f15_logging_in_memory_writes_a_fraction_of_logging_to_the_card(machine: Machine) -> None:
    """Counted by the disk, over one of the kernel's half minutes: the same lines, kept in memory and written."""
    written = {}
    for mode in ("persistent", "ram_first"):
        machine.converge(storage_journal=mode, storage_journal_save_s=3600)
        machine.root("sync")
        before = _sectors(machine)
        machine.root("for i in $(seq 40); do seq 50 | systemd-cat --identifier=hedgerow-test; sleep 1; done; sync")
        written[mode] = (_sectors(machine) - before) // 2
    print(f"KiB written while 2000 lines were logged in 40 s: {written}")
    assert written["ram_first"] < written["persistent"] / 4


def test_f32_after_a_power_cut_all_until_the_last_save_is_there(machine: Machine) -> None:
    machine.root("echo saved-$$ > /root/saved; systemd-cat --identifier=hedgerow-test cat /root/saved")
    machine.root("systemctl start hedgerow-journal-save.service")
    machine.cycle()
    assert machine.root("cat /root/saved") in machine.root("journalctl --identifier=hedgerow-test --output=cat")


# -- data partition --------------------------------------------------------


def test_nothing_is_formatted_without_the_word(machine: Machine) -> None:
    said, code = machine.attempt(storage_data_device=DISK)
    assert code != 0
    assert f"-e storage_data_format={machine.word}" in said
    assert machine.root(f"wipefs --no-act {DISK}") == ""


def test_the_disk_below_root_is_refused(machine: Machine) -> None:
    root = machine.root("findmnt -no SOURCE / | xargs -I{} lsblk -no PKNAME {}").strip()
    links = machine.root(f"find /dev/disk/by-id /dev/disk/by-path -lname '*/{root}'").split()
    said, code = machine.attempt(storage_data_device=links[0], storage_data_format=f"{machine.host.name}:{links[0]}")
    assert code != 0
    assert "which this host runs from" in " ".join(said.split())


def test_a_cut_while_the_content_moves_leaves_it_whole(machine: Machine) -> None:
    machine.root(f"head -c 200000000 /dev/urandom > {FOLDER}/large; sync")
    running = machine.start(storage_data_device=DISK, storage_data_format=machine.word)
    wait(lambda: "ext4" in machine.try_root(f"blkid -p {DISK}").stdout or running.poll() is not None, within_s=900)
    time.sleep(random.uniform(0, 5))
    machine.power("off")
    running.communicate(timeout=300)
    machine.power("on")
    wait(machine.answers, within_s=BOOT_S)
    if not mounted(machine):
        assert is_whole(machine) or machine.try_root(f"test -e {DATA}.card/of-this-test/large").returncode == 0
    machine.converge(storage_data_device=DISK, storage_data_format=machine.word)
    assert is_whole(machine)
    assert mounted(machine).startswith("/dev/vd")
    assert machine.try_root(f"test -e {DATA}.card").returncode != 0


def test_converging_again_changes_nothing(machine: Machine) -> None:
    assert "changed=0" in machine.converge(storage_data_device=DISK)
    assert "changed=0" in machine.converge("--check", storage_data_device=DISK)


def test_f15_without_the_disk_it_boots_and_nobody_writes_to_the_card(machine: Machine) -> None:
    """As far as systemd can tell the disk is gone: udev says that it is not ready, and gives it no name."""
    rule = 'SUBSYSTEM=="block", ENV{ID_SERIAL}=="data", ENV{SYSTEMD_READY}="0", SYMLINK-="disk/by-id/virtio-data"'
    machine.root(f"cat > /etc/udev/rules.d/99-gone.rules <<EOF\n{rule}\nEOF\nsync")
    machine.cycle()
    try:
        assert mounted(machine) == ""
        assert "Operation not permitted" in machine.try_root(f"mkdir {DATA}/of-the-card").stderr
        said, code = machine.attempt(storage_data_device=DISK)
        assert code != 0
        assert "is not there" in " ".join(said.split())
    finally:
        machine.root("rm /etc/udev/rules.d/99-gone.rules; sync")
        machine.cycle()
    assert is_whole(machine)


def test_it_is_mounted_after_a_boot_and_checked_before(machine: Machine) -> None:
    """By the boot that the test before this one ends with; a boot in software emulation takes minutes."""
    assert mounted(machine).startswith("/dev/vd")
    assert is_whole(machine)
    assert "noatime" in machine.root(f"findmnt -no OPTIONS {DATA}")
    assert "active" in machine.root("systemctl list-units --all --plain --no-legend 'systemd-fsck@*virtio*'")


# -- encryption ------------------------------------------------------------


@pytest.fixture(scope="module")
def encrypted(machine: Machine) -> Machine:
    give_back(machine)
    said = machine.converge(storage_data_device=DISK, storage_data_encrypted=True, storage_data_format=machine.word)
    assert "The recovery key is in" in said
    assert recovery_key.load(recovery_key.path(machine.fleet.fleet, machine.host.name)) not in said
    return machine


def test_the_recovery_key_is_the_operator_s_alone(encrypted: Machine) -> None:
    file = recovery_key.path(encrypted.fleet.fleet, encrypted.host.name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = file.read_text(encoding="ascii").strip()
    encrypted.root(f"printf %s {key} | cryptsetup open --test-passphrase --key-file - {DISK}")


def test_the_content_is_on_the_encrypted_disk_and_nowhere_else(encrypted: Machine) -> None:
    assert mounted(encrypted) == "/dev/mapper/hedgerow_data"
    assert is_whole(encrypted)
    assert encrypted.try_root(f"test -e {DATA}.card").returncode != 0
    assert encrypted.root(f"blkid -p -o value -s TYPE {DISK}").strip() == "crypto_LUKS"


def test_another_tpm_is_refused_and_bound_by_the_recovery_key(encrypted: Machine) -> None:
    encrypted.cycle(lambda: shutil.rmtree(encrypted.folder / "tpm"))
    assert mounted(encrypted) == "", "another TPM does not open it"
    wanted = {"storage_data_device": DISK, "storage_data_encrypted": True}
    said, code = encrypted.attempt(**wanted)
    assert code != 0
    assert "the TPM does not unlock it" in " ".join(said.split())
    assert "storage_data_rebind" in said
    encrypted.converge(**wanted, storage_data_rebind=encrypted.host.name)
    assert mounted(encrypted) == "/dev/mapper/hedgerow_data"
    slots = encrypted.root(f"systemd-cryptenroll {DISK}").split()
    assert slots.count("tpm2") == 1, "the other TPM's slot is gone"
    encrypted.cycle()


def test_it_opens_by_itself_at_boot(encrypted: Machine) -> None:
    """By the boot that the test before this one ends with."""
    assert mounted(encrypted) == "/dev/mapper/hedgerow_data"
    assert is_whole(encrypted)
    assert "changed=0" in encrypted.converge(storage_data_device=DISK, storage_data_encrypted=True)
