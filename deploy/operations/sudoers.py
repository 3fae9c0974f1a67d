"""Place a sudoers file that visudo has accepted: a broken one locks everybody out."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from pyinfra import host
from pyinfra.api import StringCommand, operation
from pyinfra.facts.files import File, FileContents


@operation()
def sudoers(path: str, content: str) -> Iterator[StringCommand]:
    """Ensure that ``path`` holds ``content``, root's alone (0440).

    visudo checks a copy outside ``/etc/sudoers.d``, which sudo would read at once.
    """
    found = host.get_fact(File, path=path) or {}
    wanted = content.splitlines()
    if host.get_fact(FileContents, path=path) == wanted and (
        found.get("user"),
        found.get("group"),
        found.get("mode"),
    ) == ("root", "root", 440):
        host.noop(f"{path} is as it should be")
        return
    yield StringCommand(install(path, wanted, candidate=host.get_temp_filename(path)))


def install(path: str, lines: list[str], *, candidate: str) -> str:
    """Return the shell command: write ``candidate``, let visudo judge it, put it in place; it is gone at the end."""
    quoted = " ".join(shlex.quote(line) for line in lines)
    candidate = shlex.quote(candidate)
    return (
        f"umask 077; printf '%s\\n' {quoted} > {candidate} && visudo -qcf {candidate}"
        f" && install -o root -g root -m 0440 {candidate} {shlex.quote(path)}"
        f"; status=$?; rm -f {candidate}; exit $status"
    )
