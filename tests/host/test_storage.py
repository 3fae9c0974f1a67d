"""What role `storage` promises of any converged host."""

from __future__ import annotations

import re
import time

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

SCORE = 2.5
DATA = "/var/lib/hedgerow"
USERS_OF_DATA = (
    "hedgerow-server.service",
    "hedgerow-exporter.service",
    "hedgerow-agent.service",
    "hedgerow-deadline.timer",
    "prometheus-node-exporter.service",
)


def journal_mode(host) -> str:
    """What the inventory asks for, or the role's default; `molecule/storage` never says `volatile`."""
    asked = host.var("storage_journal")
    return asked or ("ram_first" if host.var("storage") == "sd" else "persistent")


def settings(host, name: str) -> dict[str, str]:
    """The settings of a systemd daemon as its own drop-ins leave them: the last of each counts."""
    return dict(re.findall(r"^(\w+)=(.*)$", host.root(f"systemd-analyze cat-config {name}"), re.MULTILINE))


def on_disk(host) -> str:
    """Times and sizes of the saved journal's files."""
    return host.root("find /var/log/journal -type f -printf '%p %T@ %C@ %b\\n' | sort")


def saves(host) -> str:
    return host.root("systemctl show -p InvocationID --value hedgerow-journal-save.service")


def saved(host, text: str) -> bool:
    return text in host.root("journalctl --directory=/var/log/journal --identifier=hedgerow-test --output=cat")


def log(host, text: str, *, priority: str = "info", lines: int = 1) -> None:
    sender = f"systemd-cat --identifier=hedgerow-test --priority={priority}"
    host.root(f"for i in $(seq {lines}); do echo '{text}'; done | {sender}")


def eventually(check, *, within_s: float = 120.0) -> bool:
    deadline = time.monotonic() + within_s
    while not check():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


# -- journal ---------------------------------------------------------------


def test_f32_the_journal_has_a_cap_and_outlives_a_reboot(host):
    if journal_mode(host) == "volatile":
        pytest.skip("this host's inventory asks for a journal that is lost at every reboot")
    found = settings(host, "systemd/journald.conf")
    assert found["Storage"] == "persistent", "Raspberry Pi OS's own drop-in says volatile; ours comes later"
    assert re.fullmatch(r"\d+M", found["SystemMaxUse"])
    assert re.fullmatch(r"\d+M", found["RuntimeMaxUse"])
    assert host.root("find /var/log/journal -name '*.journal'"), "and there is one on disk"


def test_the_journal_stays_within_its_cap(host):
    cap_mb = int(settings(host, "systemd/journald.conf")["SystemMaxUse"].rstrip("M"))
    assert int(host.root("du -sm /var/log/journal 2>/dev/null || echo 0").split()[0]) <= cap_mb


def test_f15_a_journal_in_memory_writes_nothing_to_the_card_between_saves(host):
    if journal_mode(host) != "ram_first":
        pytest.skip("this host does not keep its journal in memory")
    for _ in range(3):
        before, invocation = on_disk(host), saves(host)
        log(host, "between two saves", lines=300)
        host.root("journalctl --sync")
        after, same_save = on_disk(host), invocation == saves(host)
        if same_save:
            break
    assert same_save, "a save came between, three times on end"
    assert before == after
    assert "between two saves" in host.root("journalctl --identifier=hedgerow-test --output=cat --lines=1")


def test_f32_a_save_has_everything(host):
    if journal_mode(host) != "ram_first":
        pytest.skip("this host does not keep its journal in memory")
    text = f"to be saved at {time.time()}"
    log(host, text)
    host.root("systemctl start hedgerow-journal-save.service")
    assert saved(host, text)


def test_f32_a_critical_message_is_saved_at_once(host):
    if journal_mode(host) != "ram_first":
        pytest.skip("this host does not keep its journal in memory")
    text = f"critical at {time.time()}"
    log(host, f"just before {text}")
    log(host, text, priority="crit")
    # A save may have to wait until the one before is 10 s old.
    assert eventually(lambda: saved(host, text)), "critical messages wait for the timer"
    assert saved(host, f"just before {text}"), "what led to it is lost"


def test_units_of_the_journal_run_and_are_in_a_sandbox(host):
    if journal_mode(host) != "ram_first":
        pytest.skip("this host does not keep its journal in memory")
    for unit in ("hedgerow-journal-ram.service", "hedgerow-journal-save.timer", "hedgerow-journal-critical.service"):
        assert host.service(unit).is_running, unit
        assert host.service(unit).is_enabled, unit
    for name in ("ram", "save", "critical"):
        said = host.root(f"systemd-analyze security --no-pager hedgerow-journal-{name}.service")
        assert float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", said)[1]) <= SCORE, name


# -- card ------------------------------------------------------------------


def test_f15_root_is_writable_and_ext4_has_noted_no_error(host):
    assert "rw" in host.root("findmnt --noheadings --output OPTIONS /").strip().split(",")
    host.not_in_a_container("its filesystems are its machine's")
    counts = host.root("cat /sys/fs/ext4/*/errors_count").split()
    assert set(counts) == {"0"}


def test_f40_the_boot_partition_has_room_for_the_next_kernel(host):
    host.not_in_a_container("/boot/firmware is a folder there")
    assert int(host.root("df --output=avail -BM /boot/firmware | tail -1").strip().rstrip("M")) >= 64


def test_tmp_is_memory(host):
    assert host.root("findmnt --noheadings --output FSTYPE /tmp").strip() == "tmpfs"


def test_swap_never_lies_on_a_card(host):
    host.not_in_a_container("it has its machine's swap")
    if host.var("storage_swap") == "unmanaged":
        pytest.skip("this host's inventory keeps swap as it is")
    swaps = host.root("tail -n +2 /proc/swaps").split("\n")[:-1]
    assert [line.split()[0] for line in swaps] == ["/dev/zram0"]
    assert host.root("cat /sys/block/zram0/backing_dev").strip() == "none"


# -- data partition --------------------------------------------------------


def has_data(host) -> bool:
    return host.var("storage_data_device", "none") != "none"


def test_the_data_partition_is_what_the_inventory_says(host):
    mounted = host.as_root(f"findmnt --noheadings --output SOURCE,FSTYPE,OPTIONS --mountpoint {DATA}")
    if not has_data(host):
        assert mounted.rc != 0
        return
    source, kind, options = mounted.stdout.split()
    assert kind == "ext4"
    assert "noatime" in options.split(",")
    encrypted = bool(host.var("storage_data_encrypted"))
    assert source.startswith("/dev/mapper/hedgerow_data") == encrypted


def test_f15_without_its_disk_nothing_can_be_written_to_the_card_instead(host):
    if not has_data(host):
        pytest.skip("this host has no data partition")
    # A second view of the root filesystem, in which nothing is mounted on the folder.
    flags = host.root(f"unshare --mount sh -c 'mount --bind / /mnt && lsattr -d /mnt{DATA}'")
    assert "i" in flags.split()[0]
    for unit in USERS_OF_DATA:
        if host.service(unit).exists:
            assert DATA in host.root(f"systemctl show -p RequiresMountsFor --value {unit}")


def test_an_encrypted_partition_opens_by_the_tpm(host):
    if not host.var("storage_data_encrypted"):
        pytest.skip("this host's data is not encrypted")
    slots = host.root(f"systemd-cryptenroll {host.var('storage_data_device')}")
    assert re.search(r"^\s*\d+\s+tpm2$", slots, re.MULTILINE)
    assert re.search(r"^\s*\d+\s+password$", slots, re.MULTILINE), "the recovery key"
    assert host.root("stat -c '%a %U' /etc/crypttab").split() == ["600", "root"]
