"""From the inventory to AppArmor profiles on a host, and back: does the kernel confine what should be confined?

- A profile's text has one place, ``files/apparmor.d``; the lock's feature ABI, its mode and rules that the inventory
  adds are put in here, so that a change of mode is a change of the file, which ``--check --diff`` shows.
- Loaded is not confined: what counts is under which profile the processes of a service run (``unproven``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hedgerow.device.confinement import FOLDER, PREFIX, UNITS
from hedgerow.errors import UsageError

MODES = ("enforce", "complain")
HEADER = "# Written by Hedgerow (role apparmor); changes here are overwritten."
# Which kind of host has what a profile confines.
PROFILES: Mapping[str, frozenset[str]] = {
    "hedgerow-server": frozenset({"pi"}),
    "hedgerow-exporter": frozenset({"pi"}),
    "hedgerow-device": frozenset({"pi"}),
    "hedgerow-agent": frozenset({"pi"}),
    "hedgerow-bundle": frozenset({"pi"}),
    "hedgerow-mender": frozenset({"pi"}),
    "hedgerow-node-exporter": frozenset({"pi", "gateway"}),
    "hedgerow-nginx": frozenset({"gateway"}),
    # Of gateways that renew certificates: none does unless it is asked to.
    "hedgerow-renewal": frozenset({"renewal"}),
    # Of Pis that read cameras: the same.
    "hedgerow-vision": frozenset({"vision"}),
}
_ABI = re.compile(r"(?m)^abi <abi/[^>]+>,$")
_FLAGS = re.compile(r"(?m)^(profile .*flags=\()([^)]*)(\) \{)$")
_FRAGMENT = re.compile(r"(?m)^ *include <(hedgerow/[a-z]+)>\n")
_LOCAL = re.compile(r"(?m)^ *include if exists <local/")


def modes(kinds: Iterable[str], mode: str, *overrides: Mapping[str, str]) -> dict[str, str]:
    """Profile → mode for a host of these kinds (``pi``, ``gateway``, ``renewal``, ``vision``); later overrides win.

    Raises:
        UsageError: a profile or a mode that does not exist.
    """
    if mode not in MODES:
        raise UsageError(f"apparmor_mode {mode!r} is none", next_step=f"write one of: {', '.join(MODES)}")
    wanted = set(kinds)
    found = {name: mode for name, hosts in PROFILES.items() if hosts & wanted}
    for override in overrides:
        for name, own in override.items():
            if name not in PROFILES:
                raise UsageError(
                    f"apparmor_profile_modes names {name!r}, which is no profile of ours",
                    next_step=f"name one of: {', '.join(PROFILES)}",
                )
            if own not in MODES:
                raise UsageError(
                    f"apparmor_profile_modes wants {name} in mode {own!r}",
                    next_step=f"write one of: {', '.join(MODES)}",
                )
            # A group may name a profile that only some of its hosts have.
            if name in found:
                found[name] = own
    return found


def texts(folder: str, wanted: Mapping[str, str], abi: str, *rules: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Profile → the text for the host, from the sources in ``folder``."""
    for extra in rules:
        if unknown := sorted(set(extra) - set(PROFILES)):
            raise UsageError(
                f"apparmor_rules names {', '.join(unknown)}, no profile of ours",
                next_step=f"name some of: {', '.join(PROFILES)}",
            )
    return {
        name: render(
            (Path(folder) / name).read_text(encoding="utf-8"),
            abi=abi,
            mode=mode,
            fragments=folder,
            rules=[rule for extra in rules for rule in extra.get(name, ())],
        )
        for name, mode in wanted.items()
    }


def render(text: str, *, abi: str, mode: str, fragments: str, rules: Sequence[str] = ()) -> str:
    """A profile as it lies on a host: one file, the lock's ABI, its mode, the inventory's rules at its end.

    Raises:
        UsageError: the source lacks the place for one of these, or a rule is more than one.
    """
    for rule in rules:
        bare = re.sub(r"@?\{[^}\s]*\}", "", rule)
        if "\n" in bare or "," in bare[:-1] or "{" in bare:
            raise UsageError(f"{rule!r} is no single rule", next_step="write one as in a profile: /srv/models/** r")

    def fragment(found: re.Match[str]) -> str:
        return (Path(fragments) / found[1]).read_text(encoding="utf-8")

    def flags(found: re.Match[str]) -> str:
        own = [flag for flag in found[2].replace(",", " ").split() if flag not in MODES]
        return f"{found[1]}{', '.join(own + (['complain'] if mode == 'complain' else []))}{found[3]}"

    # With or without its comma: in a YAML list of one line it cannot be written without quotes.
    added = "".join(f"  {rule.rstrip(',')},\n" for rule in rules)
    if added:
        added = f"  # From the inventory (apparmor_rules).\n{added}\n"
    text, inlined = _FRAGMENT.subn(fragment, text)
    text, abis = _ABI.subn(f"abi <abi/{abi}>,", text)
    text, headers = _FLAGS.subn(flags, text)
    text, places = _LOCAL.subn(lambda found: added + found[0], text)
    if (abis, headers, places) != (1, 1, 1):
        raise UsageError(
            f"a profile has one abi line, one header with flags and one local include; this one {abis}, {headers} and "
            f"{places} ({inlined} fragments)",
            where=text.partition("\n")[0],
        )
    return f"{HEADER}\n{text}"


def to_load(facts: Mapping[str, Any], wanted: Mapping[str, str], files: Mapping[str, Any]) -> list[str]:
    """Profiles that the kernel must take: changed just now, not loaded, in another mode, or older than their file.

    ``files`` is the answer of ``hedgerow_files``. A run that is cut off between a file and its loading leaves the
    kernel with the old policy under the right name and mode; only the time of loading tells.
    """
    apparmor = facts["apparmor"]
    if not apparmor["enabled"]:
        return []
    changed, settled = files["changed_paths"], files["settled"]

    def stale(name: str, mode: str) -> bool:
        path = f"{FOLDER}/{name}"
        loaded = apparmor["loaded"].get(name)
        # Files from the future (a board without a clock battery) would be loaded by every run.
        written = settled.get(path, 0.0)
        late = loaded is not None and loaded < written <= facts["time"]
        return path in changed or apparmor["profiles"].get(name) != mode or late

    return [name for name, mode in wanted.items() if stale(name, mode)]


def not_ours(facts: Mapping[str, Any], wanted: Mapping[str, str]) -> dict[str, list[Any]]:
    """What bears our prefix and is no longer wanted: names ``loaded`` in the kernel, ``files`` for `hedgerow_files`."""
    apparmor = facts["apparmor"]
    ours = [name for name in apparmor["profiles"] if name.startswith(PREFIX) and "//" not in name]
    return {
        "loaded": sorted(set(ours) - set(wanted)),
        "files": [{"absent": f"{FOLDER}/{name}"} for name in sorted(set(apparmor["files"]) - set(wanted))],
    }


def not_loaded(facts: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """Profiles that the kernel has not in their mode, a sentence each."""
    has = facts["apparmor"]["profiles"]
    return [
        f"profile {name} is {'in mode ' + has[name] if name in has else 'not loaded'}; {mode} is wanted"
        for name, mode in wanted.items()
        if has.get(name) != mode
    ]


def unproven(facts: Mapping[str, Any], wanted: Mapping[str, str]) -> list[str]:
    """What is not confined as wanted, a sentence each; empty where the kernel proves all of it."""
    found = not_loaded(facts, wanted)
    for name, mode in wanted.items():
        label = (facts["units"].get(UNITS[name]) or {}).get("confined")
        if label is not None and label != f"{name} ({mode})":
            found.append(f"{UNITS[name]} runs as {label}; {name} ({mode}) is wanted")
    return found
