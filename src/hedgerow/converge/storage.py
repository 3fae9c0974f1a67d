"""What a host's storage should be, and what is wrong with it: the data partition, swap, and signs of a dying card.

Rules:

- A disk is named by a path that stays (``/dev/disk/by-id/…``): ``sda`` is another disk after the next boot.
- Formatting takes the operator's typed word for this host and this device, and a disk that is empty.
- Whatever carries ``/`` is refused. In a container every disk is: they are the machine's.
- Swap never lies on a card: it is compressed memory, or what the operator set up.
- Root that is read-only is a refusal (F15): every later role would fail halfway. Everything else is said on every run.

Pure: facts and wishes in, a plan out. The host's part is ``hedgerow.device.partition``.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hedgerow.errors import UsageError

TARGET = "/var/lib/hedgerow"
MOUNT_UNIT = "var-lib-hedgerow.mount"
MAPPED = "/dev/mapper/hedgerow_data"
CRYPTTAB_NAME = "hedgerow_data"
NONE = "none"
_PCR_LAST = 23

_STABLE = ("/dev/disk/by-id/", "/dev/disk/by-path/", "/dev/disk/by-partuuid/", "/dev/disk/by-partlabel/")
_OURS = {"ext4": {"hedgerow-new", "hedgerow-data"}, "crypto_LUKS": {"hedgerow-luks-new", "hedgerow-luks"}}
_DONE = {"ext4": "hedgerow-data", "crypto_LUKS": "hedgerow-luks"}
_UNESCAPED = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:_.")
_HEALTHY_EMMC = {None, "", "0x00", "0x01"}  # pre_eol_info: not defined, normal (JEDEC eMMC 5.0)

Facts = Mapping[str, Any]


def plan(facts: Facts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the role does, decided.

    ``facts`` is ``hedgerow_facts``. ``asked``: ``host``; ``data`` with ``device``, ``encrypted``, ``pcrs``, ``format``
    and ``rebind``; ``swap`` (``zram`` or ``unmanaged``); ``limits`` with ``boot_free_mb`` and
    ``inodes_free_percent``.

    Returns ``refusals`` and ``remarks`` (texts), ``packages`` (missing ones), ``data`` and ``swap``.

    Raises:
        UsageError: the inventory's values cannot be meant so.
    """
    state = facts["state"]
    data, refusals = data_plan(state, asked["host"], asked["data"])
    swap, remarks = swap_plan(state, asked["swap"])
    needed = (["systemd-zram-generator"] if swap["kind"] == "zram-generator" else []) + data["packages"]
    return {
        "refusals": [*failures(state["storage"]), *refusals],
        "remarks": [*signs(state["storage"], asked["limits"]), *remarks],
        "packages": [name for name in needed if name not in facts["packages"]],
        "data": data,
        "swap": swap,
    }


# -- data partition --------------------------------------------------------


def data_plan(state: Facts, host: str, asked: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What to do about the data partition, and why it cannot be done.

    ``step`` is ``none`` (no partition wanted), ``ready`` (mounted as wanted) or ``prepare``.
    """
    device = str(asked["device"])
    if device == NONE:
        return _no_data(), list(_left_behind(state))
    _check_name(device)
    _check_pcrs(str(asked["pcrs"]))
    encrypted = bool(asked["encrypted"])
    what = MAPPED if encrypted else device
    rebind = asked["rebind"] == host
    planned = {
        "step": "prepare",
        "device": device,
        "encrypted": encrypted,
        "pcrs": str(asked["pcrs"]),
        "rebind": rebind,
        "what": what,
        "fsck_unit": f"systemd-fsck@{escape(what)}.service",
        "device_unit": f"{escape(device)}.device",
        "crypttab": crypttab(state["storage"]["crypttab"], device if encrypted else None),
        "may_format": asked["format"] == f"{host}:{device}",
        "packages": ["e2fsprogs", *(ENCRYPTION_PACKAGES if encrypted else [])],
    }
    disk = _find(state["storage"], device)
    if disk is not None and disk["label"] in _DONE.values():
        planned["may_format"] = False  # whatever was typed: nothing of ours is ever formatted again
    refusal = _refusal(state, host, device, planned)
    done = _is_mounted(state["storage"], device, encrypted=encrypted) and not state["storage"]["left_on_card"]
    if refusal is None and done and not rebind:
        planned["step"] = "ready"
    return planned, [] if refusal is None else [refusal]


# In trixie systemd's part of LUKS is a package of its own, and libtss2 is only suggested: without it "no TPM".
ENCRYPTION_PACKAGES = (
    "cryptsetup-bin",
    "systemd-cryptsetup",
    "libtss2-esys-3.0.2-0t64",
    "libtss2-mu-4.0.1-0t64",
    "libtss2-rc0t64",
    "libtss2-tcti-device0t64",
)


def _no_data() -> dict[str, Any]:
    return {"step": NONE, "device": NONE, "encrypted": False, "rebind": False, "crypttab": None, "packages": []}


def _check_pcrs(pcrs: str) -> None:
    if not re.fullmatch(r"(\d{1,2}(\+\d{1,2})*)?", pcrs) or any(int(pcr) > _PCR_LAST for pcr in pcrs.split("+") if pcr):
        raise UsageError(
            "PCRs are numbers from 0 to 23, joined by +, or nothing",
            where=f"storage_data_pcrs: {pcrs!r}",
            next_step='write for example "7" or "", in quotes',
        )


def _left_behind(state: Facts) -> Iterator[str]:
    if MOUNT_UNIT in state["units"] and state["units"][MOUNT_UNIT]["enabled"] == "enabled":
        yield (
            f"storage_data_device is none, and the host has a data partition on {TARGET}. Its content is never moved "
            f"back by itself. Name the device again, or take it away by hand: stop what uses it, copy {TARGET} to the "
            f"card, then sudo systemctl disable --now {MOUNT_UNIT} and sudo chattr -i {TARGET}"
        )


def _check_name(device: str) -> None:
    if not device.startswith(_STABLE) or ".." in device.split("/"):
        raise UsageError(
            "a data partition is named by a path that stays the same and does not lie in the filesystem on it",
            where=f"storage_data_device: {device}",
            next_step=f"take one below {', '.join(_STABLE)} (ls -l /dev/disk/by-id/ on the host), or none",
        )


def _refusal(state: Facts, host: str, device: str, planned: Mapping[str, Any]) -> str | None:
    """Why this disk is not taken; the host proves all of it again before it writes."""
    storage = state["storage"]
    if state["container"]:
        return f"{device} is asked for, and this host is a container: the disks that it sees are its machine's"
    disk = _find(storage, device)
    if disk is None:
        return f"{device} is not there. {_candidates(storage)}"
    if disk["name"] in _root_chain(storage):
        return f"{device} is {disk['path']}, which this host runs from. {_candidates(storage)}"
    if planned["encrypted"] and not storage["tpm2"]:
        return (
            f"{device} should be encrypted with a key in a TPM, and no TPM 2.0 is there. If it was taken away or "
            f"replaced: the recovery key is on the controller (docs/operating.md, Encrypted data). If there never was "
            f"one: set storage_data_encrypted to false"
        )
    return _content(storage, host, disk, planned)


def _content(storage: Facts, host: str, disk: Facts, planned: Mapping[str, Any]) -> str | None:
    """Why what is on the disk keeps it from being taken."""
    device, kind, label = planned["device"], disk["fstype"], disk["label"]
    wanted = "crypto_LUKS" if planned["encrypted"] else "ext4"
    if kind == wanted and label == _DONE[wanted]:
        return None
    children = [other["name"] for other in storage["devices"] if other["parent"] == disk["name"]]
    unfinished = kind == wanted and label in _OURS[wanted]
    if not unfinished and (kind is not None or disk["table"] is not None or children):
        on_it = kind or disk["table"] or ", ".join(children)
        named = f" (label {label})" if label else ""
        return (
            f"{device} is not empty and not Hedgerow's: it carries {on_it}{named}. Nothing is formatted that carries "
            f"anything. If nobody needs it: sudo wipefs --all {device}, then run again"
        )
    if planned["may_format"]:
        return None
    state = "is unfinished" if unfinished else "is empty"
    return f"{device} {state} and would be formatted. Confirm it: -e storage_data_format={host}:{device}"


def _find(storage: Facts, device: str) -> Mapping[str, Any] | None:
    return next((entry for entry in storage["devices"] if device in entry["links"]), None)


def _candidates(storage: Facts) -> str:
    """Disks that could be meant, by the names to write."""
    root = _root_chain(storage)
    free = [
        next(iter(link for link in entry["links"] if link.startswith(_STABLE)), entry["path"])
        for entry in storage["devices"]
        if entry["type"] == "disk" and entry["name"] not in root and entry["size_mb"] and not _virtual(entry["name"])
    ]
    return f"Other disks of this host: {', '.join(free)}" if free else "This host has no other disk"


def _virtual(name: str) -> bool:
    return name.startswith(("zram", "loop", "ram", "mtdblock"))


def _root_chain(storage: Facts) -> set[str]:
    """Names of the device below ``/`` and of everything that it lies on."""
    by_name = {entry["name"]: entry for entry in storage["devices"]}
    root = next((mount["device"] for mount in storage["mounts"] if mount["path"] == "/"), None)
    name = next((entry["name"] for entry in storage["devices"] if entry["number"] == root), None)
    found: set[str] = set()
    while name is not None and name not in found:
        found.add(name)
        name = by_name[name]["parent"] if name in by_name else None
    return found


def _is_mounted(storage: Facts, device: str, *, encrypted: bool) -> bool:
    mount = next((mount for mount in storage["mounts"] if mount["path"] == TARGET), None)
    carrier = next((entry for entry in storage["devices"] if mount and entry["number"] == mount["device"]), None)
    disk = _find(storage, device)
    if mount is None or carrier is None or disk is None:
        return False
    return bool(carrier["parent"] == disk["name"] if encrypted else carrier["name"] == disk["name"])


def crypttab(current: str | None, device: str | None) -> str | None:
    """The new ``/etc/crypttab``: foreign lines as they are, ours or none; None where there is nothing to write.

    ``headless``: a board has nobody to type a passphrase. ``nofail``: it boots and can be reached without its data.
    """
    lines = [line for line in (current or "").splitlines() if line.split()[:1] != [CRYPTTAB_NAME]]
    if device is not None:
        options = "tpm2-device=auto,headless=true,nofail,x-systemd.device-timeout=30s"
        lines.append(f"{CRYPTTAB_NAME} {device} - {options}")
    text = "".join(f"{line}\n" for line in lines)
    return None if text == (current or "") else text


def escape(path: str) -> str:
    r"""A path as part of a unit's name, as ``systemd-escape --path`` has it: ``/dev/disk`` is ``dev-disk``."""
    name = "/".join(part for part in path.split("/") if part)
    if not name:
        return "-"
    return "".join(
        "-" if char == "/" else char if char in _UNESCAPED and (index or char != ".") else _hex(char)
        for index, char in enumerate(name)
    )


def _hex(char: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in char.encode())


# -- swap ------------------------------------------------------------------


def swap_plan(state: Facts, mode: str) -> tuple[dict[str, Any], list[str]]:
    """``kind``: ``rpi-swap`` (Raspberry Pi OS's own, told to stay in memory), ``zram-generator`` or ``none``."""
    if mode != "zram":
        return {"kind": NONE, "mode": mode}, []
    if state["container"]:
        return {"kind": NONE, "mode": mode}, ["swap is left alone: a container has its machine's swap and no zram"]
    kind = "rpi-swap" if "rpi-swap" in state["packages"] else "zram-generator"
    return {"kind": kind, "mode": mode}, list(_swap_on_disk(state["storage"]))


def _swap_on_disk(storage: Facts) -> Iterator[str]:
    for swap in storage["swaps"]:
        if not swap["path"].startswith("/dev/zram"):
            yield (
                f"swap lies on {swap['path']}, which wears a card: sudo swapoff {swap['path']}, then remove it, or "
                f"reboot if rpi-swap made it"
            )
    for name in storage["fstab_swaps"]:
        yield f"/etc/fstab takes {name} as swap at every boot: remove that line"
    if storage["zram_backing"] not in {None, NONE}:
        yield f"compressed swap still writes to {storage['zram_backing']}: reboot, rpi-swap decides that at boot alone"


# -- what is wrong ---------------------------------------------------------


def failures(storage: Facts) -> list[str]:
    """What makes every later step fail (F15)."""
    if not storage["root"]["read_only"]:
        return []
    text = (
        f"/ ({storage['root']['source']}) is read-only, and nothing can be converged. The kernel does that when a card "
        f"fails or power was cut while it wrote. Look for the cause: sudo dmesg | grep -e mmc -e EXT4 -e voltage; "
        f"replace a card that has shown it twice, then write the image anew"
    )
    return [text]


def signs(storage: Facts, limits: Mapping[str, int]) -> list[str]:
    """What should be looked at soon: errors of ext4 (F15), a full boot partition (F40), worn eMMC, inodes."""
    return [*_ext4_errors(storage), *_boot(storage, limits), *_worn(storage), *_full(storage["mounts"], limits)]


def _ext4_errors(storage: Facts) -> Iterator[str]:
    for device, errors in storage["ext4"].items():
        if errors["errors"]:
            last = errors["last"]
            when = f", the last on {dt.datetime.fromtimestamp(last, dt.UTC):%Y-%m-%d %H:%M} UTC" if last else ""
            yield (
                f"ext4 on {device} has {errors['errors']} errors in its superblock{when}. Check supply and card; "
                f"fsck.repair=yes on the kernel's command line repairs at the next boot"
            )


def _boot(storage: Facts, limits: Mapping[str, int]) -> Iterator[str]:
    boot = next((mount for mount in storage["mounts"] if mount["path"] == "/boot/firmware"), None)
    if boot is None:
        return
    if boot["read_only"]:
        yield "/boot/firmware is read-only: FAT does that after an error; sudo fsck.vfat on it from another computer"
    if boot["free_mb"] is not None and boot["free_mb"] < limits["boot_free_mb"]:
        yield (
            f"/boot/firmware has {boot['free_mb']} of {boot['size_mb']} MiB free, a kernel upgrade needs "
            f"{limits['boot_free_mb']} and fails halfway without. Remove kernels that are not used (dpkg -l "
            f"'linux-image-*'), or write a newer image, whose boot partition has 512"
        )


def _worn(storage: Facts) -> Iterator[str]:
    for disk, wear in storage["wear"].items():
        if wear["pre_eol_info"] not in _HEALTHY_EMMC:
            yield f"{disk} says that it is near its end (pre_eol_info {wear['pre_eol_info']}): replace it soon"


def _full(mounts: Sequence[Facts], limits: Mapping[str, int]) -> Iterator[str]:
    for mount in mounts:
        free = mount["inodes_free_percent"]
        if free is not None and free < limits["inodes_free_percent"]:
            yield f"{mount['path']} has {free} % of its inodes left: no file can be made when they are gone"
