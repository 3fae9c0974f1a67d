"""What a host's system is: packages, units, users, boot files, AppArmor, what Hedgerow placed.

The standard library alone: the controller sends this file's source to a host
that may have no Hedgerow yet (``hedgerow.remote_script``). It reads, it never
writes, and it starts four programs: ``dpkg-query`` and thrice ``systemctl``.
Never an ``apt`` one: opening apt's cache costs a Pi most of a second.

``hedgerow.device.hardware`` reads the board and its kernel; this reads the system
on it, and is never redirected to another root.

Parsers are pure functions of text.
"""

from __future__ import annotations

import grp
import hashlib
import ipaddress
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

RUNTIME = Path("/opt/hedgerow/runtime")
MODELS = Path("/var/lib/hedgerow/models")
CONFIGURATION = Path("/var/lib/hedgerow/configuration")
PENDING = Path("/var/lib/hedgerow/activation/pending.json")
BOOT = Path("/boot/firmware")
HARDWARE_ROOT = Path("/etc/hedgerow/hardware-root")
TRIAL = Path("/etc/hedgerow/boot-trial")
EEPROM_DEFAULTS = Path("/etc/default/rpi-eeprom-update")
EEPROM_WRITTEN = Path("/run/hedgerow-eeprom.json")
EEPROM_IMAGES = Path("/usr/lib/firmware/raspberrypi/bootloader-2712")
# What dpkg has done and not yet put into its database; apt refuses to work while there is any.
DPKG_JOURNAL = Path("/var/lib/dpkg/updates")
APPARMOR = Path("/sys/kernel/security/apparmor")
_TIMEOUT_S = 30


def read() -> dict[str, Any]:
    """Read everything roles ask for, once. All values are JSON; a missing thing is None or empty.

    ``packages`` maps name → installed version. ``units`` maps unit → ``{"active", "enabled"}`` as systemctl
    words them, services that run also ``since`` and, where AppArmor is on, ``confined``: the label of their process
    (``hedgerow-server (enforce)``, ``unconfined``). Times are seconds since the epoch, sizes MiB.
    """
    apparmor = _apparmor()
    dpkg = _output("dpkg-query", "-W", "-f", "${Package}\\t${Status}\\t${Version}\\n")
    packages, holds = parse_packages(dpkg)
    return {
        "time": time.time(),
        "hostname": platform.node(),
        "architecture": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "os": parse_os_release(_text(Path("/etc/os-release"))),
        "container": Path("/run/systemd/container").exists() or Path("/run/.containerenv").exists(),
        "packages": packages,
        "holds": holds,
        "dpkg_interrupted": is_interrupted(dpkg) or any(DPKG_JOURNAL.glob("[0-9]*")),
        "apt_sources": _apt_sources(Path("/etc/apt")),
        "apt_proxies": _apt_proxies(Path("/etc/apt")),
        "ssh_client": _ssh_client(os.getpid()),
        "nameservers": parse_nameservers(_text(Path("/etc/resolv.conf"))),
        "boot": {
            "config": _text(BOOT / "config.txt", missing=None),
            "cmdline": _text(BOOT / "cmdline.txt", missing=None),
            "autoboot": _text(BOOT / "autoboot.txt", missing=None),
            "size_mb": _size_mb(BOOT),
            "changed_since_boot": _changed_since_boot(BOOT / "config.txt", BOOT / "cmdline.txt"),
            "trial": _trial(TRIAL),
        },
        "eeprom": {
            "defaults": parse_defaults(_text(EEPROM_DEFAULTS)),
            "images": _eeprom_images(EEPROM_IMAGES),
            "staged": _staged(BOOT / "pieeprom.upd"),
        },
        "cgroup_controllers": _text(Path("/sys/fs/cgroup/cgroup.controllers")).split(),
        "reboot_required": Path("/run/reboot-required").exists(),
        "units": _units(labels=apparmor["enabled"]),
        "users": sorted(user.pw_name for user in pwd.getpwall()),
        "groups": sorted(group.gr_name for group in grp.getgrall()),
        "apparmor": apparmor,
        "disk_free_mb": {place: _free_mb(place) for place in ("/", "/var/lib", "/boot/firmware")},
        "runtime": {
            "current": _link(RUNTIME / "current"),
            "confirmed": _link(RUNTIME / "confirmed"),
            "confirmed_at": _changed(RUNTIME / "confirmed"),
            "switched": _changed(RUNTIME / "current"),
            "installed": _finished_runtimes(RUNTIME),
        },
        "configuration": {"current": _link(CONFIGURATION / "current")},
        "pending": parse_pending(_text(PENDING)),
        "models": {
            folder.name: {"current": _link(folder / "current"), "previous": _link(folder / "previous")}
            for folder in _folders(MODELS)
        },
    }


# -- parsers ---------------------------------------------------------------


def parse_pending(text: str) -> dict[str, str] | None:
    """What waits on the device for its confirmation: ``{"kind", "name", "to"}``; None where nothing does."""
    try:
        note = json.loads(text)
        return {"kind": str(note.get("kind", "model")), "name": str(note["name"]), "to": str(note["to"])}
    except (ValueError, KeyError, AttributeError, TypeError):
        return None


def parse_packages(text: str) -> tuple[dict[str, str], list[str]]:
    """Installed name → version, and the names on hold, of ``dpkg-query``'s name, status, version lines.

    dpkg's status has three words: want, error, state. A hold is the want ``hold``
    (what ``apt-mark showhold`` prints, without opening apt's cache).
    """
    packages: dict[str, str] = {}
    holds: list[str] = []
    for line in text.splitlines():
        name, status, version = line.split("\t")
        want, _, state = status.split(" ")
        if state == "installed":
            packages[name] = version
        if want == "hold":
            holds.append(name)
    return packages, holds


def is_interrupted(text: str) -> bool:
    """Whether one of the same lines names a package that must be unpacked again: dpkg was killed while it did."""
    return any(line.split("\t")[1].split(" ")[1] == "reinstreq" for line in text.splitlines())


def parse_units(unit_files: str, units: str, times: str = "") -> dict[str, dict[str, Any]]:
    """Unit → ``{"enabled": …, "active": …, "since": …}`` of the two systemctl listings and of its properties."""
    found: dict[str, dict[str, Any]] = {}
    for line in unit_files.splitlines():
        name, enabled = line.split()[:2]
        found[name] = {"enabled": enabled, "active": "inactive"}
    for line in units.splitlines():
        # UNIT LOAD ACTIVE SUB DESCRIPTION; a failed unit has a dot before its name on a terminal only.
        fields = line.split(maxsplit=4)
        if len(fields) < 4 or fields[1] == "not-found":  # noqa: PLR2004 - the four columns named above
            continue
        found.setdefault(fields[0], {"enabled": "transient", "active": "inactive"})["active"] = fields[2]
    for block in times.split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        unit = found.get(values.get("Id", ""))
        if unit is not None and unit["active"] == "active" and values["ActiveEnterTimestamp"].startswith("@"):
            unit["since"] = int(values["ActiveEnterTimestamp"][1:])
    return found


def parse_main_pids(properties: str) -> dict[str, int]:
    """Unit → process id, of the services that have a process."""
    blocks = [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in properties.split("\n\n")
    ]
    return {block["Id"]: int(block["MainPID"]) for block in blocks if block.get("MainPID", "0") != "0"}


def parse_os_release(text: str) -> dict[str, str]:
    """The lower-cased keys of os-release(5) that roles use."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key in {"ID", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"}:
            values[key.lower()] = value.strip().strip('"')
    return values


def parse_defaults(text: str) -> dict[str, str]:
    """The assignments of a shell file that only assigns, without their quotes."""
    lines = [line.strip() for line in text.splitlines()]
    pairs = [line.partition("=") for line in lines if "=" in line and not line.startswith("#")]
    return {key: value.strip().strip("\"'") for key, _, value in pairs}


def parse_image(data: bytes) -> dict[str, Any]:
    """What an EEPROM image says of itself.

    Build and manufacturing version stand in it as text, which is how rpi-eeprom-update finds them; the configuration
    is a section with its length (big-endian) and name before it.
    """
    timestamp = re.search(rb"BUILD_TIMESTAMP=(\d+)", data)
    version = re.search(rb"MFG_VER:\s*(\d+)", data)
    section = re.search(rb"\x55\xaa\xf1\x1f(.{4})bootconf\.txt.{4}", data, re.DOTALL)
    config = None
    if section is not None:
        length = int.from_bytes(section[1], "big") - 16  # of name and what follows it
        config = data[section.end() : section.end() + length].decode(errors="replace")
    return {
        "timestamp": int(timestamp[1]) if timestamp else None,
        "mfg_version": int(version[1]) if version else None,
        "config": config,
    }


def parse_sources(name: str, text: str) -> list[dict[str, Any]]:
    """The enabled sources of one apt file, deb822 (``.sources``) or one-line (``.list``)."""
    if name.endswith(".list"):
        found = []
        for line in text.splitlines():
            words = re.sub(r"\[[^]]*\]", "", line.partition("#")[0]).split()
            if len(words) >= 3 and words[0] == "deb":  # noqa: PLR2004 - deb, URI, suite
                found.append({"uris": [words[1]], "suites": [words[2]], "components": words[3:]})
        return found
    found = []
    for paragraph in re.split(r"\n\s*\n", re.sub(r"(?m)^#.*\n?", "", text)):
        fields = {}
        for line in re.sub(r"\n[ \t]+", " ", paragraph).splitlines():
            key, _, value = line.partition(":")
            fields[key.strip().lower()] = value.split()
        if "deb" in fields.get("types", []) and fields.get("enabled", ["yes"]) != ["no"]:
            found.append({key: fields.get(key, []) for key in ("uris", "suites", "components")})
    return found


def parse_proxies(text: str) -> list[str]:
    """The proxies that apt.conf(5) names, without their passwords; ``DIRECT`` is none."""
    found = re.findall(r"(?mi)^[ \t]*Acquire::https?::Proxy(?:::[^ \t\"]+)?[ \t]+\"([^\"]+)\"", text)
    return list(dict.fromkeys(re.sub(r"//[^/\s]*@", "//", url) for url in found if url.upper() != "DIRECT"))


def parse_nameservers(text: str) -> list[str]:
    """Addresses of resolv.conf(5)'s ``nameserver`` lines, in order, without their scopes (``%eth0``)."""
    found = []
    for word in re.findall(r"(?m)^nameserver[ \t]+(\S+)", text):
        try:
            found.append(str(ipaddress.ip_address(word.partition("%")[0])))
        except ValueError:
            continue
    return found


def parse_profiles(text: str) -> dict[str, str]:
    """AppArmor profile → mode, of ``/sys/kernel/security/apparmor/profiles`` (``name (enforce)`` a line)."""
    return dict(re.findall(r"(?m)^(\S.*?) \((\w+)\)$", text))


# -- reading ---------------------------------------------------------------


def _apt_sources(folder: Path) -> list[dict[str, Any]]:
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    return [
        source | {"file": file.name}
        for file in files
        if file.suffix in {".list", ".sources"}
        # A mirror's password has no business in facts.
        for source in parse_sources(file.name, re.sub(r"//[^/\s]*@", "//", _text(file)))
    ]


def _units(*, labels: bool) -> dict[str, dict[str, Any]]:
    properties = _output(
        "systemctl", "show", "--timestamp=unix", "--property=Id,ActiveEnterTimestamp,MainPID", "*.service"
    )
    units = parse_units(
        _output("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain"),
        _output("systemctl", "list-units", "--all", "--no-legend", "--no-pager", "--plain"),
        properties,
    )
    for name, pid in parse_main_pids(properties).items() if labels else ():
        label = _text(Path(f"/proc/{pid}/attr/current"))
        if name in units and label:
            units[name]["confined"] = label.strip("\n\0")
    return units


def _apt_proxies(folder: Path) -> list[str]:
    files = [folder / "apt.conf", *sorted((folder / "apt.conf.d").glob("*"))]
    return parse_proxies("\n".join(_text(file) for file in files))


def _ssh_client(pid: int) -> str | None:
    """Where the SSH connection that this runs in comes from: sudo clears it for its children, not for itself."""
    while pid > 1:
        found = re.search(r"(?:^|\0)SSH_CONNECTION=(\S+)", _text(Path(f"/proc/{pid}/environ")))
        if found is not None:
            return found[1].partition("%")[0]
        # The second field is the program's name in brackets, which may hold anything.
        fields = _text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        pid = int(fields[1]) if fields else 0
    return None


def _apparmor() -> dict[str, Any]:
    """Profiles of the kernel with their modes; of ours also when they were loaded, and which files there are."""
    enabled = _text(Path("/sys/module/apparmor/parameters/enabled")).strip() == "Y"
    return {
        "enabled": enabled,
        "profiles": parse_profiles(_text(APPARMOR / "profiles")) if enabled else {},
        "loaded": {
            _text(folder / "name").strip(): folder.stat().st_mtime
            for folder in (APPARMOR / "policy/profiles").glob("hedgerow-*")
        },
        "files": sorted(file.name for file in Path("/etc/apparmor.d").glob("hedgerow-*") if file.is_file()),
    }


def _trial(folder: Path) -> dict[str, Any]:
    """The trial of a boot configuration that is under way, and how the last one ended (``boot_trial``)."""
    note, result = (_json(folder / name) for name in ("trial.json", "result.json"))
    return {
        "open": None if note is None else {"id": note.get("id"), "phase": note.get("phase")},
        "result": result,
    }


def _eeprom_images(folder: Path) -> dict[str, dict[str, Any]]:
    """Channel (``default``, ``latest``, one of your own) → its newest image, by name as rpi-eeprom-update goes."""
    found = {}
    for channel in _folders(folder):
        images = sorted(channel.glob("pieeprom-[0-9]*.bin"))
        if images:
            told = parse_image(images[-1].read_bytes())
            found[channel.name] = {key: told[key] for key in ("timestamp", "mfg_version")} | {"path": str(images[-1])}
    return found


def _staged(file: Path) -> dict[str, Any] | None:
    """A bootloader update on the boot partition, done or not: its build and configuration, and how old it is.

    One that was flashed from the running system is not there; ``hedgerow.device.eeprom`` leaves a note of it until
    the next boot.
    """
    note = _json(EEPROM_WRITTEN)
    if note is not None:
        return {"timestamp": note.get("timestamp"), "config": note.get("config"), "before_this_boot": False}
    try:
        data = file.read_bytes()
    except OSError:
        return None
    told = parse_image(data)
    return {
        "timestamp": told["timestamp"],
        "config": told["config"],
        "before_this_boot": not _changed_since_boot(file),
    }


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(path, missing="null"))
    except ValueError:
        return {}


def _changed_since_boot(*files: Path) -> list[str]:
    """Names of boot files written after this boot: firmware has not seen them yet.

    Those of a trial that was kept are younger than the boot that tried them, and are what it runs with.
    """
    result = _json(TRIAL / "result.json") or {}
    tried = result.get("sha256") if result.get("boot_id") == _boot_id() else None
    booted = time.time() - float(_text(Path("/proc/uptime"), missing="0 0").split()[0])
    if Path("/run/systemd/container").exists():
        # A container's /proc/uptime is the machine's; PID 1's start is the boot that counts.
        booted = Path("/proc/1").stat().st_mtime
    return [
        file.name
        for file in files
        if file.exists()
        and file.stat().st_mtime > booted
        and (tried or {}).get(file.name) != hashlib.sha256(file.read_bytes()).hexdigest()
    ]


def _boot_id() -> str | None:
    """This boot's, where the trial reads it: below the hardware root, if there is one."""
    lines = _text(HARDWARE_ROOT).splitlines()
    root = Path(lines[0].strip()) if lines else Path("/")
    boot_id: str = _text(root / "proc/sys/kernel/random/boot_id").strip()
    return boot_id or None


def _finished_runtimes(folder: Path) -> list[str]:
    """Versions whose installation ended; the marker is written last (``hedgerow.runtime.install``)."""
    return [entry.name for entry in _folders(folder) if (entry / "hedgerow-runtime.json").is_file()]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink())
    except OSError:
        return []


def _link(path: Path) -> str | None:
    """The last part of a link's target: the version it points at."""
    try:
        return path.readlink().name
    except OSError:
        return None


def _changed(path: Path) -> float | None:
    """When a file or link was last replaced."""
    try:
        return path.lstat().st_ctime
    except OSError:
        return None


def _size_mb(place: Path) -> int | None:
    """Size of the file system that is mounted there; None where it is only a folder of another one."""
    try:
        return shutil.disk_usage(place).total // 2**20 if place.is_mount() else None
    except OSError:
        return None


def _free_mb(place: str) -> int | None:
    try:
        return shutil.disk_usage(place).free // 2**20
    except OSError:
        return None


def _text(path: Path, *, missing: Any = "") -> Any:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return missing


def _output(*command: str) -> str:
    """Standard output of a program, empty where the host does not have it."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout
