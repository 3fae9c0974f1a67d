"""Keep the firewall's sets filled with the addresses that names have now.

The standard library alone: role ``hardening`` places this file on hosts as it is, where a timer, a path unit on
``/etc/resolv.conf`` and the firewall's own start run it.

Invariants:

- Sets change in one nft transaction: a reader of the ruleset sees the old addresses or the new ones.
- An answer counts for a day after it was last heard. So a name server that is away closes nothing that was open, and
  what a rotating name answered a moment ago still works.
- What nobody ever resolved stays closed. Answers on this host itself (127.0.0.0/8, ::1, 0.0.0.0) never count.
- The name servers are those that the host is configured with, so a changed network needs no controller.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

TABLE = "inet hedgerow"
CONFIG = Path("/etc/hedgerow/egress.json")
STATE = Path("/var/lib/hedgerow/egress/answers.json")
RESOLV_CONF = Path("/etc/resolv.conf")
# systemd-resolved listens on loopback itself; here it writes whom it asks.
RESOLVED_UPSTREAM = Path("/run/systemd/resolve/resolv.conf")
KEEP_S = 24 * 3600
# An answer's age is written no finer than this, so that a card is not written to at every run.
_GRAIN_S = 3600
_MOST_A_NAME = 64

Answers = dict[str, dict[str, float]]  # name → address → when it was last heard


def main() -> int:
    """Resolve, remember, fill the sets. Names that did not resolve are said and are no failure: the next run asks."""
    config = json.loads(CONFIG.read_text())
    names = sorted({name for listed in config["sets"].values() for name in listed})
    known = remembered(STATE)
    # First what is known: at boot there may be no network yet, and asking takes time.
    servers = config["resolvers"] or nameservers()
    fill(config["sets"], known, servers)
    answers, silent = resolve(names, known, now=time.time())
    fill(config["sets"], answers, servers)
    remember(STATE, answers, known)
    if silent:
        print(f"no answer for {', '.join(silent)}", file=sys.stderr)  # noqa: T201 - the journal
    return 0


def resolve(
    names: list[str], known: Answers, *, now: float, ask: Callable[[str], list[str]] | None = None
) -> tuple[Answers, list[str]]:
    """The answers that count now, and the names without any."""
    ask = ask or lookup
    found: Answers = {}
    for name in names:
        kept = {address: heard for address, heard in known.get(name, {}).items() if 0 <= now - heard <= KEEP_S}
        for address in ask(name):
            if now - kept.get(address, 0) >= _GRAIN_S:
                kept[address] = now
        latest = sorted(kept.items(), key=lambda item: -item[1])[:_MOST_A_NAME]
        found[name] = dict(latest)
    return found, [name for name, answers in found.items() if not answers]


def lookup(name: str) -> list[str]:
    """Addresses of a name by the host's own resolver; none where it does not answer."""
    try:
        answers = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [address for address in dict.fromkeys(str(answer[4][0]) for answer in answers) if counts(address)]


def counts(address: str) -> bool:
    """Whether an answer may open the firewall: an address of another host."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return not (parsed.is_loopback or parsed.is_unspecified or parsed.is_multicast or parsed.is_link_local)


def nameservers() -> list[str]:
    """Whom this host asks; of resolved's stub, whom that asks."""
    servers = parse_resolv_conf(_text(RESOLV_CONF))
    if any(ipaddress.ip_address(server).is_loopback for server in servers):
        servers += parse_resolv_conf(_text(RESOLVED_UPSTREAM))
    return [server for server in servers if not ipaddress.ip_address(server).is_loopback]


def parse_resolv_conf(text: str) -> list[str]:
    """Addresses of the ``nameserver`` lines (resolv.conf(5)); a scope (``%eth0``) is cut off."""
    found = []
    for word in re.findall(r"(?m)^nameserver[ \t]+(\S+)", text):
        try:
            found.append(str(ipaddress.ip_address(word.partition("%")[0])))
        except ValueError:
            continue
    return found


def transaction(sets: Mapping[str, list[str]], answers: Answers, servers: list[str]) -> str:
    """Nft's input that gives each set exactly its addresses; ``…4`` and ``…6`` are twins."""
    contents = {name: [a for host in hosts for a in answers.get(host, {})] for name, hosts in sets.items()}
    contents["resolvers_4"] = servers
    lines = []
    for name, addresses in contents.items():
        stem = name.removesuffix("4")
        for version in (4, 6):
            chosen = sorted({a for a in addresses if ipaddress.ip_address(a).version == version})
            lines.append(f"flush set {TABLE} {stem}{version}")
            if chosen:
                lines.append(f"add element {TABLE} {stem}{version} {{ {', '.join(chosen)} }}")
    return "\n".join(lines) + "\n"


def fill(sets: Mapping[str, list[str]], answers: Answers, servers: list[str]) -> None:
    """Hand the transaction to nft.

    Raises:
        subprocess.CalledProcessError: the table is not there; systemd shows what nft said.
    """
    subprocess.run(["nft", "-f", "-"], input=transaction(sets, answers, servers), text=True, check=True, timeout=30)


def remembered(path: Path) -> Answers:
    """What was heard before; nothing where the file is missing or torn."""
    try:
        data: Any = json.loads(path.read_text())
        return {
            str(name): {str(ipaddress.ip_address(address)): float(heard) for address, heard in answers.items()}
            for name, answers in data.items()
        }
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def remember(path: Path, answers: Answers, known: Answers) -> None:
    """Write them where they differ."""
    if answers == known:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".answers.")
    with os.fdopen(descriptor, "w") as file:
        json.dump(answers, file)
        file.flush()
        os.fsync(file.fileno())
    Path(temporary).replace(path)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


if __name__ == "__main__":
    sys.exit(main())
