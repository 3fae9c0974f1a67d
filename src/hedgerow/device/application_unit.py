"""The unit that an application runs with on a device: what its own says, and around it what the device says. Pure.

The standard library alone: the application switch renders with it, and so does whoever packs a bundle, to be refused
early. No bundle's unit is ever loaded by systemd: of its settings those in ``TAKEN`` are taken over, those in ``OURS``
the device decides, and any other is refused, so that a unit never means less on a device than its author wrote.

Who runs: a user that systemd makes up (``DynamicUser=``). It owns nothing that would outlive it, no two applications
are the same one, and there is none to create or remove. Its files are seen at ``FILES``, read-only; what it writes is
in memory, and gone with it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FILES = "/run/application"
"""Where an application sees its files, whatever its version: what its ``ExecStart=`` names."""
FILES_SEEN = ("/etc/hosts", "/etc/resolv.conf")
"""Of the device's files, what an application with a root of its own sees: names are looked up as the device does."""
TYPES = ("simple", "exec", "notify")

TAKEN = re.compile(
    r"Description|Type|Exec(Start|StartPre|StartPost|Stop|StopPost|Reload)|Environment|Restart|RestartSec"
    r"|Timeout(Start|Stop)?Sec|WatchdogSec|NotifyAccess|SuccessExitStatus|KillSignal|UMask|Nice"
)
TAKEN_IN_ROOT = re.compile(r"WorkingDirectory|TemporaryFileSystem")
"""Of an application with a root of its own, too: paths in it."""
OURS = re.compile(
    r"Documentation|After|Before|Wants|WantedBy|StartLimit(IntervalSec|Burst)|User|Group|DynamicUser|NoNewPrivileges"
    r"|WorkingDirectory|RuntimeDirectory(Mode)?|OOMPolicy|OOMScoreAdjust|CPU(Weight|Accounting)|IOWeight|Memory\w+|Tasks(Max|Accounting)"
    r"|LimitCORE|Protect\w+|Private\w+|Restrict[A-Z]\w+|SystemCall(Filter|ErrorNumber|Architectures)|LockPersonality"
    r"|RemoveIPC|ProcSubset|CapabilityBoundingSet|IPAddress(Allow|Deny)|DevicePolicy|SyslogIdentifier"
    r"|Standard(Output|Error)"
)
_LONGEST_S = 90
_SECONDS = re.compile(r"(\d{1,4})(s|sec|min)?")
_FOLDER = re.compile(r"/|(/(?!\.{1,2}(/|$))[A-Za-z0-9._+@-]+)+")
_NOT_OURS = re.compile(r"/(dev|proc|run|sys|tmp|var/tmp|etc/hosts|etc/resolv\.conf)?(/|$)")
"""What systemd mounts over already, and the root itself."""

_AROUND = """\
# Made by Hedgerow of the unit in the bundle; a new version brings another.
[Unit]
{description}
After=network.target hedgerow-server.service
StartLimitIntervalSec=300
StartLimitBurst=10

[Service]
Type=exec
Restart=on-failure
RestartSec=5s
TimeoutStartSec=60s
TimeoutStopSec=30s
UMask=0077
{own}
Slice=hedgerow-applications.slice
# A user of its own that owns nothing on the card.
DynamicUser=yes
{where}
RuntimeDirectory=hedgerow-application-{name}
RuntimeDirectoryMode=0700
SyslogIdentifier={name}
StandardOutput=journal
StandardError=journal
# The server goes first, in memory as in computing time.
MemoryMax={memory_mb}M
MemorySwapMax=0
OOMScoreAdjust=500
TasksMax=128
CPUWeight=20
IOWeight=20
LimitCORE=0
# Loopback alone; where the inventory opens its ports, the role adds the networks.
IPAddressDeny=any
IPAddressAllow=localhost
SocketBindDeny=any
{binds}RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
DevicePolicy=closed
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
KeyringMode=private
RemoveIPC=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
"""

# Its files beside the device's own, of which it sees what it may.
_BESIDE = """\
BindReadOnlyPaths={files}:{seen_at}
WorkingDirectory={seen_at}
InaccessiblePaths=-/opt/hedgerow -/var/lib/hedgerow -/etc/hedgerow -/run/hedgerow -/run/hedgerow-applications
InaccessiblePaths=-/run/hedgerow-agent -/run/hedgerow-switch.sock -/boot
NoExecPaths=/ /run/hedgerow-application-{name} /tmp /var/tmp
ExecPaths=/usr {seen_at}
ProtectHome=yes"""

# Its files are its root, and of the device's own it sees none but those named. "+": of its root, not the device's.
_IN_ROOT = """\
RootDirectory={files}
MountAPIVFS=yes
BindReadOnlyPaths={seen}
WorkingDirectory={folder}
{volumes}NoExecPaths=+/run +/tmp +/var/tmp -+/dev/shm
# There is no home in it but the image's own.
ProtectHome=read-only"""


class UnitError(ValueError):
    """What of a unit no device takes, and what to write instead."""


@dataclass(frozen=True)
class Told:
    """What the manifest says: its ``name``, ``ports`` (protocol, number) and memory; ``files`` are where they lie.

    ``own_root``: they are a whole root file system, and it sees no other.
    """

    name: str
    files: Path
    ports: Sequence[tuple[str, int]] = ()
    memory_mb: int = 128
    own_root: bool = False


def file_name(name: str) -> str:
    """The unit of an application."""
    return f"hedgerow-application-{name}.service"


def render(text: str, told: Told) -> str:
    """The unit of a version, of its bundle's own ``text``.

    Raises:
        UnitError: it says something that a device does not do for an application.
    """
    taken = _settings(text, own_root=told.own_root)
    if not any(key == "ExecStart" for key, _ in taken):
        raise UnitError("it has no ExecStart=")
    descriptions = [value for key, value in taken if key == "Description"]
    return _AROUND.format(
        description=f"Description={descriptions[-1] if descriptions else told.name}",
        own="\n".join(f"{key}={value}" for key, value in taken if TAKEN.fullmatch(key) and key != "Description"),
        where=_where(told, taken),
        name=told.name,
        memory_mb=told.memory_mb,
        binds="".join(f"SocketBindAllow={kind}:{number}\n" for kind, number in told.ports),
    )


def check(text: str, *, own_root: bool = False) -> None:
    """Refuse a unit that no device would take. Raises as ``render``."""
    render(text, Told("application", Path("/"), own_root=own_root))


def _where(told: Told, taken: Sequence[tuple[str, str]]) -> str:
    if not told.own_root:
        return _BESIDE.format(files=told.files, seen_at=FILES, name=told.name)
    folders = [value for key, value in taken if key == "WorkingDirectory"]
    # Writable and gone with it, as all that it writes; the memory is its own.
    volumes = [value for key, value in taken if key == "TemporaryFileSystem"]
    return _IN_ROOT.format(
        files=told.files,
        seen=" ".join(f"-{path}" for path in FILES_SEEN),
        folder=folders[-1] if folders else "/",
        volumes="".join(f"TemporaryFileSystem={path}:mode=1777,nodev,nosuid,noexec\n" for path in volumes),
    )


def _settings(text: str, *, own_root: bool) -> list[tuple[str, str]]:
    """What is taken over, in order; ``systemd.syntax(7)``."""
    found: list[tuple[str, str]] = []
    for key, value in _assignments(text):
        if TAKEN.fullmatch(key) or (own_root and TAKEN_IN_ROOT.fullmatch(key)):
            _check(key, value)
            found.append((key, value))
        elif not OURS.fullmatch(key):
            raise UnitError(f"{key}= is nothing that a device does for an application; write it without")
    return found


def _assignments(text: str) -> list[tuple[str, str]]:
    found, begun = [], ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith(("#", ";", "[")) or (not stripped and not begun):
            continue
        if stripped.endswith("\\"):
            begun += stripped[:-1] + " "
            continue
        key, separator, value = (begun + stripped).partition("=")
        begun = ""
        if not separator or not key.strip().isalnum():
            raise UnitError(f"{key.strip()!r} is no setting")
        found.append((key.strip(), value.strip()))
    if begun:
        raise UnitError("its last line goes on, and nothing follows")
    return found


def _check(key: str, value: str) -> None:
    if not value.isprintable():
        raise UnitError(f"{key}= has a character that is not printed")
    if key.startswith("Exec"):
        prefix = value[: len(value) - len(value.lstrip("@-:|+!"))]
        if "+" in prefix or "!" in prefix:
            raise UnitError(f"{key}={value} runs with more rights than its user; write it without + and !")
        if re.search(r"(^|\s)\\?;(\s|$)", value):
            raise UnitError(f"{key}={value} is several commands; write a line for each")
    if TAKEN_IN_ROOT.fullmatch(key) and (
        not _FOLDER.fullmatch(value) or (key == "TemporaryFileSystem" and _NOT_OURS.match(value))
    ):
        raise UnitError(f"{key}={value} is no folder that an application may have")
    if key == "Type" and value not in TYPES:
        raise UnitError(f"Type={value} is none that a device can watch; choose one of: {', '.join(TYPES)}")
    if key.startswith("Timeout") and value:
        seconds = _SECONDS.fullmatch(value)
        if seconds is None or int(seconds[1]) * (60 if seconds[2] == "min" else 1) > _LONGEST_S:
            raise UnitError(f"{key}={value} is longer than a device waits; write {_LONGEST_S}s at the most")
