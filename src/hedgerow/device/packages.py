"""Bring packages to the versions of the lock: whole transactions, simulated first, holds kept around them.

The standard library alone: the controller sends this file's source (``plugins/action/hedgerow_packages.py``).

Invariants:

- Nothing is changed while a reason against it is known: a broken dpkg, a full disk, an archive that does not answer,
  a simulation that would remove or move something else. Each is refused with the next command to type.
- apt runs as a unit of its own: a lost SSH connection does not leave a package half configured (F7). Its output goes
  to ``LOG``; the next run waits for it.
- What was on hold is on hold afterwards, whatever happened in between.
- Check mode changes nothing, not even apt's lists; what they do not know yet would come.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LOG = Path("/var/log/hedgerow-packages.log")
_UNIT = "hedgerow-packages"
_APT_TIMEOUT_S = 3600  # a driver is compiled on the board
_QUERY_TIMEOUT_S = 120
_LOCK_WAIT_S = 300
_POLL_S = 2.0
# A prompt would wait for ever; a file that was changed here stays as it is.
_OPTIONS = (
    "-o", f"DPkg::Lock::Timeout={_LOCK_WAIT_S}", "-o", "Dpkg::Options::=--force-confdef",
    "-o", "Dpkg::Options::=--force-confold",
)  # fmt: skip
# What an archive says of a key or a path that is over (F25: Mender's moved in November 2025, its key ended in 2026-10).
_ARCHIVE_GONE = re.compile(r"EXPKEYSIG|KEYEXPIRED|expired|NO_PUBKEY|403 +Forbidden|404 +Not Found", re.IGNORECASE)


class PackagesError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def settle(
    *,
    hold: Sequence[str] = (),
    release: Sequence[str] = (),
    transactions: Sequence[Mapping[str, Any]] = (),
    locked: Mapping[str, str] | None = None,
    free_mb: Mapping[str, int] | None = None,
    check: bool = False,
) -> dict[str, Any]:
    """Carry out ``transactions`` in order, then put ``hold`` on hold and let ``release`` go.

    A transaction is ``{"name", "install": {package: version}, "remove": [package], "rebuilt": bool}``; ``rebuilt``
    takes the version with a ``+bN``, too. ``locked`` is package → version of everything the lock names: none of it may
    be removed or become another version. ``free_mb`` is place → MiB that must be free before anything starts.

    Returns ``{"changed", "held", "released", "done": [text]}``.

    Raises:
        PackagesError: see the module's invariants; what is wrong, where, and what to type next.
    """
    done: list[str] = []
    if transactions:
        _await_earlier_run()
        require_whole_dpkg(_run("dpkg", "--audit").stdout)
        require_space(free_mb or {}, {place: _free_mb(place) for place in free_mb or {}})
        if not check:
            _update()
        _simulate(transactions, locked or {}, unknown_is_to_come=check)
        for one in transactions:
            if not check:
                _carry_out(one, locked or {})
            done.append(in_words(one))
    if not check:
        # What a transaction brought is not on hold yet, whoever asked.
        installed = installed_versions(_dpkg_query())
        hold = sorted({*hold, *(set(locked or {}) & installed.keys() if transactions else ())})
        _select(hold, "hold")
        _select(release, "install")
    return {
        "changed": bool(done or hold or release),
        "held": list(hold),
        "released": list(release),
        "done": done,
    }


def in_words(one: Mapping[str, Any]) -> str:
    """One transaction as a sentence."""
    parts = [f"{name}={version}" for name, version in one["install"].items()]
    parts += [f"{name} removed" for name in one["remove"]]
    return f"{one['name']}: {', '.join(parts)}"


# -- pure ------------------------------------------------------------------


def require_whole_dpkg(audit: str) -> None:
    """Refuse where ``dpkg --audit`` names anything (F7: a driver that does not build leaves its package so)."""
    if not audit.strip():
        return
    names = re.findall(r"^ (\S+)", audit, re.MULTILINE)
    raise PackagesError(
        f"dpkg was interrupted: {', '.join(names) or audit.strip()} not fully installed (F7)",
        where="dpkg --audit",
        next_step="sudo dpkg --configure -a; if a driver does not build for the kernel, its log is named there: "
        "install a version that does, or purge it",
    )


def require_space(wanted: Mapping[str, int], free: Mapping[str, int | None]) -> None:
    """Refuse where less is free than a transaction may need."""
    for place, needed in wanted.items():
        have = free.get(place)
        if have is not None and have < needed:
            raise PackagesError(
                f"{have} MiB are free on {place}, {needed} are needed for new packages; nothing was changed",
                where=place,
                next_step=f"sudo apt-get clean; sudo du -xh --max-depth=2 {place} | sort -h | tail",
            )


def parse_simulation(text: str) -> tuple[dict[str, str], list[str]]:
    """``apt-get --simulate``: package → version it would get, and what it would remove."""
    installs = dict(re.findall(r"^Inst (\S+)(?: \[[^]]*\])? \((\S+) ", text, re.MULTILINE))
    return installs, re.findall(r"^(?:Remv|Purg) (\S+)", text, re.MULTILINE)


def objections(
    transactions: Sequence[Mapping[str, Any]],
    locked: Mapping[str, str],
    installs: Mapping[str, str],
    removals: Iterable[str],
) -> list[str]:
    """Why a simulated transaction must not be carried out; a sentence each (F1: no half of a set is moved)."""
    asked = {name: version for one in transactions for name, version in one["install"].items()}
    removing = {name for one in transactions for name in one["remove"]}
    found = [
        f"it would remove {name}" + (", which the lock names" if name in locked else "")
        for name in sorted(set(removals) - removing)
    ]
    found += [
        f"it would bring {name} to {version}, the lock says {locked[name]}"
        for name, version in sorted(installs.items())
        if name in locked and not same(asked.get(name, locked[name]), version)
    ]
    return found


def same(wanted: str, have: str) -> bool:
    """Whether ``have`` is ``wanted``, or a rebuild of it."""
    return re.fullmatch(re.escape(wanted) + r"(\+b\d+)?", have) is not None


def installed_versions(text: str) -> dict[str, str]:
    """Package → version of what dpkg has wholly installed."""
    rows = (line.split("\t") for line in text.splitlines())
    return {name: version for name, status, version in rows if status.endswith(" installed")}


# -- apt and dpkg ----------------------------------------------------------


def _simulate(
    transactions: Sequence[Mapping[str, Any]], locked: Mapping[str, str], *, unknown_is_to_come: bool = False
) -> None:
    """Refuse all of ``transactions`` together, where apt would do anything that was not asked."""
    names = ", ".join(one["name"] for one in transactions)
    done = _run("apt-get", "--simulate", *_install_arguments(transactions), "--allow-change-held-packages")
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip()
        if unknown_is_to_come and re.search(r"was not found|Unable to locate", said):
            return
        raise PackagesError(
            f"apt cannot carry out the lock ({names}); nothing was changed: {_gist(said)}",
            where="apt-get --simulate",
            next_step="see which versions the archives have: apt-cache policy "
            + " ".join(sorted({name for one in transactions for name in one["install"]})),
        )
    found = objections(transactions, locked, *parse_simulation(done.stdout))
    if found:
        raise PackagesError(
            f"apt would do more than was asked ({names}); nothing was changed: {'; '.join(found)}",
            where="apt-get --simulate",
            next_step="change the lock so that what belongs together changes together: hedgerow release check",
        )


def _carry_out(one: Mapping[str, Any], locked: Mapping[str, str]) -> None:
    held = [name for name in _held() if name in one["install"] or name in one["remove"] or name in locked]
    with _let_go(held):
        _simulate([one], locked)
        done = _apt(*_install_arguments([one]))
    have = installed_versions(_dpkg_query())
    wrong = [
        f"{name} is {have.get(name, 'absent')}"
        for name, version in one["install"].items()
        if not same(version, have.get(name, ""))
    ]
    wrong += [f"{name} is still there" for name in one["remove"] if name in have]
    if done.returncode == 0 and not wrong:
        return
    raise PackagesError(
        f"{in_words(one)}: apt ended with exit code {done.returncode}"
        + (f", {'; '.join(wrong)}" if wrong else "")
        + f": {_gist(_tail(LOG))}",
        where=str(LOG),
        next_step="read it, then: sudo dpkg --configure -a; the same run again finishes, the lock before takes back",
    )


def _install_arguments(transactions: Sequence[Mapping[str, Any]]) -> list[str]:
    wanted = [
        f"{name}={version}{'*' if one.get('rebuilt') else ''}"
        for one in transactions
        for name, version in one["install"].items()
    ]
    removed = [f"{name}-" for one in transactions for name in one["remove"]]
    return ["install", "--yes", "--no-install-recommends", "--allow-downgrades", *wanted, *removed]


def _update() -> None:
    """Read the archives; one that does not answer is named, and stops the rest."""
    done = _apt("update", "-o", "APT::Update::Error-Mode=any")
    if done.returncode == 0:
        return
    said = _tail(LOG)
    gone = _ARCHIVE_GONE.search(said) is not None
    raise PackagesError(
        f"an archive does not answer as it should; nothing was changed: {_gist(said)}",
        where="apt-get update",
        next_step="the archive moved or its key is over (F25): correct os_pinning_sources and the key file"
        if gone
        else "see whether the host reaches it: sudo apt-get update",
    )


def _await_earlier_run() -> None:
    """A run whose connection was lost may still be at work: its end is awaited, not disturbed."""
    deadline = time.monotonic() + _APT_TIMEOUT_S
    while _run("systemctl", "is-active", f"{_UNIT}.service").stdout.strip() in {"active", "activating"}:
        if time.monotonic() > deadline:
            raise PackagesError(
                "an earlier run of apt does not end", where=f"{_UNIT}.service", next_step=f"systemctl status {_UNIT}"
            )
        time.sleep(_POLL_S)


def _apt(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run apt-get as a unit of its own, its output in ``LOG``."""
    environment = {"DEBIAN_FRONTEND": "noninteractive", "NEEDRESTART_SUSPEND": "1", "LC_ALL": "C.UTF-8"}
    return _run(
        "systemd-run", "--quiet", "--wait", "--collect", f"--unit={_UNIT}", "--property=Type=oneshot",
        f"--property=StandardOutput=truncate:{LOG}", f"--property=StandardError=append:{LOG}",
        *(f"--setenv={key}={value}" for key, value in environment.items()),
        shutil.which("apt-get") or "/usr/bin/apt-get", *_OPTIONS, *arguments,
        timeout=_APT_TIMEOUT_S,
    )  # fmt: skip


@contextmanager
def _let_go(names: Sequence[str]) -> Iterator[None]:
    """Take ``names`` off hold; whatever happens, they are on hold again afterwards, where they are still there."""
    _select(names, "install")
    try:
        yield
    finally:
        have = installed_versions(_dpkg_query())
        _select([name for name in names if name in have], "hold")


def _select(names: Sequence[str], selection: str) -> None:
    if names:
        lines = "".join(f"{name} {selection}\n" for name in names)
        done = _run("dpkg", "--set-selections", stdin=lines)
        if done.returncode != 0:
            raise PackagesError(f"dpkg --set-selections failed: {done.stderr.strip()}", where=", ".join(names))


def _held() -> list[str]:
    rows = (line.split("\t") for line in _dpkg_query().splitlines())
    return [name for name, status, _ in rows if status.startswith("hold ")]


def _dpkg_query() -> str:
    return _run("dpkg-query", "-W", "-f", "${Package}\\t${Status}\\t${Version}\\n").stdout


def _run(
    *command: str, stdin: str | None = None, timeout: float = _QUERY_TIMEOUT_S
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
    except subprocess.TimeoutExpired as error:
        raise PackagesError(
            f"{command[0]} gave no answer within {timeout:.0f} s",
            where=" ".join(command),
            next_step=f"systemctl status {_UNIT}; ps faux | grep dpkg",
        ) from error


def _free_mb(place: str) -> int | None:
    try:
        return shutil.disk_usage(place).free // 2**20
    except OSError:
        return None


def _tail(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")[-4000:]
    except OSError:
        return ""


def _gist(said: str) -> str:
    """The errors that apt names as such, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("E:", "dpkg: error"))]
    errors += [line for line in lines if line.startswith("W:") and _ARCHIVE_GONE.search(line)]
    return " ".join(errors or lines[-1:] or ["no message"])
