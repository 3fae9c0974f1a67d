"""Check and pack a folder with a systemd unit: an application without a container.

The unit's own words are held to rules (``systemd.exec(5)``, ``systemd.service(5)``); what a device adds around it is
the device's business. The folder travels as one tar, for files of a bundle have no modes.
"""

from __future__ import annotations

import io
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow.errors import RefusedError, UsageError

_ROOT: Final = {"0", "root"}
# Options that give back what an unprivileged user has not.
_RIGHTS: Final = ("AmbientCapabilities", "PermissionsStartOnly", "SupplementaryGroups", "SecureBits")
# A command with one of these before it runs with more rights than User= says.
_PREFIXES: Final = ("+", "!")
_EXEC: Final = ("ExecStart", "ExecStartPre", "ExecStartPost", "ExecStop", "ExecStopPost", "ExecReload", "ExecCondition")


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
    for key in _RIGHTS:
        if any(value for value in settings.get(key, [])):
            raise _refused(path, f"{key}= gives rights that an application does not get (rule: unprivileged)", key)
    for key in _EXEC:
        for value in settings.get(key, []):
            if value.lstrip("@-:").startswith(_PREFIXES):
                raise _refused(path, f"{key}={value} runs with more rights than User= says (rule: unprivileged)", key)
    if (settings.get("NoNewPrivileges") or ["no"])[-1].lower() not in {"yes", "true", "1", "on"}:
        raise RefusedError(
            "the unit may gain rights (rule: no-new-privileges)", where=str(path), next_step="add NoNewPrivileges=yes"
        )
    return Unit(path.name, _user(path, settings))


def _user(path: Path, settings: dict[str, list[str]]) -> str:
    if (settings.get("DynamicUser") or ["no"])[-1].lower() in {"yes", "true", "1", "on"}:
        return "dynamic"
    user = (settings.get("User") or [""])[-1]
    if not user or user in _ROOT:
        raise RefusedError(
            "the unit runs as root (rule: unprivileged)", where=str(path), next_step="add DynamicUser=yes, or User=NAME"
        )
    return user


def _refused(path: Path, what: str, key: str) -> RefusedError:
    return RefusedError(what, where=str(path), next_step=f"write the unit without {key}, or without the prefix")


def _settings(path: Path) -> dict[str, list[str]]:
    """Keys of the unit's sections → values; an empty value takes back those before it (``systemd.syntax(7)``)."""
    found: dict[str, list[str]] = {}
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
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
