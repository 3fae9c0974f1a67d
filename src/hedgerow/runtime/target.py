"""What a device can run: its Python, its architecture and the wheel tags that follow."""

from __future__ import annotations

from dataclasses import dataclass

from hedgerow.errors import UsageError

# Python → minor version of the glibc beside it: Debian 12, Ubuntu 24.04, Debian 13.
# It bounds the manylinux tags; a wheel for an older glibc runs on a newer one.
GLIBC_MINOR = {"3.11": 36, "3.12": 39, "3.13": 41}
# Oldest manylinux of each architecture (PEP 600) and the names that PEPs 513, 571 and 599 gave some of them.
OLDEST_GLIBC_MINOR = {"x86_64": 5, "aarch64": 17}
LEGACY_TAGS = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class Target:
    """A device's Python (``3.13``) and architecture (as ``uname -m`` prints it)."""

    python: str
    architecture: str

    def __post_init__(self) -> None:
        if self.python not in GLIBC_MINOR:
            raise UsageError(
                f"no runtime is built for Python {self.python}",
                where="--python, or fleet_release.runtime.python",
                next_step=f"choose one of {', '.join(GLIBC_MINOR)}",
            )
        if self.architecture not in OLDEST_GLIBC_MINOR:
            raise UsageError(
                f"no runtime is built for architecture {self.architecture}",
                where="--arch",
                next_step=f"choose one of {', '.join(OLDEST_GLIBC_MINOR)} (Raspberry Pi OS must be the 64-bit one)",
            )

    @property
    def name(self) -> str:
        """For file names: ``cp313-aarch64``."""
        return f"cp{self.python.replace('.', '')}-{self.architecture}"

    @property
    def platforms(self) -> list[str]:
        """Platform tags that run here, newest first."""
        tags = []
        for minor in range(GLIBC_MINOR[self.python], OLDEST_GLIBC_MINOR[self.architecture] - 1, -1):
            tags.append(f"manylinux_2_{minor}_{self.architecture}")
            if minor in LEGACY_TAGS:
                tags.append(f"{LEGACY_TAGS[minor]}_{self.architecture}")
        return tags

    @property
    def marker_environment(self) -> dict[str, str]:
        """Values of PEP 508's environment markers there; pip would use those of the Python that runs it."""
        return {
            "implementation_name": "cpython",
            "implementation_version": f"{self.python}.0",
            "os_name": "posix",
            "platform_machine": self.architecture,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
            "extra": "",
        }
