"""What a Pi that already does something has on it, beside what ``hedgerow.device.state`` tells of every host.

The standard library alone: the controller sends this file's source. It reads and never writes, and does without what it
may not read: started as another user than root, ``root`` is False and some answers are shorter. Parsers are pure.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FIRST_USER, LAST_USER = 1000, 59999  # adduser(8): people, not services
NO_SHELL = ("nologin", "false", "sync")
ENGINES = ("docker", "podman")
_TIMEOUT_S = 20


def read(paths: Sequence[str]) -> dict[str, Any]:
    """The survey; ``paths`` are the files that converging would write."""
    return {
        "root": os.geteuid() == 0,
        "listening": parse_listening(
            _output("ss", "--no-header", "--listening", "--tcp", "--udp", "--numeric", "--processes")
        ),
        "people": _people(),
        "sudoers": _without_password(Path("/etc/sudoers.d")),
        "containers": {engine: names for engine in ENGINES if (names := _containers(engine)) is not None},
        "own_units": _own_units(Path("/etc/systemd/system")),
        "scheduled": _scheduled(),
        "files": _present(paths),
        "kubernetes": [name for name in ("k3s", "kubelet") if Path(f"/usr/local/bin/{name}").exists()],
    }


# -- parsers ---------------------------------------------------------------


def parse_listening(text: str) -> list[dict[str, Any]]:
    """``ss --listening``: protocol, address, port and the program, where it may be known; loopback apart."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) < 5:  # noqa: PLR2004 - Netid State Recv-Q Send-Q Local
            continue
        address, _, port = words[4].rpartition(":")
        address = address.partition("%")[0].strip("[]")
        program = re.search(r'\(\("([^"]+)"', line)
        entry = {
            "protocol": words[0],
            "address": address,
            "port": int(port) if port.isdigit() else 0,
            "program": program[1] if program else None,
            "loopback": address.startswith(("127.", "::ffff:127.")) or address == "::1",
        }
        found[entry["protocol"], address, entry["port"]] = entry
    return sorted(found.values(), key=lambda entry: (entry["port"], entry["protocol"], entry["address"]))


def parse_conffiles(text: str) -> dict[str, str]:
    """What dpkg-query prints of ``${Conffiles}``: path → the sum that its package shipped."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0].startswith("/"):  # noqa: PLR2004 - path, sum, maybe "obsolete"
            found[words[0]] = words[1]
    return found


def parse_without_password(text: str) -> list[str]:
    """Whom a sudoers file lets become root without a password."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [line.split()[0] for line in lines if "NOPASSWD" in line and not line.startswith("#")]


# -- reading ---------------------------------------------------------------


def _people() -> list[dict[str, Any]]:
    """Users who can log in, with the number of keys that let them."""
    found = []
    for user in pwd.getpwall():
        if FIRST_USER <= user.pw_uid <= LAST_USER and not user.pw_shell.endswith(NO_SHELL):
            keys = _text(Path(user.pw_dir) / ".ssh/authorized_keys")
            found.append(
                {
                    "name": user.pw_name,
                    "keys": None
                    if keys is None
                    else sum(1 for line in keys.splitlines() if line.strip() and not line.lstrip().startswith("#")),
                }
            )
    return found


def _without_password(folder: Path) -> dict[str, list[str]]:
    found = {}
    for file in _files(folder):
        names = parse_without_password(_text(file) or "")
        if names:
            found[str(file)] = names
    return found


def _containers(engine: str) -> list[str] | None:
    """Names of running containers; None where there is no such engine."""
    if not any((Path(folder) / engine).exists() for folder in ("/usr/bin", "/usr/local/bin")):
        return None
    return sorted(_output(engine, "ps", "--format", "{{.Names}}").split())


def _own_units(folder: Path) -> list[str]:
    """Unit files that no package brought: in the administrator's folder, and not ours."""
    names = [
        file.name
        for file in _files(folder)
        if not file.is_symlink()
        and file.suffix in {".service", ".timer", ".socket"}
        and not file.name.startswith("hedgerow-")
    ]
    return [name for name in names if not _output("dpkg-query", "-S", str(folder / name))]


def _scheduled() -> list[str]:
    """Crontabs of people, and an rc.local that does something."""
    found = [str(file) for file in _files(Path("/var/spool/cron/crontabs"))]
    local = _text(Path("/etc/rc.local")) or ""
    if any(line.strip() and not line.startswith("#") and line.strip() != "exit 0" for line in local.splitlines()):
        found.append("/etc/rc.local")
    return found


def _present(paths: Sequence[str]) -> dict[str, str]:
    """Path → ``package`` (as a package shipped it), ``changed`` (since), ``foreign`` (of no package), ``ours``."""
    shipped = parse_conffiles(_output("dpkg-query", "-W", "-f", "${Conffiles}\\n"))
    found = {}
    for name in paths:
        path = Path(name)
        if not path.is_file():
            continue
        try:
            data = path.read_bytes()
        except OSError:
            found[name] = "unreadable"
            continue
        # A sum that dpkg keeps, not a signature.
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if b"edgerow" in data[:2000]:
            found[name] = "ours"
        elif name in shipped:
            found[name] = "package" if shipped[name] == digest else "changed"
        else:
            found[name] = "package" if _output("dpkg-query", "-S", name) else "foreign"
    return found


def _files(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_file())
    except OSError:
        return []


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _output(*command: str) -> str:
    """Standard output; empty where the program is missing, fails or is not allowed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
