"""Put a role's files in place: compared, validated and written in one visit to the host.

The standard library alone: the controller sends this module's source through
``hedgerow.remote_script`` (``plugins/action/hedgerow_files.py``), because a
module execution per file costs a Pi 0.35 CPU-seconds and this costs one Python
start for all of them.

Invariants:

- Nothing is written while anything is unknown: every path is compared, then every
  changed file is written beside its target and validated, and only then are the
  targets replaced. A failed validation or a full disk leaves all targets as they were.
- A reader sees the old file or the new one, never a part; owner and mode are right
  before the name is. So does the next boot after a power cut, on ext4 and on FAT.
- Check mode writes nothing and runs no validator (packages and users that a
  validator needs may not exist yet); it reports what would change.
"""

from __future__ import annotations

import base64
import grp
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

_VALIDATE_TIMEOUT_S = 60
_DIFF_LIMIT = 64 * 1024  # bytes of one side of a diff; beyond that a diff helps nobody
_PRIVATE_BEFORE = "(a file of its owner alone: contents not shown)\n"
_PRIVATE_AFTER = "(a file of its owner alone: other contents, not shown)\n"


class PlaceError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def place(files: list[dict[str, Any]], *, check: bool = False, diff: bool = False) -> dict[str, Any]:
    """Bring every entry of ``files`` to its wanted state.

    An entry has ``path`` (absolute) and ``kind``: ``file`` (with ``content``,
    base64), ``directory``, ``link`` (with ``target``) or ``absent``. ``owner``,
    ``group`` (names or ids as text) and ``mode`` (int) may be None: left as they are.
    ``validate`` is a command with ``%s`` for the staged file. ``replace`` False
    leaves an existing file alone.

    Returns ``{"changed": bool, "changed_paths": [str], "settled": {path: time}, "diff": [...]}``; ``settled`` has the
    files and links that were left alone and when each last changed (seconds since the epoch).

    Raises:
        PlaceError: a path is of another kind, a user is unknown, a validator refuses, the disk is full.
    """
    try:
        items = [_Item(entry) for entry in files]
        pending = [item for item in items if item.differs(known_users_only=not check)]
        diffs = [item.diff() for item in pending] if diff else []
        if not check:
            _write(items, pending)
    except OSError as error:
        raise PlaceError(error.strerror or str(error), where=error.filename2 or error.filename) from error
    settled = {
        item.path: item.status.st_ctime
        for item in items
        if item not in pending and item.status is not None and item.kind in {"file", "link"}
    }
    return {
        "changed": bool(pending),
        "changed_paths": [item.path for item in pending],
        "settled": settled,
        "diff": diffs,
    }


class _Item:
    """One entry and what stands at its path now."""

    def __init__(self, entry: dict[str, Any]) -> None:
        self.path: str = entry["path"]
        self.kind: str = entry["kind"]
        self.content = base64.b64decode(entry.get("content") or "")
        self.target: str = entry.get("target") or ""
        self.owner: str | None = entry.get("owner")
        self.group: str | None = entry.get("group")
        self.mode: int | None = entry.get("mode")
        self.validate: str | None = entry.get("validate")
        self.replace: bool = entry.get("replace", True)
        self.temporary: Path | None = None
        self.status = _lstat(self.path)

    # -- comparing --------------------------------------------------------

    def differs(self, *, known_users_only: bool) -> bool:
        if self.kind == "absent":
            return self.status is not None
        if self.status is None:
            self._ids(strict=known_users_only)
            return True
        if self.kind == "link":
            return not stat.S_ISLNK(self.status.st_mode) or str(Path(self.path).readlink()) != self.target
        if self.kind == "directory" and not stat.S_ISDIR(self.status.st_mode):
            raise PlaceError("should be a directory and is none", where=self.path, next_step="move it away, run again")
        if self.kind == "file" and stat.S_ISDIR(self.status.st_mode):
            raise PlaceError(
                "should be a file and is a directory", where=self.path, next_step="move it away, run again"
            )
        if self.kind == "file" and not self.replace:
            return False
        return self._attributes_differ(strict=known_users_only) or self._content_differs()

    def _content_differs(self) -> bool:
        if self.kind != "file" or self.status is None:
            return False
        if not stat.S_ISREG(self.status.st_mode) or self.status.st_size != len(self.content):
            return True
        return Path(self.path).read_bytes() != self.content

    def _attributes_differ(self, *, strict: bool) -> bool:
        if self.status is None:
            return False
        uid, gid = self._ids(strict=strict)
        return (
            (self.mode is not None and stat.S_IMODE(self.status.st_mode) != self.mode)
            or (self.owner is not None and self.status.st_uid != uid)
            or (self.group is not None and self.status.st_gid != gid)
        )

    def _ids(self, *, strict: bool) -> tuple[int, int]:
        """Numeric owner and group, -1 for "as it is"; an unknown name fails unless it may still come (check mode)."""
        return (_user_id(self.owner, self.path, strict=strict), _group_id(self.group, self.path, strict=strict))

    def diff(self) -> dict[str, str]:
        """One entry of Ansible's ``diff`` list."""
        before, after = self._attribute_lines()
        if self.kind == "file" and (self.status is None or self._content_differs()):
            old = b""
            if self.status is not None and stat.S_ISREG(self.status.st_mode):
                old = Path(self.path).read_bytes()
            # Output of --diff is kept in logs that more people read than the file.
            before, after = (_PRIVATE_BEFORE, _PRIVATE_AFTER) if self._private() else (_text(old), _text(self.content))
        elif self.kind == "link":
            is_link = self.status is not None and stat.S_ISLNK(self.status.st_mode)
            before, after = (f"-> {Path(self.path).readlink()}\n" if is_link else ""), f"-> {self.target}\n"
        elif self.kind == "absent":
            before, after = "present\n", "absent\n"
        return {"before_header": self.path, "after_header": self.path, "before": before, "after": after}

    def _private(self) -> bool:
        """Whether the file is its owner's alone, as it is or as it is wanted."""
        modes = [] if self.mode is None else [self.mode]
        if self.status is not None:
            modes.append(stat.S_IMODE(self.status.st_mode))
        return any(not mode & (stat.S_IRWXG | stat.S_IRWXO) for mode in modes)

    def _attribute_lines(self) -> tuple[str, str]:
        wanted = {"owner": self.owner, "group": self.group, "mode": None if self.mode is None else f"{self.mode:04o}"}
        if self.status is None:
            present: dict[str, str] = {}
        else:
            present = {
                "owner": _user_name(self.status.st_uid),
                "group": _group_name(self.status.st_gid),
                "mode": f"{stat.S_IMODE(self.status.st_mode):04o}",
            }
        named = [key for key, value in wanted.items() if value is not None]
        return (
            "".join(f"{key}: {present[key]}\n" for key in named if key in present),
            "".join(f"{key}: {wanted[key]}\n" for key in named),
        )

    # -- writing ----------------------------------------------------------

    def make_directory(self) -> None:
        path = Path(self.path)
        _make_parents(path)
        if self.status is None:
            path.mkdir(mode=0o700)
        self._set_attributes(path)

    def write_temporary(self) -> None:
        """Write the new content beside the target, with its final owner and mode."""
        path = Path(self.path)
        _make_parents(path)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        self.temporary = Path(name)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.content)
            file.flush()
            os.fsync(file.fileno())
        if self.mode is None and self.status is not None:
            self.temporary.chmod(stat.S_IMODE(self.status.st_mode))
        self._set_attributes(self.temporary)

    def finish(self) -> None:
        path = Path(self.path)
        if self.kind == "link":
            _make_parents(path)
            self.temporary = path.with_name(f".{path.name}.{os.getpid()}")
            self.temporary.symlink_to(self.target)
        if self.temporary is not None:
            self.temporary.replace(path)
            self.temporary = None
            if self.kind == "file":
                # On FAT a name's entry, with the file's start and size, goes to the disk with the file and not with its
                # folder (fat_write_inode in Linux). Until then the entry has the old start, whose clusters are free.
                _fsync(path, os.O_RDONLY)
        elif self.kind == "absent":
            if self.status is not None and stat.S_ISDIR(self.status.st_mode):
                shutil.rmtree(path)
            else:
                path.unlink()
        _fsync(path.parent, os.O_RDONLY | os.O_DIRECTORY)

    def _set_attributes(self, path: Path) -> None:
        uid, gid = self._ids(strict=True)
        if uid != -1 or gid != -1:
            os.chown(path, uid, gid)
        if self.mode is not None:
            path.chmod(self.mode)


def _write(items: list[_Item], pending: list[_Item]) -> None:
    try:
        for item in pending:
            if item.kind == "directory":
                item.make_directory()
            elif item.kind == "file":
                item.write_temporary()
        _validate(items, pending)
        for item in pending:
            if item.kind != "directory":
                item.finish()
    finally:
        for item in pending:
            if item.temporary is not None:
                item.temporary.unlink(missing_ok=True)


def _validate(items: list[_Item], pending: list[_Item]) -> None:
    """Run the validators of what changed against a copy of all files of this call.

    The copy mirrors the target tree, because validators go by a file's name and
    look for its neighbours (``systemd-analyze verify`` wants ``x.service``).
    """
    checked = [item for item in pending if item.validate]
    if not checked:
        return
    with tempfile.TemporaryDirectory(prefix="hedgerow-validate-") as folder:
        for item in items:
            if item.kind == "file":
                staged = Path(folder) / item.path.lstrip("/")
                staged.parent.mkdir(parents=True, exist_ok=True)
                staged.write_bytes(item.content)
        for item in checked:
            _run_validator(item, str(Path(folder) / item.path.lstrip("/")))


def _run_validator(item: _Item, staged: str) -> None:
    command = [word.replace("%s", staged) for word in shlex.split(item.validate or "")]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_VALIDATE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlaceError(f"nothing was written, a validator did not run: {error}", where=item.path) from error
    if done.returncode != 0:
        said = (done.stderr + done.stdout).replace(staged, item.path).strip()
        what = f"nothing was written, `{item.validate}` refuses a file (exit {done.returncode}):\n{said}"
        raise PlaceError(what, where=item.path, next_step="correct the template or its variables, then run again")


def _make_parents(path: Path) -> None:
    """Make missing parents as a package would: root's, 0755, whatever the umask is."""
    for parent in reversed(path.parents):
        if not parent.exists():
            parent.mkdir()
            parent.chmod(0o755)


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _fsync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _text(data: bytes) -> str:
    if len(data) > _DIFF_LIMIT:
        return f"({len(data)} bytes)\n"
    try:
        return data.decode()
    except UnicodeDecodeError:
        return f"(binary, {len(data)} bytes)\n"


def _user_id(name: str | None, path: str, *, strict: bool) -> int:
    if name is None:
        return -1
    if name.isdigit():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        if strict:
            raise PlaceError(f"there is no user {name!r} on this host", where=path) from None
        return -2  # equals no real id, so the file counts as different


def _group_id(name: str | None, path: str, *, strict: bool) -> int:
    if name is None:
        return -1
    if name.isdigit():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        if strict:
            raise PlaceError(f"there is no group {name!r} on this host", where=path) from None
        return -2


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
