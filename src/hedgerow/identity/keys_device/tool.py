"""Run a program of the device; what it says when it fails becomes an error that a person can act on."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

_TIMEOUT_S = 60


class EnrolError(Exception):
    """What is wrong on this device, where, and what to type next; ``remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str, next_step: str) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


class MissingProgramError(EnrolError):
    """The program is not installed."""


def openssl(*arguments: str, stdin: str = "") -> str:
    """What ``openssl`` prints.

    Raises:
        EnrolError: it failed; ``what`` has the gist of what it said.
    """
    done = run("openssl", *arguments, stdin=stdin.encode(), package="openssl")
    if done.returncode != 0:
        raise EnrolError(
            f"openssl {arguments[0]} failed: {gist(done)}", where="openssl", next_step="see the message of openssl"
        )
    return done.stdout.decode(errors="replace")


def run(
    program: str,
    *arguments: str,
    package: str,
    stdin: bytes = b"",
    timeout_s: float = _TIMEOUT_S,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; files that it makes are private.

    Raises:
        MissingProgramError: it is not installed; ``package`` has it.
        EnrolError: it did not end within ``timeout_s``.
    """
    try:
        return subprocess.run(
            [program, *arguments],
            input=stdin,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            umask=0o077,
            env=environment,
        )
    except FileNotFoundError:
        raise MissingProgramError(
            f"the program {program} is not installed", where="PATH", next_step=f"apt-get install {package}"
        ) from None
    except subprocess.TimeoutExpired:
        raise EnrolError(
            f"{program} did not answer within {timeout_s:g} s",
            where=f"{program} {arguments[0] if arguments else ''}".strip(),
            next_step="try again; if it stays silent, restart the device",
        ) from None


def gist(done: subprocess.CompletedProcess[bytes]) -> str:
    """The line that says most: one of ``error``, else the last one."""
    text = (done.stdout + done.stderr).decode(errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error")), lines[-1] if lines else "no message")
