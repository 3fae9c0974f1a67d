"""Make a disk the data partition, move ``/var/lib/hedgerow`` onto it, and open it when it is encrypted.

The standard library alone: the controller sends this file's source to hosts
(``plugins/action/hedgerow_data_partition.py``). Secrets come on standard input,
with the program; programs get them on standard input or in a file in memory, never
in their arguments.

Invariants:

- Only a disk that is provably empty is formatted: no partition, no holder, no mount, no signature that ``wipefs``
  or ``blkid`` finds. What carries our own unfinished label counts as empty: nothing of anybody's is on it yet.
- The disk that carries ``/`` is refused under whatever name.
- The content on the card stays until the copy is verified, byte for byte, and written out. A run that is cut off
  anywhere leaves it where it was or, after one rename, at ``/var/lib/hedgerow.card``; the next run goes on from there.
- A filesystem's label is ``hedgerow-new`` until all content is on it, then ``hedgerow-data``; LUKS around it likewise
  (``hedgerow-luks-new``, ``hedgerow-luks``). Labels are what says "ours" to the next run, on this board or another.
- The folder below the mount is immutable (``chattr +i``): when the disk is missing, nobody writes models or keys to
  the card instead, root neither.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path("/var/lib/hedgerow")
ASIDE = Path("/var/lib/hedgerow.card")
WORK = Path("/run/hedgerow-storage")
MAPPER = "hedgerow_data"
MAPPED = Path("/dev/mapper") / MAPPER

NEW, DONE = "hedgerow-new", "hedgerow-data"
LUKS_NEW, LUKS_DONE = "hedgerow-luks-new", "hedgerow-luks"

_TIMEOUT_S = 1800
# What serves from /var/lib/hedgerow or reads its keys there. All of them are stopped while it moves.
_UNITS = (
    "hedgerow-server.service",
    "hedgerow-exporter.service",
    "hedgerow-agent.service",
    "hedgerow-deadline.timer",
    "hedgerow-deadline.service",
    "prometheus-node-exporter.service",
    "nginx.service",
)


class PartitionError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def prepare(device: str, *, may_format: bool, encrypt: dict[str, Any] | None = None) -> dict[str, Any]:
    """Have ``device`` mounted on ``/var/lib/hedgerow`` with all content on it.

    ``may_format`` is the operator's typed word for this host and device; without it an empty disk stays empty.
    ``encrypt``: ``{"recovery_key": text, "pcrs": "7" or "", "enrol": bool}``; ``enrol`` binds the key to the TPM
    that is there now, with the recovery key as the right to do so.

    Returns ``changed`` and ``steps``, a sentence for each thing that was done.

    Raises:
        PartitionError: the disk is not ours and not empty, the root disk, missing, or cannot be opened.
    """
    steps: list[str] = []
    with _worked():
        _unmount(WORK / "new")  # of a run that was killed
        disk = _block_device(device)
        plain = _open(disk, device, encrypt, steps, may_format=may_format) if encrypt is not None else disk
        if _mounted(TARGET) == os.path.realpath(plain):
            if ASIDE.exists():
                _remove_aside()
                steps.append("removed what was left of the card's copy")
            return {"changed": bool(steps), "steps": steps}
        if _mounted(TARGET) is not None:
            raise PartitionError(
                "something else is mounted there",
                where=str(TARGET),
                next_step=f"findmnt {TARGET}; unmount it, or name it in storage_data_device",
            )
        _filesystem(plain, device, steps, may_format=may_format)
        if _probe(plain).get("LABEL") == NEW:
            _fill(plain, steps)
        if plain != disk and _probe(disk).get("LABEL") == LUKS_NEW:
            _run("cryptsetup", "config", "--label", LUKS_DONE, disk)
        _mount_for_good(plain, steps)
    return {"changed": True, "steps": steps}


# -- which disk ------------------------------------------------------------


def _block_device(device: str) -> str:
    try:
        if stat.S_ISBLK(Path(device).stat().st_mode):
            real = os.path.realpath(device)
            if real in _chain(_root_source()):
                raise PartitionError("is the disk that this host runs from", where=device, next_step="name another")
            return real
    except FileNotFoundError:
        raise PartitionError("is not there", where=device, next_step="ls -l /dev/disk/by-id/ shows what is") from None
    raise PartitionError("is no block device", where=device, next_step="ls -l /dev/disk/by-id/ shows what is one")


def _root_source() -> str:
    return _output("findmnt", "--noheadings", "--output", "SOURCE", "--nofsroot", "/").strip()


def _chain(source: str) -> set[str]:
    """A device and everything below it (a partition's disk, a mapping's partition)."""
    text = _output("lsblk", "--noheadings", "--inverse", "--list", "--paths", "--output", "NAME", source)
    return {os.path.realpath(line.strip()) for line in text.splitlines() if line.strip()} | {os.path.realpath(source)}


def why_not_empty(device: str) -> str | None:
    """What stands on the disk, in words; None where it is provably empty."""
    rows = json.loads(_output("lsblk", "--json", "--list", "--paths", "--output", "NAME,TYPE,MOUNTPOINTS", device))
    for row in rows["blockdevices"]:
        if any(row["mountpoints"] or []):
            return f"{row['name']} is mounted on {', '.join(place for place in row['mountpoints'] if place)}"
        if os.path.realpath(row["name"]) != os.path.realpath(device):
            return f"it has {row['name']} ({row['type']}) on it"
    signatures = json.loads(_output("wipefs", "--no-act", "--json", device) or '{"signatures": []}')["signatures"]
    found = sorted({signature["type"] for signature in signatures})
    probed = _probe(device)
    found += [probed[key] for key in ("TYPE", "PTTYPE") if key in probed and probed[key] not in found]
    return f"it carries {', '.join(found)}" if found else None


def _probe(device: str) -> dict[str, str]:
    """``blkid``'s low-level probe: what is written on the disk, not what a cache remembers.

    Exit code 2 is "nothing found"; others are errors, and an error is not an empty disk.
    """
    done = _run("blkid", "--probe", "--output", "export", device, codes=(0, 2))
    return dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)


def _require_formattable(device: str, named: str, *, ours: str, may_format: bool) -> None:
    """Refuse all but an empty disk, or an unfinished one of ours (label ``ours``), with the operator's word."""
    probed = _probe(device)
    if probed.get("LABEL") != ours:
        reason = why_not_empty(device)
        if reason is not None:
            raise PartitionError(
                f"is not empty and not Hedgerow's: {reason}. Nothing was written",
                where=named,
                next_step=f"if nobody needs what is on it: sudo wipefs --all {named}, then run again",
            )
    if not may_format:
        raise PartitionError(
            "is empty, and formatting it was not confirmed",
            where=named,
            next_step="run again with -e storage_data_format=HOST:DEVICE, both written as in the inventory",
        )


# -- filesystem ------------------------------------------------------------


def _filesystem(device: str, named: str, steps: list[str], *, may_format: bool) -> None:
    probed = _probe(device)
    if probed.get("TYPE") == "ext4" and probed.get("LABEL") in {NEW, DONE}:
        return
    _require_formattable(device, named, ours=NEW, may_format=may_format)
    # 1 % kept for root: the default of 5 % is a gigabyte of models on a small disk.
    _run("mkfs.ext4", "-q", "-F", "-L", NEW, "-m", "1", "-E", "lazy_itable_init=1", device)
    steps.append(f"made an ext4 filesystem on {named}")


def _fill(device: str, steps: list[str]) -> None:
    """Copy what the card has, verify it, move the card's aside, and only then call the disk finished."""
    source = ASIDE if ASIDE.exists() else TARGET
    stopped = _stop_services()
    try:
        with _temporary_mount(device) as place:
            _empty(place)
            _copy(source, place)
            _run("sync", "--file-system", str(place))
            _require_same(source, place)
            if source == TARGET and TARGET.exists():
                TARGET.rename(ASIDE)
                _fsync(TARGET.parent)
        # Of a mounted filesystem the kernel would write the label, and udev, which every later run asks, would go on
        # calling the disk unfinished until the next boot.
        _run("e2label", device, DONE)
    except BaseException:
        # What served, serves on from the card.
        if ASIDE.exists() and not TARGET.exists():
            ASIDE.rename(TARGET)
        _systemctl("start", stopped)
        raise
    steps.append(f"copied and verified the content of {TARGET}")


def _mount_for_good(device: str, steps: list[str]) -> None:
    if TARGET.exists() and any(path.is_file() for path in TARGET.rglob("*")):
        raise PartitionError(
            "the disk has a data partition's content already, and the card has files of its own in this folder",
            where=str(TARGET),
            next_step=f"to keep the disk's: sudo mv {TARGET} {TARGET}.aside, then run again",
        )
    if TARGET.exists():
        _run("chattr", "-i", str(TARGET), codes=None)
        shutil.rmtree(TARGET)
    TARGET.mkdir(mode=0o755)
    guarded = _run("chattr", "+i", str(TARGET), codes=None)
    if guarded.returncode != 0:
        steps.append(f"could not make the folder below immutable ({guarded.stderr.strip()}): units alone guard it")
    _fsync(TARGET.parent)
    _run("mount", "-t", "ext4", "-o", "noatime", device, str(TARGET))
    if ASIDE.exists():
        _remove_aside()
    _systemctl("start", [unit for unit in _UNITS if _enabled(unit)])
    steps.append(f"mounted it on {TARGET}")


def _remove_aside() -> None:
    """Mounted, verified and written out: the card's copy has keys in it and would be a second truth."""
    shutil.rmtree(ASIDE)
    _fsync(ASIDE.parent)


def _unmount(place: Path) -> None:
    if _mounted(place) is not None:
        _run("umount", str(place))


@contextlib.contextmanager
def _temporary_mount(device: str) -> Iterator[Path]:
    place = WORK / "new"
    place.mkdir(exist_ok=True)
    _run("mount", "-t", "ext4", "-o", "noatime", device, str(place))
    try:
        yield place
    finally:
        _run("umount", str(place))


def _empty(place: Path) -> None:
    """Remove what an earlier run, cut off, had copied so far; the label says that nothing else is there."""
    for entry in place.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _copy(source: Path, target: Path) -> None:
    """Content, modes, times and extended attributes as shutil does it; owners of everything, links too."""
    if not source.exists():
        return
    try:
        shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        for folder, folders, files in os.walk(source):
            for name in [".", *folders, *files]:
                original = Path(folder) / name
                status = original.lstat()
                copied = target / original.relative_to(source)
                os.chown(copied, status.st_uid, status.st_gid, follow_symlinks=False)
                if not stat.S_ISLNK(status.st_mode):
                    copied.chmod(stat.S_IMODE(status.st_mode))  # chown clears setuid
    except (OSError, shutil.Error) as error:
        raise PartitionError(
            f"the content of the card could not be copied, it is untouched: {error}",
            where=str(source),
            next_step=f"compare sizes: df -h {TARGET.parent} and lsblk",
        ) from error


def _require_same(source: Path, copy: Path) -> None:
    difference = _difference(source, copy)
    if difference is not None:
        raise PartitionError(
            f"the copy differs from the card: {difference}. The card's content is untouched",
            where=str(source),
            next_step="run again; a disk that fails twice should be replaced",
        )


def _difference(source: Path, copy: Path) -> str | None:
    """The first thing that is not the same in both trees: kind, owner, mode, link target, bytes."""
    if not source.exists():
        return None
    left, right = _tree(source), _tree(copy)
    for name in sorted(left.keys() | right.keys()):
        if left.get(name) != right.get(name):
            return name
    return None


def _tree(root: Path) -> dict[str, tuple[Any, ...]]:
    found: dict[str, tuple[Any, ...]] = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = Path(folder) / name
            relative = str(path.relative_to(root))
            if relative == "lost+found":
                continue
            status = path.lstat()
            kind: tuple[Any, ...] = (stat.S_IFMT(status.st_mode),)
            if stat.S_ISLNK(status.st_mode):
                kind += (str(path.readlink()),)
            elif stat.S_ISREG(status.st_mode):
                with path.open("rb") as file:
                    kind += (hashlib.file_digest(file, "sha256").hexdigest(),)
            mode = None if stat.S_ISLNK(status.st_mode) else stat.S_IMODE(status.st_mode)
            found[relative] = (*kind, mode, status.st_uid, status.st_gid)
        if "lost+found" in folders and folder == str(root):
            folders.remove("lost+found")
    return found


# -- encryption ------------------------------------------------------------


def _open(disk: str, named: str, encrypt: dict[str, Any], steps: list[str], *, may_format: bool) -> str:
    """The unlocked device below ``/dev/mapper``; formats, binds to the TPM and opens as far as each is missing."""
    probed = _probe(disk)
    ours = probed.get("TYPE") == "crypto_LUKS" and probed.get("LABEL") == LUKS_DONE
    if not ours:
        _require_formattable(disk, named, ours=LUKS_NEW, may_format=may_format)
        _encrypt(disk, encrypt, steps, named)
    elif encrypt["enrol"]:
        _bind(disk, encrypt, steps)
    if not MAPPED.exists():
        _unlock(disk, named)
        steps.append("unlocked it with the TPM")
    return str(MAPPED)


def _encrypt(disk: str, encrypt: dict[str, Any], steps: list[str], named: str) -> None:
    if not _has_tpm():
        raise PartitionError(
            "this host has no TPM 2.0, so nothing could unlock the disk at boot",
            where=named,
            next_step="fit one (docs/decisions/0019-storage.md), or set storage_data_encrypted: false",
        )
    if MAPPED.exists():
        _run("cryptsetup", "close", MAPPER)  # of a run that was killed; its label says that nothing is on it
    # The key has 256 random bits: stretching it costs a boot seconds and adds nothing.
    _run("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--label", LUKS_NEW, "--pbkdf", "pbkdf2",
         "--pbkdf-force-iterations", "1000", "--key-file", "-", disk, secret=encrypt["recovery_key"])  # fmt: skip
    steps.append(f"encrypted {named}")
    _bind(disk, encrypt, steps)


def _bind(disk: str, encrypt: dict[str, Any], steps: list[str]) -> None:
    """Bind a key slot to the TPM that is here now; slots of other TPMs go.

    They go first: systemd-cryptenroll tells slots apart by their policy's hash, which does not depend on the TPM, and
    calls a policy that stands there "already enrolled", be it another TPM's. So the recovery key is tried before.
    """
    with _key_file(encrypt["recovery_key"]) as key:
        tried = _run("cryptsetup", "open", "--test-passphrase", "--key-file", key, disk, codes=None)
        if tried.returncode != 0:
            raise PartitionError(
                f"the controller's recovery key does not open it: {tried.stderr.strip()[-400:]}",
                where=disk,
                next_step="restore this disk's from your backup: var/fleets/FLEET/storage/HOST.recovery",
            )
        _run("systemd-cryptenroll", "--wipe-slot=tpm2", disk)
        _run("systemd-cryptenroll", f"--unlock-key-file={key}", "--tpm2-device=auto",
             f"--tpm2-pcrs={encrypt['pcrs']}", disk)  # fmt: skip
    steps.append("bound its key to this board's TPM")


def _unlock(disk: str, named: str) -> None:
    """By the TPM, as at boot, so that what would not start tomorrow fails today."""
    done = _run("systemd-cryptsetup", "attach", MAPPER, disk, "-", "tpm2-device=auto,headless=true", codes=None)
    if done.returncode != 0:
        raise PartitionError(
            f"the TPM does not unlock it: {done.stderr.strip()[-400:]}",
            where=named,
            next_step="if the board or its TPM was replaced, bind the disk to the new one: run again with"
            " -e storage_data_rebind=HOST, which uses the recovery key on the controller",
        )


def _has_tpm() -> bool:
    version = Path("/sys/class/tpm/tpm0/tpm_version_major")
    return version.is_file() and version.read_text(encoding="ascii").strip() == "2"


@contextlib.contextmanager
def _key_file(secret: str) -> Iterator[str]:
    """A file in memory (/run), root's alone, gone afterwards."""
    descriptor, name = tempfile.mkstemp(dir=WORK)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secret)
        yield name
    finally:
        Path(name).unlink()


# -- services --------------------------------------------------------------


def _stop_services() -> list[str]:
    # One that is starting counts: the deadline's service is never anything else, and it writes there.
    states = {unit: _run("systemctl", "is-active", unit, codes=None).stdout.strip() for unit in _UNITS}
    running = [unit for unit, state in states.items() if state not in {"inactive", "failed", "unknown", ""}]
    _systemctl("stop", running)
    return running


def _systemctl(verb: str, units: list[str]) -> None:
    if units:
        _run("systemctl", verb, *units)


def _enabled(unit: str) -> bool:
    return _run("systemctl", "is-enabled", "--quiet", unit, codes=None).returncode == 0


# -- programs --------------------------------------------------------------


@contextlib.contextmanager
def _worked() -> Iterator[None]:
    """A folder in memory for mounts and keys, and nobody else at work on it."""
    WORK.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(WORK, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock)
        yield
    finally:
        os.close(lock)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise PartitionError(
            "another run works on this host's data partition", next_step="wait for it, then run again"
        ) from None


def _mounted(place: Path) -> str | None:
    """The device that is mounted on ``place``."""
    done = _run("findmnt", "--noheadings", "--output", "SOURCE", "--mountpoint", str(place), codes=(0, 1))
    source = done.stdout.strip().splitlines()
    return os.path.realpath(source[-1]) if source else None


def _fsync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _output(*command: str) -> str:
    return _run(*command).stdout


def _run(
    *command: str, codes: tuple[int, ...] | None = (0,), secret: str | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
            input=secret or "",
            env={
                **os.environ,
                "LC_ALL": "C.UTF-8",
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )
    except FileNotFoundError:
        raise PartitionError(
            f"the program {command[0]} is missing", next_step="run the role storage, which installs it"
        ) from None
    if codes is not None and done.returncode not in codes:
        said = (done.stderr.strip() or done.stdout.strip())[-800:]
        raise PartitionError(f"`{' '.join(command)}` failed with exit code {done.returncode}: {said}")
    return done
