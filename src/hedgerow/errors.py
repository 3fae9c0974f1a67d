"""Errors by who is at fault, each with the exit code that docs/contracts.md fixes.

A message has three parts: what is wrong, where, and what to type next. A class
says whose move it is, not which module raised it.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of every Hedgerow command (docs/contracts.md)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    REFUSED = 3
    PARTIAL = 4


class HedgerowError(Exception):
    """Base of every error that a person is meant to read.

    ``what`` is one plain sentence; ``where`` names a file, key, host or URL;
    ``next_step`` is the command or edit that comes next.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.next_step = next_step

    def __str__(self) -> str:
        parts = [self.what]
        if self.where is not None:
            parts.append(f"where: {self.where}")
        if self.next_step is not None:
            parts.append(f"next: {self.next_step}")
        return "\n  ".join(parts)

    def as_dict(self) -> dict[str, str | int | None]:
        """The same error for ``--json``."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "where": self.where,
            "next": self.next_step,
            "exit_code": int(self.exit_code),
        }


class UsageError(HedgerowError):
    """The operator's command or file is wrong; nothing was started."""

    exit_code = ExitCode.USAGE


class RefusedError(HedgerowError):
    """A policy forbids it; the message names the rule."""

    exit_code = ExitCode.REFUSED


class PartialError(HedgerowError):
    """Partly done and resumable; the message says how."""

    exit_code = ExitCode.PARTIAL


class MachineError(HedgerowError):
    """The machine this runs on lacks a program, a right, space or a port."""


class DeviceError(HedgerowError):
    """A device is at fault: its state, its hardware, its disk."""


class NetworkError(HedgerowError):
    """A peer could not be reached or cut the line; worth another try."""


class PublisherError(HedgerowError):
    """What was published is wrong: bad signature, wrong hash, broken bundle."""
