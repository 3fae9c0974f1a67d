"""The folder of a device's identity: what lies where, who may read it, and how one pair takes another's place.

Two layouts, whose readers see the same three names:

- ``files``: ``device.key``, ``device.crt`` and ``ca.crt`` are plain files. With the same key a renewal is one rename.
  With another key it is two, and a power cut between them leaves a pair that does not match until the next run.
- ``generations``: the three are links into ``current/``, which is a link to ``generations/<n>/``. Whatever changes,
  the switch is one rename, and a reader has one generation or the other, whole.

Invariants:

- A generation is complete and on disk before ``current`` names it, and never changed after.
- Turning ``files`` into ``generations`` first makes a generation of what is there; at no moment does a name lead to
  other bytes than before.
- The folder and generations are 0700, keys 0600; what is found looser is named (``faults``) and ``mend`` puts it right.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from hedgerow.identity.keys_device.tool import EnrolError

KEY, CERTIFICATE, CA = "device.key", "device.crt", "ca.crt"
MODES = {KEY: 0o600, CERTIFICATE: 0o644, CA: 0o644}
FOLDER_MODE = 0o700
STAGED = ".new"  # beside the file it will replace; a crash leaves at most one of each, which the next run overwrites
CURRENT, GENERATIONS = "current", "generations"
FILES = "files"
LAYOUTS = (FILES, GENERATIONS)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def layout(folder: Path) -> str:
    """Which layout is there; an empty folder has ``files``."""
    return GENERATIONS if (folder / CURRENT).is_symlink() else FILES


def text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def write(path: Path, content: str, mode: int) -> None:
    """A new file with ``content``, on disk when this returns.

    Raises:
        EnrolError: the disk is full.
    """
    # Never the old one's bytes: a power cut may have left this name beside a generation's, for the same file.
    path.unlink(missing_ok=True)
    with out_of_room(path):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def full(path: Path) -> EnrolError:
    return EnrolError(
        "the disk is full; the old certificate stays",
        where=str(path.parent),
        next_step=f"make room: df -h {path.parent}",
    )


@contextmanager
def out_of_room(path: Path) -> Iterator[None]:
    """Say it in words where the disk has no room."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise full(path) from error
        raise


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make the folder if it is missing, and hold it for one process at a time."""
    with out_of_room(folder):
        if not folder.is_dir():
            for parent in reversed(folder.parents):
                if not parent.exists():
                    parent.mkdir(mode=0o755)
                    parent.chmod(0o755)
            folder.mkdir(mode=FOLDER_MODE)
            folder.chmod(FOLDER_MODE)
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


# -- who may read ----------------------------------------------------------


def faults(folder: Path) -> Iterator[dict[str, str]]:
    """What is looser than it should be, as ``{"path", "what"}``; ``mend`` puts it right.

    Raises:
        EnrolError: something is neither the plain file, the folder nor the one link that it should be.
    """
    for path, wanted in _expected(folder).items():
        try:
            found = path.lstat()
        except FileNotFoundError:
            continue
        regular = stat.S_ISDIR(found.st_mode) if wanted == FOLDER_MODE else stat.S_ISREG(found.st_mode)
        if not regular:
            raise EnrolError(
                f"{path} is neither a plain file nor the folder it should be",
                where=str(path),
                next_step=f"look at it: ls -ld {path}; then move it away",
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode != wanted:
            yield {"path": str(path), "what": f"mode {mode:04o} instead of {wanted:04o}"}
        elif (found.st_uid, found.st_gid) != (os.geteuid(), os.getegid()):
            yield {"path": str(path), "what": f"owner {found.st_uid}:{found.st_gid} instead of root"}


def mend(folder: Path) -> list[dict[str, str]]:
    """Set owner and modes right; what was wrong."""
    found = list(faults(folder))
    wanted = _expected(folder)
    for fault in found:
        path = Path(fault["path"])
        os.chown(path, os.geteuid(), os.getegid())
        path.chmod(wanted[path])
    return found


def exposed(folder: Path) -> bool:
    """Whether another user could reach and read the key: every folder let them through, and the key let them read."""
    key = _behind(folder, KEY)
    try:
        ways = [path.lstat() for path in (folder, *reversed([each for each in key.parents if folder in each.parents]))]
        found = key.lstat()
    except FileNotFoundError:
        return False
    if any(each.st_uid != os.geteuid() for each in (*ways, found)):
        return True
    group = found.st_mode & stat.S_IRGRP and all(way.st_mode & stat.S_IXGRP for way in ways)
    other = found.st_mode & stat.S_IROTH and all(way.st_mode & stat.S_IXOTH for way in ways)
    return bool(group or other)


def _expected(folder: Path) -> dict[Path, int]:
    """Every path that matters, and its mode; through the links, where there are."""
    paths = {folder: FOLDER_MODE}
    if layout(folder) == GENERATIONS:
        paths |= {folder / GENERATIONS: FOLDER_MODE, _generation(folder): FOLDER_MODE}
    return paths | {_behind(folder, name): mode for name, mode in MODES.items()}


def _behind(folder: Path, name: str) -> Path:
    """The file that a name leads to: through the one link that we make, and no other."""
    path = folder / name
    if path.is_symlink() and path.readlink() == Path(CURRENT, name) and layout(folder) == GENERATIONS:
        return _generation(folder) / name
    return path


def _generation(folder: Path) -> Path:
    """The generation in service.

    Raises:
        EnrolError: ``current`` leads anywhere else.
    """
    target = (folder / CURRENT).readlink()
    if target.parent != Path(GENERATIONS) or not target.name.isdigit():
        raise EnrolError(
            f"{folder / CURRENT} leads to {target}, which is no generation",
            where=str(folder / CURRENT),
            next_step=f"look at it: ls -l {folder}; then move it away",
        )
    return folder / target


# -- the switch ------------------------------------------------------------


def switch_files(folder: Path, changed: Mapping[str, Path]) -> None:
    """``files``: put staged files in place, CA first, certificate last. Key and certificate are two renames."""
    for name in (CA, KEY, CERTIFICATE):
        if name in changed:
            changed[name].replace(folder / name)
    sync(folder)


def switch_generation(folder: Path, contents: Mapping[str, Path]) -> None:
    """``generations``: make a generation of these files, put it into service by one rename, and clear away the others.

    Raises:
        EnrolError: the disk is full; what was in service stays.
    """
    _adopt(folder)
    fresh = _make_generation(folder, contents)
    _point(folder, fresh)
    _link_names(folder)
    _clear(folder, keep=fresh)


def _adopt(folder: Path) -> None:
    """Make plain files that are there a generation of their own, so that links can take their places."""
    plain = [name for name in MODES if (folder / name).is_file() and not (folder / name).is_symlink()]
    if not plain:
        return
    present = {name: _behind(folder, name) for name in MODES if (folder / name).exists()}
    _point(folder, _make_generation(folder, present))
    _link_names(folder)


def _make_generation(folder: Path, contents: Mapping[str, Path]) -> Path:
    """A folder of hard links to files that are on disk already: no room for their bytes is needed a second time."""
    parent = folder / GENERATIONS
    with out_of_room(parent):
        parent.mkdir(mode=FOLDER_MODE, exist_ok=True)
        path = parent / str(max([int(each.name) for each in parent.iterdir() if each.name.isdigit()], default=0) + 1)
        path.mkdir(mode=FOLDER_MODE)
        try:
            for name, source in contents.items():
                # What a name leads to may have moved into a generation since it was looked up.
                os.link(source.resolve(strict=True), path / name, follow_symlinks=False)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            raise
        for each in (path, parent, folder):
            sync(each)
    return path


def _point(folder: Path, generation: Path) -> None:
    _link(folder / CURRENT, Path(GENERATIONS, generation.name))
    sync(folder)


def _link_names(folder: Path) -> None:
    """Have every name of the generation in service lead there. Whatever a name was, it has the same bytes."""
    for name in MODES:
        path, target = folder / name, Path(CURRENT, name)
        if (folder / target).exists() and not (path.is_symlink() and path.readlink() == target):
            _link(path, target)
    sync(folder)


def _link(path: Path, target: Path) -> None:
    staged = path.with_name(path.name + ".link")
    staged.unlink(missing_ok=True)
    with out_of_room(path):
        staged.symlink_to(target)
    staged.replace(path)


def _clear(folder: Path, *, keep: Path) -> None:
    """Remove other generations: an old key that nobody uses is one that can only be stolen."""
    for each in (folder / GENERATIONS).iterdir():
        if each != keep:
            shutil.rmtree(each, ignore_errors=True)
    sync(folder / GENERATIONS)
