"""What is hardened, as rules with an id each: sshd's settings, kernel settings, units, and what is waived.

- A rule's id is ``ssh.<Keyword>``, ``sysctl.<key>``, ``service.<unit>``, ``firewall.<direction>`` or
  ``ollama.loopback``. Every rule can be waived by its id, with a reason and a last day; an unknown id, a missing reason
  and a day that has passed are refused, so that no waiver outlives what it was written for.
- sshd takes the first value that it reads, so our file is the first of its folder (00-) and Debian's main file includes
  the folder before anything else. What another file decides all the same is found on the host by ``sshd -T``.
- A container shares its machine's kernel: only settings that are the network namespace's own are placed there. The
  others would change the machine, and are reported as left out.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hedgerow.errors import RefusedError, UsageError

# ipv4 and ipv6 settings belong to the network namespace; net.core's and everything else are the machine's (but for a
# few that are none of ours).
_NAMESPACED = ("net.ipv4.", "net.ipv6.")
FIREWALL_RULES = ("firewall.inbound", "firewall.egress", "firewall.forward")
OLLAMA_RULE = "ollama.loopback"
OLLAMA_PACKAGE = "hailo-gen-ai-model-zoo"

# In trixie's OpenSSH (10.0) and known to Debian 12's client (9.2), which takes the second of each on. The first key
# exchange resists a quantum computer too; a client that does not know it passes on to the next.
KEY_EXCHANGES = (
    "mlkem768x25519-sha256",
    "sntrup761x25519-sha512",
    "sntrup761x25519-sha512@openssh.com",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
)
CIPHERS = ("chacha20-poly1305@openssh.com", "aes256-gcm@openssh.com", "aes128-gcm@openssh.com")
MACS = ("hmac-sha2-512-etm@openssh.com", "hmac-sha2-256-etm@openssh.com", "umac-128-etm@openssh.com")
# First contact pins the ed25519 key; a certificate for it may come later.
HOST_KEYS = ("ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519")

Setting = tuple[str, str, str]  # keyword, value, why


def plan(state: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the role's files are made of, once waivers are taken off.

    ``state`` is ``hedgerow_facts.state``. ``asked`` has ``sshd`` (the arguments of ``sshd_settings``), the lists of
    fleet, group and host ``sysctls``, ``services`` and ``waivers``, ``conditions`` (for ``services``), ``firewall``
    (the mode) and ``today`` (an ISO date).

    Raises:
        UsageError: a list holds something else than it should.
        RefusedError: a waiver does not hold.
    """
    settings = sshd_settings(**asked["sshd"])
    listed = services(asked["services"], asked["conditions"])
    keys = [key for values in asked["sysctls"] for key in values]
    units = [entry["unit"] for entry in listed]
    waived = waivers(asked["waivers"], rule_ids(settings, keys, units), asked["today"])
    kernel = sysctls(asked["sysctls"], waived=waived, container=state["container"])
    ollama = OLLAMA_PACKAGE in state["packages"]
    return {
        "sshd": [
            {"keyword": keyword, "value": value, "why": why}
            for keyword, value, why in settings
            if f"ssh.{keyword}" not in waived
        ],
        "sysctl": kernel,
        "to_mask": units_to_mask(listed, state["units"], waived),
        "waived": waived,
        "ollama": ollama and OLLAMA_RULE not in waived,
        "report": report(
            settings=settings,
            kernel=kernel,
            units=units,
            waived=waived,
            firewall_mode=asked["firewall"],
            ollama=ollama,
        ),
    }


def sshd_settings(
    *,
    users: Sequence[str],
    tcp_forwarding: str,
    auth_tries: int,
    login_grace_s: int,
    exempt: Sequence[str],
    trusted_user_ca_keys: str | None,
    host_certificate: str | None,
    revoked_keys: str | None,
    principals_file: str | None = None,
    authorized_keys_files: str | None = None,
) -> list[Setting]:
    """The keywords of our file in order.

    ``exempt`` are networks whose mistakes cost no waiting time (OpenSSH 9.8 on). The last five are paths of the
    SSH certificate authority's, None where there is none.
    """
    found = [
        ("AllowUsers", " ".join(users), "nobody else, whatever users a package makes"),
        ("AuthenticationMethods", "publickey", "a key or nothing"),
        ("PubkeyAuthentication", "yes", ""),
        ("PasswordAuthentication", "no", "cloud-init may say yes in 50-cloud-init.conf; the first value counts"),
        ("KbdInteractiveAuthentication", "no", "PAM would ask for the password this way"),
        ("PermitEmptyPasswords", "no", ""),
        ("PermitRootLogin", "no", "sudo leaves a name in the journal"),
        ("HostbasedAuthentication", "no", ""),
        ("PermitUserEnvironment", "no", "a user's LD_PRELOAD has no business before login"),
        ("KexAlgorithms", ",".join(KEY_EXCHANGES), "current ones that Debian 12's client shares"),
        ("Ciphers", ",".join(CIPHERS), "authenticated ones alone"),
        ("MACs", ",".join(MACS), "for clients that choose a cipher without one built in"),
        ("HostKeyAlgorithms", ",".join(HOST_KEYS), "the one that first contact pins"),
        ("AllowAgentForwarding", "no", "root on this host could use the operator's keys"),
        ("AllowTcpForwarding", tcp_forwarding, "yes makes a bastion of it"),
        ("AllowStreamLocalForwarding", "no", "sockets reach services that ports do not"),
        ("GatewayPorts", "no", ""),
        ("X11Forwarding", "no", "there is no display"),
        ("PermitTunnel", "no", ""),
        ("LogLevel", "VERBOSE", "the fingerprint of every key that logs in"),
        ("MaxAuthTries", str(auth_tries), ""),
        ("LoginGraceTime", str(login_grace_s), ""),
        ("MaxStartups", "10:30:60", "logins that hang must not fill the table"),
        ("ClientAliveInterval", "60", "a session whose peer is gone ends after three minutes"),
        ("ClientAliveCountMax", "3", ""),
        ("UseDNS", "no", "a login does not wait for a name server"),
    ]
    if exempt:
        found.append(("PerSourcePenaltyExemptList", ",".join(exempt), "a mistyped key must not lock operators out"))
    for keyword, path, why in (
        ("TrustedUserCAKeys", trusted_user_ca_keys, "users whose certificate this CA signed"),
        ("RevokedKeys", revoked_keys, "keys and certificates that no longer count"),
        ("HostCertificate", host_certificate, "clients need no pinned key of this host"),
        ("AuthorizedPrincipalsFile", principals_file, "whose certificates count for which account"),
        ("AuthorizedKeysFile", authorized_keys_files, "root's files alone: no account can let a key in by itself"),
    ):
        if path is not None:
            found.append((keyword, path, why))
    return found


def sysctls(
    lists: Sequence[Mapping[str, Any]], *, waived: Mapping[str, Any], container: bool
) -> dict[str, dict[str, str]]:
    """Kernel settings of fleet, group and host joined: ``{"wanted": {key: value}, "why": …, "left_out": …}``.

    The more special place wins; null takes a key off the list.

    Raises:
        UsageError: a key without a value or a reason, or with what is no key.
    """
    merged: dict[str, Any] = {}
    for values in lists:
        merged |= values
    wanted, why, left_out = {}, {}, {}
    for key, entry in merged.items():
        if entry is None:
            continue
        if not re.fullmatch(r"[a-z0-9_]+(\.[A-Za-z0-9_*/-]+)+", key) or not _explained(entry):
            raise UsageError(
                f"{key} needs a value and a reason",
                where="hardening_sysctls, hardening_sysctls_group or hardening_sysctls_host",
                next_step=f'write {key}: {{ value: 1, reason: "why" }}, or null to take it off the list',
            )
        if f"sysctl.{key}" in waived:
            left_out[key] = f"waived: {waived[f'sysctl.{key}']}"
        elif container and not key.startswith(_NAMESPACED):
            left_out[key] = "a container shares it with its machine"
        else:
            wanted[key] = str(entry["value"])
            why[key] = str(entry["reason"])
    return {"wanted": wanted, "why": why, "left_out": left_out}


def units_to_mask(
    listed: Iterable[Mapping[str, Any]], units: Mapping[str, Mapping[str, Any]], waived: Mapping[str, Any]
) -> list[str]:
    """Units of the list that this host has and that could still run."""
    return [
        entry["unit"]
        for entry in listed
        if f"service.{entry['unit']}" not in waived
        and entry["unit"] in units
        and (units[entry["unit"]]["enabled"] != "masked" or units[entry["unit"]]["active"] == "active")
    ]


def services(lists: Sequence[Sequence[Mapping[str, Any]]], absent_where: Mapping[str, bool]) -> list[dict[str, Any]]:
    """The lists of fleet, group and host joined, each unit once, the first reason kept.

    ``absent_where`` maps a condition that an entry may name (``unless``) to whether it holds on this host.

    Raises:
        UsageError: an entry is no unit with a reason.
    """
    found: dict[str, dict[str, Any]] = {}
    for entry in (entry for listed in lists for entry in listed):
        unit, unless = str(entry.get("unit", "")), entry.get("unless")
        if "." not in unit or not entry.get("reason") or (unless is not None and unless not in absent_where):
            raise UsageError(
                f"{dict(entry)} is no unit with a reason",
                where="hardening_services",
                next_step="write - { unit: cups.service, reason: WHY }"
                f" (and unless: one of {', '.join(sorted(absent_where))}, where it is needed then)",
            )
        if unless is None or not absent_where[unless]:
            found.setdefault(unit, dict(entry))
    return list(found.values())


def rule_ids(settings: Iterable[Setting], sysctl_keys: Iterable[str], units: Iterable[str]) -> list[str]:
    """Every id that a waiver may name on this host."""
    return [
        *(f"ssh.{keyword}" for keyword, _, _ in settings),
        *(f"sysctl.{key}" for key in sysctl_keys),
        *(f"service.{unit}" for unit in units),
        *FIREWALL_RULES,
        OLLAMA_RULE,
    ]


def waivers(lists: Sequence[Sequence[Mapping[str, Any]]], known: Iterable[str], today: str) -> dict[str, str]:
    """Rule → reason of the waivers that hold today (an ISO date).

    Raises:
        RefusedError: one names no rule, gives no reason or no day, or its day has passed.
    """
    ids = set(known)
    found = {}
    for entry in (entry for listed in lists for entry in listed):
        rule, reason = str(entry.get("rule", "")), str(entry.get("reason") or "").strip()
        problem = _waiver_problem(rule, reason, entry.get("until"), ids, dt.date.fromisoformat(today))
        if problem is not None:
            raise RefusedError(
                f"the waiver for {rule or 'no rule'} {problem[0]}", where="hardening_waivers", next_step=problem[1]
            )
        found[rule] = f"{reason} (until {entry['until']})"
    return found


def report(
    *,
    settings: Sequence[Setting],
    kernel: Mapping[str, Mapping[str, str]],
    units: Iterable[str],
    waived: Mapping[str, str],
    firewall_mode: str,
    ollama: bool,
) -> list[dict[str, str]]:
    """What holds here and what does not: ``{id, state, detail}`` a rule, ``state`` of which is one of four words."""
    found = [_line(f"ssh.{keyword}", "enforced", value, waived) for keyword, value, _ in settings]
    found += [_line(f"sysctl.{key}", "enforced", value, waived) for key, value in kernel["wanted"].items()]
    found += [_line(f"sysctl.{key}", "left out", text, waived) for key, text in kernel["left_out"].items()]
    found += [_line(f"service.{unit}", "enforced", "masked where it is installed", waived) for unit in units]
    state = {"enforce": "enforced", "report": "counted only", "off": "left out"}[firewall_mode]
    found += [_line(rule, state, f"hardening_firewall: {firewall_mode}", waived) for rule in FIREWALL_RULES]
    detail = "hailo-ollama on loopback" if ollama else f"{OLLAMA_PACKAGE} is not installed"
    return [*found, _line(OLLAMA_RULE, "enforced" if ollama else "left out", detail, waived)]


def _line(rule: str, state: str, detail: str, waived: Mapping[str, str]) -> dict[str, str]:
    if rule in waived:
        state, detail = "waived", waived[rule]
    return {"id": rule, "state": state, "detail": detail}


def _explained(entry: Any) -> bool:
    return isinstance(entry, Mapping) and entry.get("value") is not None and bool(entry.get("reason"))


def _waiver_problem(rule: str, reason: str, until: Any, known: set[str], today: dt.date) -> tuple[str, str] | None:
    if rule not in known:
        return "names no rule of this host", "take an id of /etc/hedgerow/hardening.json, or remove the waiver"
    if not reason:
        return "has no reason", "write reason: WHY"
    try:
        last = until if isinstance(until, dt.date) else dt.date.fromisoformat(str(until))
    except ValueError:
        return f"ends on {until!r}, which is no day", 'write until: "2027-01-31"'
    if last < today:
        return f"ended on {last}", "remove it, or decide anew and write a later day"
    return None
