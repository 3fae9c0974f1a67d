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
BOOT = Path("/boot/firmware")
_TIMEOUT_S = 30


def read() -> dict[str, Any]:
    """Read everything roles ask for, once. All values are JSON; a missing thing is None or empty.

    ``packages`` maps name → installed version. ``units`` maps unit → ``{"active", "enabled"}`` as systemctl
    words them, services that run also ``since``. Times are seconds since the epoch, sizes MiB.
    """
    packages, holds = parse_packages(_output("dpkg-query", "-W", "-f", "${Package}\\t${Status}\\t${Version}\\n"))
    return {
        "time": time.time(),
        "hostname": platform.node(),
        "architecture": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        "os": parse_os_release(_text(Path("/etc/os-release"))),
        "container": Path("/run/systemd/container").exists() or Path("/run/.containerenv").exists(),
        "packages": packages,
        "holds": holds,
        "apt_sources": _apt_sources(Path("/etc/apt")),
        "boot": {
            "config": _text(BOOT / "config.txt", missing=None),
            "cmdline": _text(BOOT / "cmdline.txt", missing=None),
            "changed_since_boot": _changed_since_boot(BOOT / "config.txt", BOOT / "cmdline.txt"),
        },
        "reboot_required": Path("/run/reboot-required").exists(),
        "units": parse_units(
            _output("systemctl", "list-unit-files", "--no-legend", "--no-pager", "--plain"),
            _output("systemctl", "list-units", "--all", "--no-legend", "--no-pager", "--plain"),
            _output("systemctl", "show", "--timestamp=unix", "--property=Id,ActiveEnterTimestamp", "*.service"),
        ),
        "users": sorted(user.pw_name for user in pwd.getpwall()),
        "groups": sorted(group.gr_name for group in grp.getgrall()),
        "apparmor": _apparmor(),
        "disk_free_mb": {place: _free_mb(place) for place in ("/", "/var/lib", "/boot/firmware")},
        "runtime": {
            "current": _link(RUNTIME / "current"),
            "switched": _changed(RUNTIME / "current"),
            "installed": _finished_runtimes(RUNTIME),
        },
        "models": {
            folder.name: {"current": _link(folder / "current"), "previous": _link(folder / "previous")}
            for folder in _folders(MODELS)
        },
    }


# -- parsers ---------------------------------------------------------------


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


def parse_os_release(text: str) -> dict[str, str]:
    """The lower-cased keys of os-release(5) that roles use."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and key in {"ID", "VERSION_ID", "VERSION_CODENAME", "PRETTY_NAME"}:
            values[key.lower()] = value.strip().strip('"')
    return values


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


def _apparmor() -> dict[str, Any]:
    enabled = _text(Path("/sys/module/apparmor/parameters/enabled")).strip() == "Y"
    return {
        "enabled": enabled,
        "profiles": parse_profiles(_text(Path("/sys/kernel/security/apparmor/profiles"))) if enabled else {},
    }


def _changed_since_boot(*files: Path) -> list[str]:
    """Names of boot files written after this boot: firmware has not seen them yet."""
    booted = time.time() - float(_text(Path("/proc/uptime"), missing="0 0").split()[0])
    if Path("/run/systemd/container").exists():
        # A container's /proc/uptime is the machine's; PID 1's start is the boot that counts.
        booted = Path("/proc/1").stat().st_mtime
    return [file.name for file in files if file.exists() and file.stat().st_mtime > booted]


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
