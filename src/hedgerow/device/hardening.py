"""What hardening finds on a host: kernel settings, the loaded firewall, what sshd would do.

The standard library alone: the controller sends this module (``plugins/action/hedgerow_guarded.py``). ``probe`` reads;
``judge_sshd`` refuses before sshd is reloaded; ``note_ruleset`` and ``mask`` write.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

PROC_SYS = Path("/proc/sys")
# The ruleset as nft lists it, hashed when it was applied: a rule that somebody adds by hand is seen by the next run.
RULESET_NOTE = Path("/var/lib/hedgerow/hardening/ruleset.sha256")
_TIMEOUT_S = 60


class HardeningError(Exception):
    """What a person must read; ``hedgerow.remote_script`` carries it to the controller."""

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        super().__init__(what)
        self.what, self.where, self.next_step = what, where, next_step


def probe(*, sysctls: dict[str, str], firewall: bool, sshd: dict[str, Any]) -> dict[str, Any]:
    """Where the running host differs from what its files say: ``{"differs": {"sysctl"|"firewall"|"sshd": [text]}}``.

    ``absent`` lists kernel settings that this kernel does not have.
    """
    live = {key: _sysctl(key) for key in sysctls}
    differs = {
        "sysctl": [
            f"{key} is {live[key]}, not {value}"
            for key, value in sysctls.items()
            if live[key] is not None and live[key] != _words(value)
        ],
        "firewall": _firewall_differs(wanted=firewall),
        "sshd": sshd_problems(**sshd),
    }
    return {
        "differs": {key: found for key, found in differs.items() if found},
        "absent": [key for key in sysctls if live[key] is None],
    }


def judge_sshd(*, user: str, address: str, wanted: dict[str, str]) -> dict[str, Any]:
    """Let sshd read its whole configuration and say what it would do for ``user``.

    Raises:
        HardeningError: sshd refuses the configuration, or another file decides otherwise.
    """
    code, said = _run(["/usr/sbin/sshd", "-t"])
    if code != 0:
        raise HardeningError(
            f"sshd refuses its whole configuration, so it was not reloaded: {said.strip()}",
            where="/etc/ssh/sshd_config.d",
            next_step="correct the file that it names, then run again",
        )
    problems = sshd_problems(user=user, address=address, wanted=wanted)
    if problems:
        raise HardeningError(
            f"sshd would not do what our file says, so it was not reloaded: {'; '.join(problems)}",
            where="/etc/ssh/sshd_config, /etc/ssh/sshd_config.d",
            next_step="remove what decides otherwise (grep -ri KEYWORD /etc/ssh), or waive the rule with a reason",
        )
    return {"changed": False}


def note_ruleset() -> dict[str, Any]:
    """Remember the ruleset that was just loaded."""
    RULESET_NOTE.parent.mkdir(parents=True, exist_ok=True)
    RULESET_NOTE.write_text(_ruleset() or "")
    return {"changed": True}


def mask(units: list[str]) -> dict[str, Any]:
    """Stop ``units`` and keep anything from starting them.

    Raises:
        HardeningError: systemd refuses one.
    """
    code, said = _run(["systemctl", "mask", "--now", *units])
    if code != 0:
        raise HardeningError(f"systemctl mask --now {' '.join(units)} failed: {said.strip()}")
    return {"changed": True, "units": units}


# -- parsers ---------------------------------------------------------------


def parse_effective(text: str) -> dict[str, str]:
    """``sshd -T``: keyword in lower case → value; a keyword on several lines has them all, in order."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        found[keyword] = f"{found[keyword]} {value}" if keyword in found else value
    return found


def effective_problems(effective: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """A text for each keyword whose value is another than the one wanted; case counts in neither."""
    return [
        f"{keyword} is {effective.get(keyword.lower(), 'unknown')}, our file says {value}"
        for keyword, value in wanted.items()
        if effective.get(keyword.lower(), "").lower() != value.lower()
    ]


# -- reading ---------------------------------------------------------------


def sshd_problems(*, user: str, address: str, wanted: dict[str, str]) -> list[str]:
    """Where sshd's effective configuration for ``user`` from ``address`` differs from ``wanted``."""
    code, said = _run(["/usr/sbin/sshd", "-T", "-C", f"user={user},host={address},addr={address}"])
    if code != 0:
        return [f"sshd -T fails: {said.strip()}"]
    return effective_problems(parse_effective(said), wanted)


def _firewall_differs(*, wanted: bool) -> list[str]:
    loaded = _ruleset()
    if (loaded is not None) != wanted:
        return ["it is not loaded" if wanted else "it is loaded"]
    noted = RULESET_NOTE.read_text() if RULESET_NOTE.is_file() else None
    return ["its rules are not the ones that were applied"] if wanted and loaded != noted else []


def _ruleset() -> str | None:
    """The hash of our table without counters and set contents; None where it is not loaded."""
    code, said = _run(["nft", "--stateless", "--terse", "list", "table", "inet", "hedgerow"])
    return hashlib.sha256(said.encode()).hexdigest() if code == 0 else None


def _sysctl(key: str) -> str | None:
    try:
        return _words((PROC_SYS / key.replace(".", "/")).read_text())
    except OSError:
        return None


def _words(text: str) -> str:
    return " ".join(text.split())


def _run(command: list[str]) -> tuple[int, str]:
    """Exit code and output of a program; a missing or hanging one counts as failed."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    return done.returncode, done.stdout if done.returncode == 0 else done.stderr + done.stdout
