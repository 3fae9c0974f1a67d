"""What stands for the board where the guest's own kernel shows nothing: a tar that the guest unpacks to /hardware.

The rest is links into the guest's real /proc: its device tree and its command line are what the firmware gave it.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

# Below the hardware root: shown by the guest's kernel.
REAL = {"proc/device-tree": "/proc/device-tree", "proc/cmdline": "/proc/cmdline"}


def archive(hardware: Path, hostname: str) -> bytes:
    """The rendered board of ``hardware`` without what is real in the guest, and the guest's name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in sorted(hardware.rglob("*")):
            relative = str(path.relative_to(hardware))
            if relative.startswith(tuple(REAL)) or (path.is_dir() and not path.is_symlink()):
                continue
            if path.is_symlink():
                _link(tar, relative, str(path.readlink()))
            else:
                _file(tar, relative, path.read_bytes())
        for relative, target in REAL.items():
            _link(tar, relative, target)
        _file(tar, "hostname", f"{hostname}\n".encode())
    return buffer.getvalue()


def _file(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = tarfile.SYMTYPE, target
    tar.addfile(info)
