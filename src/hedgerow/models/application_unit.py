"""Check and pack a folder with a systemd unit: an application without a container.

The unit's own words are held to rules (``systemd.exec(5)``, ``systemd.service(5)``); what a device adds around it is
the device's business. The folder travels as one tar, for files of a bundle have no modes.
"""

from __future__ import annotations

import io
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.device import application_unit as on_device
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.manifest_parts import is_root

# What a unit may say. A list of what it may not would never be complete: LoadCredential= and StandardInput=file: read
# as root, StandardOutput=file: writes as root, Alias= takes another unit's name.
_ALLOWED: Final = re.compile(
    r"Description|Documentation|After|Before|Wants|Requires|BindsTo|PartOf|Conflicts|(Condition|Assert)\w+|StartLimit\w+"
    r"|Type|Exec(Start|StartPre|StartPost|Stop|StopPost|Reload|Condition)|Restart\w*|Timeout\w+|RuntimeMaxSec|WatchdogSec"
    r"|NotifyAccess|SuccessExitStatus|RemainAfterExit|KillMode|KillSignal|FinalKillSignal|SendSIG\w+|OOMPolicy|OOMScoreAdjust"
    r"|User|Group|DynamicUser|NoNewPrivileges|UMask|WorkingDirectory|Environment|(Runtime|State|Cache|Logs)Directory(Mode)?"
    r"|Nice|CPU\w+|IOSchedulingClass|IOSchedulingPriority|IOWeight|Memory\w+|Tasks(Max|Accounting)|Limit\w+"
    r"|Protect\w+|Private\w+|Restrict\w+|SystemCall(Filter|ErrorNumber|Architectures)|LockPersonality|RemoveIPC"
    r"|ProcSubset|CapabilityBoundingSet|InaccessiblePaths|ReadOnlyPaths|ReadWritePaths|NoExecPaths|ExecPaths"
    r"|TemporaryFileSystem|IPAddress(Allow|Deny)|DevicePolicy|SyslogIdentifier|StandardOutput|StandardError|WantedBy"
)
_OUTPUTS: Final = ("journal", "null", "inherit")
_SECTIONS: Final = ("Unit", "Service", "Install")
# A command with one of these before it runs with more rights than User= says.
_PREFIXES: Final = ("+", "!")


@dataclass(frozen=True)
class Unit:
    """``name`` of the file, ``user`` it runs as (``dynamic``: one that systemd makes up)."""

    name: str
    user: str


def check(folder: Path) -> Unit:
    """Return the folder's unit, once it and every file were looked at.

    Raises:
        UsageError: not one ``.service`` file at the folder's top, or a file that is neither file, folder nor link.
        RefusedError: it would run as root, gain rights, or holds a setuid file or a link that leads out.
    """
    files_of(folder)
    units = sorted(folder.glob("*.service"))
    if len(units) != 1:
        raise UsageError(
            f"the folder has {len(units)} units; an application has one",
            where=str(folder),
            next_step="leave one NAME.service at the top of the folder",
        )
    path = units[0]
    settings = _settings(path)
    for key, values in settings.items():
        _check_setting(path, key, values)
    if (settings.get("NoNewPrivileges") or ["no"])[-1].lower() not in {"yes", "true", "1", "on"}:
        raise RefusedError(
            "the unit may gain rights (rule: no-new-privileges)", where=str(path), next_step="add NoNewPrivileges=yes"
        )
    try:
        on_device.check(path.read_text(encoding="utf-8"))
    except on_device.UnitError as error:
        raise RefusedError(
            f"no device would take the unit: {error} (rule: known-settings)",
            where=str(path),
            next_step="docs/building-models.md says what a device does for an application",
        ) from error
    return Unit(path.name, _user(path, settings))


def _user(path: Path, settings: dict[str, list[str]]) -> str:
    if (settings.get("DynamicUser") or ["no"])[-1].lower() in {"yes", "true", "1", "on"}:
        return "dynamic"
    user = (settings.get("User") or [""])[-1]
    if is_root(user):
        raise RefusedError(
            "the unit runs as root (rule: unprivileged)", where=str(path), next_step="add DynamicUser=yes, or User=NAME"
        )
    return user


def _check_setting(path: Path, key: str, values: list[str]) -> None:
    if _ALLOWED.fullmatch(key) is None:
        raise RefusedError(
            f"{key}= is nothing that an application's unit may say (rule: known-settings)",
            where=str(path),
            next_step=f"write the unit without {key}=; docs/building-models.md says why",
        )
    for value in values:
        if key.startswith("Exec") and key != "ExecPaths" and value.lstrip("@-:|").startswith(_PREFIXES):
            raise RefusedError(
                f"{key}={value} runs with more rights than User= says (rule: unprivileged)",
                where=str(path),
                next_step="write the command without + and !",
            )
        if key in {"StandardOutput", "StandardError"} and value not in _OUTPUTS:
            raise RefusedError(
                f"{key}={value} is opened by root (rule: known-settings)",
                where=str(path),
                next_step=f"choose one of: {', '.join(_OUTPUTS)}",
            )


def _settings(path: Path) -> dict[str, list[str]]:
    """Keys of the unit's sections → values; an empty value takes back those before it (``systemd.syntax(7)``)."""
    found: dict[str, list[str]] = {}
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        if line.startswith("[") and line.strip()[1:-1] not in _SECTIONS:
            raise RefusedError(
                f"the unit has a section {line.strip()} (rule: known-settings)",
                where=str(path),
                next_step=f"leave {', '.join(_SECTIONS)}",
            )
        key, separator, value = line.strip().partition("=")
        if separator and not key.startswith(("#", ";")):
            values = found.setdefault(key.strip(), [])
            if value.strip():
                values.append(value.strip())
            else:
                values.clear()
    return found


def files_of(folder: Path) -> list[Path]:
    """Every file below ``folder``. Raises as ``check``."""
    found = []
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            if path.name.endswith(".service.d"):
                raise RefusedError(
                    f"{path.relative_to(folder)} would change the unit (rule: known-settings)",
                    where=str(path),
                    next_step="write into the unit what stands there",
                )
            continue
        if stat.S_ISLNK(mode):
            if not path.resolve().is_relative_to(folder.resolve()) or path.readlink().is_absolute():
                raise RefusedError(
                    f"{path.relative_to(folder)} leads out of the folder (rule: stays-inside)",
                    where=str(path),
                    next_step="copy what it points at",
                )
            continue
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path.relative_to(folder)} is no file", where=str(path), next_step="leave files, folders and links"
            )
        if mode & (stat.S_ISUID | stat.S_ISGID):
            raise RefusedError(
                f"{path.relative_to(folder)} has mode {stat.S_IMODE(mode):04o} (rule: no-setuid)",
                where=str(path),
                next_step=f"chmod a-s {path}",
            )
        found.append(path)
    return found


def archive(folder: Path, target: Path) -> None:
    """Write ``folder`` as a tar that is the same bytes for the same files: sorted, no owner, no time, two modes."""
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(folder.rglob("*")):
            entry = tarfile.TarInfo(str(path.relative_to(folder)))
            mode = path.lstat().st_mode
            if stat.S_ISLNK(mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                tar.addfile(entry)
            elif stat.S_ISDIR(mode):
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            else:
                data = path.read_bytes()
                entry.size, entry.mode = len(data), 0o755 if mode & stat.S_IXUSR else 0o644
                tar.addfile(entry, io.BytesIO(data))
