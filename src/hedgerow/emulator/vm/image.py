"""The card image of virtual machines: Debian trixie for arm64 with its kernel, as on a board.

Two caches below ``var/cache/vm``, each named by the hash of what went into it:

- ``<hash>.tar``: Debian's part as mmdebstrap made it, foreign architecture and all. Minutes.
- ``<hash>/``: the card with the guest files, first user and packages of the emulated archive, and beside it the kernel
  and initramfs that every boot starts, whichever stand-in of a kernel the boot partition names. A minute or two.

Each is built under another name and renamed when it is whole; an interrupted build leaves nothing that counts. No
mirror is named here: mmdebstrap takes its default.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hedgerow.emulator import image
from hedgerow.emulator.archive import repository, suites
from hedgerow.emulator.vm import card, checks
from hedgerow.errors import MachineError

ARCHITECTURE = "arm64"
GUEST = image.GUEST.parent / "vm"
# 16 KiB pages, as Raspberry Pi OS's own kernel for this board has (facts §2.4).
KERNEL = "linux-image-arm64-16k"
PACKAGES = (*image.PACKAGES, "dosfstools", "e2fsprogs", "initramfs-tools", KERNEL, "qemu-guest-agent", "zstd")
# Downloaded beside the containers' archives: what roles install only where the kernel is the host's own.
ARCHIVES = (
    *image.ARCHIVES,
    "apparmor-utils",
    "auditd",
    "cryptsetup-bin",
    "systemd-cryptsetup",
    "systemd-zram-generator",
)

# Of the containers' guest files: what keeps a container from its machine, which a virtual machine cannot reach, and
# what leaves a reboot's argument on a file system that here is read-only by then.
NOT_SHARED = (
    "etc/systemd/system.conf.d/10-emulated.conf",
    "etc/systemd/system/chrony.service.d/10-emulated.conf",
    "usr/lib/systemd/system-shutdown/emulated-pi",
)
# Nothing may fetch packages behind a test's back; systemd-firstboot would ask questions on the console.
MASKED_UNITS = ("apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "systemd-firstboot.service")

_MODES = {"etc/sudoers.d/010_pi-nopasswd": 0o440}
_INITRAMFS = "etc/initramfs-tools"
_RESOLV_CONF = "etc/resolv.conf"
# A build's scratch folder and the finished card; sparse files, so what is asked for is more than what is used.
NEEDED_MB = 5000

_SETUP = """\
set -eu
update-ca-certificates >/dev/null
# As the imager leaves it: first user, no password, sudo without one (images before April 2026).
groupadd --force --system video
useradd --create-home --shell /bin/bash --uid 1000 --groups adm,sudo,video pi
rm -f /etc/ssh/ssh_host_* /etc/resolv.conf.dpkg-*
systemctl --quiet enable ssh.service emulated-pi.service systemd-networkd.service
ln -s /run/emulated-pi/board /hardware
raspi="-o Dir::Etc::SourceList=/etc/apt/sources.list.d/raspi.sources -o Dir::Etc::SourceParts=/dev/null"
apt-get --quiet=2 $raspi -o APT::Get::List-Cleanup=0 update
apt-get --yes --quiet=2 --no-install-recommends install {packages} >/dev/null
apt-get --yes --quiet=2 --download-only --no-install-recommends install {archives}
: >/etc/machine-id
rm -f /var/lib/dbus/machine-id
"""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Card:
    """What a machine is made with: the card that its own is a copy-on-write layer of, and what boots it."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "card.qcow2"

    @property
    def kernel(self) -> Path:
        return self.folder / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"


class Cards:
    """The card of every virtual machine, in ``folder`` (``var/cache/vm``)."""

    def __init__(self, folder: Path, say: Say) -> None:
        self._folder = folder
        self._say = say
        self._overlay = overlay()
        self._options = image.recipe().apt_options
        self._base = _digest(
            {
                "architecture": ARCHITECTURE,
                "packages": PACKAGES,
                "suite": image.SUITE,
                "apt": self._options,
                "initramfs": _hashes(self._initramfs()),
            }
        )
        self.digest = _digest(
            {
                "base": self._base,
                "overlay": _hashes(self._overlay),
                "archives": ARCHIVES,
                "masked": MASKED_UNITS,
                "setup": _SETUP,
                "card": [card.BOOT_START, card.BOOT_SIZE, card.SIZE, card.DISK_ID],
                "archive": repository.digest(),
                "installed": suites.BASE,
            }
        )
        self.card = Card(folder / self.digest)

    def ensure(self, in_use: set[Path]) -> bool:
        """Make the card exist; True if it was missing. Others go then, except the folders ``in_use``."""
        if self.card.folder.is_dir():
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        checks.require_space(self._folder, NEEDED_MB)
        with self._lock():
            if not self.card.folder.is_dir():
                self._build()
            for entry in self._folder.iterdir():
                if entry.suffix == ".tar" and entry.stem != self._base:
                    entry.unlink()
                elif entry.is_dir() and entry not in in_use | {self.card.folder}:
                    shutil.rmtree(entry)
        return True

    def _initramfs(self) -> dict[str, tuple[bytes, bool]]:
        return {path: entry for path, entry in self._overlay.items() if path.startswith(_INITRAMFS)}

    def _debian(self) -> Path:
        """The cached archive of mmdebstrap's root file system, made if there is none."""
        archive = self._folder / f"{self._base}.tar"
        if archive.is_file():
            return archive
        partial = archive.with_suffix(".partial.tar")
        self._say(f"building Debian {image.SUITE} for {ARCHITECTURE} with mmdebstrap (5-10 minutes, once)")
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            before = Path(temporary) / "before.tar"
            before.write_bytes(_tar(self._initramfs()))
            command = [
                "mmdebstrap",
                f"--architectures={ARCHITECTURE}",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                "--skip=cleanup/apt/lists,cleanup/apt/cache",
                *(f'--aptopt={key} "{value}"' for key, value in sorted(self._options.items())),
                # Before the kernel: its initramfs is made once, with these.
                f"--essential-hook=tar-in {shlex.quote(str(before))} /",
                image.SUITE,
                str(partial),
            ]
            done = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
        if done.returncode != 0:
            partial.unlink(missing_ok=True)
            raise MachineError(
                f"mmdebstrap failed with exit code {done.returncode}; its last lines above say why",
                where=f"virtual machine image {self._base}",
                next_step="hedgerow emulate check --vm, and see that `apt-get update` works on this machine",
            )
        partial.replace(archive)
        return archive

    def _build(self) -> None:
        ensure_foreign_programs(self._say)
        archive = self._debian()
        self._say("making a Raspberry Pi's card of it: files, archive, kernels, partitions (a minute or two, once)")
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            root, made = Path(temporary) / "root", Card(Path(temporary) / "card")
            root.mkdir()
            made.folder.mkdir(mode=0o755)
            _run("tar", "--extract", f"--directory={root}", f"--file={archive}", "--xattrs", "--xattrs-include=*")
            _take_kernel(root / "boot", made)
            self._furnish(root)
            raw = Path(temporary) / "card.img"
            _lay_out(raw, root)
            _run("qemu-img", "convert", "-O", "qcow2", raw, made.disk)
            made.folder.replace(self.card.folder)

    def _furnish(self, root: Path) -> None:
        """Guest files, first user, packages and downloads, in the extracted root."""
        files = {path: entry for path, entry in self._overlay.items() if path != _RESOLV_CONF}
        archive = root / "overlay.tar"
        archive.write_bytes(_tar(files, masked=MASKED_UNITS))
        _run("tar", "--extract", f"--directory={root}", f"--file={archive}", "--no-overwrite-dir")
        archive.unlink()
        with tempfile.TemporaryDirectory(dir=self._folder) as temporary:
            repository.write(Path(temporary), ARCHITECTURE)
            _run("cp", "-r", "--no-preserve=ownership", f"{temporary}/.", root)
        resolv_conf = root / _RESOLV_CONF
        resolv_conf.unlink(missing_ok=True)
        shutil.copyfile("/etc/resolv.conf", resolv_conf)
        # Its own mounts, gone with the process; `proc` is what apt and systemctl ask.
        inside = 'mount -t proc proc "$1/proc" && exec chroot "$1" sh -c "$2"'
        setup = _SETUP.format(packages=" ".join(suites.BASE), archives=" ".join(ARCHIVES))
        _run("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", inside, "sh", root, setup)
        resolv_conf.write_bytes(self._overlay[_RESOLV_CONF][0])

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        """One builder at a time."""
        with (self._folder / "build.lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def overlay() -> dict[str, tuple[bytes, bool]]:
    """Guest files by target path: the containers' but what is theirs alone, and those of ``guest/vm`` over them."""
    files = {path: entry for path, entry in image.recipe().overlay.items() if path not in NOT_SHARED}
    for file in sorted(GUEST.rglob("*")):
        if file.is_file():
            files[str(file.relative_to(GUEST))] = (file.read_bytes(), bool(file.stat().st_mode & 0o100))
    return files


def ensure_foreign_programs(say: Say) -> None:
    """Let this machine's kernel start arm64 programs through qemu-user, as the package does at boot."""
    registered = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
    if os.uname().machine == "aarch64" or registered.exists():
        return
    if not registered.with_name("register").exists():
        _run("mount", "-t", "binfmt_misc", "binfmt_misc", registered.parent)
    _run("update-binfmts", "--enable", "qemu-aarch64")
    say("told this machine's kernel to run arm64 programs with qemu-user (binfmt_misc)")


def _take_kernel(boot: Path, made: Card) -> None:
    """Copy Debian's kernel out: what the machine starts, whatever the packages in it say of kernels."""
    for pattern, target in (("vmlinuz-*", made.kernel), ("initrd.img-*", made.initramfs)):
        found = sorted(boot.glob(pattern))
        if len(found) != 1:
            raise MachineError(f"the image has {len(found)} files {pattern} in /boot, not one", where=KERNEL)
        shutil.copyfile(found[0], target)


def _lay_out(raw: Path, root: Path) -> None:
    """Partition table, FAT with what /boot/firmware has, ext4 with the rest, in the sparse file ``raw``."""
    with raw.open("wb") as disk:
        disk.write(card.partition_table())
        disk.truncate(card.SIZE)
    partition = f"{raw}@@{card.BOOT_START}"
    _run("mformat", "-i", partition, "-F", "-T", str(card.BOOT_SIZE // card.SECTOR), "-v", "bootfs", "::")
    files = sorted((root / "boot/firmware").iterdir())
    _run("mcopy", "-i", partition, "-s", *files, "::")
    for file in files:
        file.unlink()
    blocks = (card.SIZE - card.ROOT_START) // 4096
    options = f"offset={card.ROOT_START},lazy_itable_init=1,lazy_journal_init=1"
    _run("mke2fs", "-q", "-t", "ext4", "-L", "rootfs", "-b", "4096", "-E", options, "-d", root, raw, str(blocks))


def _tar(files: dict[str, tuple[bytes, bool]], *, masked: tuple[str, ...] = ()) -> bytes:
    """Files owned by root; parent folders come with the root file system or are made."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, (data, program) in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(data)
            info.mode = _MODES.get(path, 0o755 if program else 0o644)
            archive.addfile(info, io.BytesIO(data))
        for unit in masked:
            info = tarfile.TarInfo(f"etc/systemd/system/{unit}")
            info.type, info.linkname = tarfile.SYMTYPE, "/dev/null"
            archive.addfile(info)
    return buffer.getvalue()


def _hashes(files: dict[str, tuple[bytes, bool]]) -> dict[str, list[object]]:
    return {path: [hashlib.sha256(data).hexdigest(), program] for path, (data, program) in sorted(files.items())}


def _digest(parts: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _run(*argv: str | Path) -> None:
    done = subprocess.run(
        [*map(str, argv)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **card.ENVIRONMENT, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
    )
    if done.returncode != 0:
        words = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise MachineError(
            f"{argv[0]} failed: {words}", where="virtual machine image", next_step="hedgerow emulate check --vm"
        )
