"""A runtime bundle: a folder of wheels, checked to be one that a device can install from and nothing else."""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from packaging.tags import Tag
from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from hedgerow.errors import UsageError
from hedgerow.models import place
from hedgerow.models.describing import Description, make
from hedgerow.registry.manifest import Manifest, Requires

REQUIREMENTS: Final = "requirements.txt"
BUILDER: Final = "hedgerow model pack-runtime"
Machine = Literal["aarch64", "x86_64"]


@dataclass(frozen=True)
class RuntimeRequest:
    """``wheels`` is the folder. ``python`` as ``3.13``, ``machine`` as ``uname -m`` says it: what it is for."""

    wheels: Path
    python: str
    machine: Machine
    said: Description


def pack(request: RuntimeRequest, *, cache: Path | None = None) -> Path:
    """Build the bundle of a wheelhouse; return its folder.

    Raises:
        UsageError: no wheels, something that is none, a wheel for another Python or machine, or two versions of one
            package.
    """
    files = check(request)
    unpacked = sum(_unpacked(path) for path in files if path.suffix == ".whl")

    def fill(folder: Path) -> Manifest:
        (folder / "wheels").mkdir()
        for file in files:
            target = folder / "wheels" if file.suffix == ".whl" else folder
            shutil.copyfile(file, target / file.name)
        needs = Requires(
            memory_mb=1, machine=request.machine, python=f"=={request.python}", disk_mb=unpacked // 1_000_000 + 1
        )
        return make(request.said, folder, files=files, tools={}, kind="runtime", format="wheels", requires=needs)

    return place.build(
        fill,
        name=request.said.name,
        version=request.said.version,
        inputs=request.said.inputs(*files),
        facts=request.said.facts("runtime", request.python, request.machine),
        tools={},
        cache=cache,
    )


def check(request: RuntimeRequest) -> list[Path]:
    """Return the folder's files: wheels that fit, and ``requirements.txt`` where there is one. Raises as ``pack``."""
    if not request.wheels.is_dir():
        raise UsageError("no folder of wheels here", where=str(request.wheels), next_step="hedgerow runtime build")
    files = sorted(request.wheels.iterdir())
    seen: dict[str, str] = {}
    for path in files:
        if path.name == REQUIREMENTS and path.is_file():
            continue
        try:
            name, version, _, tags = parse_wheel_filename(path.name)
        except InvalidWheelFilename as error:
            raise UsageError(
                f"{path.name} is no wheel", where=str(path), next_step="leave nothing but wheels in the folder"
            ) from error
        if not any(fits(tag, request.python, request.machine) for tag in tags):
            raise UsageError(
                f"{path.name} is not for Python {request.python} on {request.machine}",
                where=str(path),
                next_step=f"download it for the device: pip download --platform … --python-version {request.python}",
            )
        if name in seen:
            raise UsageError(
                f"{name} is there twice, as {seen[name]} and {version}",
                where=str(path),
                next_step="leave one of them in the folder",
            )
        seen[name] = str(version)
    if not seen:
        raise UsageError("the folder holds no wheel", where=str(request.wheels), next_step="hedgerow runtime build")
    return files


def fits(tag: Tag, python: str, machine: str) -> bool:
    """Whether a wheel of ``tag`` installs on CPython ``python`` (``3.13``) on Linux and ``machine``.

    As https://packaging.python.org/en/latest/specifications/platform-compatibility-tags/ has it, for glibc.
    """
    version = tuple(int(part) for part in python.split("."))
    platform = tag.platform == "any" or (
        tag.platform.startswith(("manylinux", "linux_")) and tag.platform.endswith(f"_{machine}")
    )
    own = f"cp{version[0]}{version[1]}"
    if tag.interpreter == own:
        return platform and tag.abi in {own, "abi3", "none"}
    if tag.interpreter.startswith("cp3") and tag.abi == "abi3":  # an older Python's stable interface
        return platform and int(tag.interpreter[3:]) <= version[1]
    return platform and tag.interpreter in {"py3", f"py{version[0]}{version[1]}"} and tag.abi == "none"


def _unpacked(path: Path) -> int:
    try:
        with zipfile.ZipFile(path) as wheel:
            if not any(name.endswith(".dist-info/METADATA") for name in wheel.namelist()):
                raise UsageError("the wheel has no METADATA", where=str(path), next_step="download it again")
            return sum(entry.file_size for entry in wheel.infolist())
    except zipfile.BadZipFile as error:
        raise UsageError(f"the wheel is damaged: {error}", where=str(path), next_step="download it again") from error
