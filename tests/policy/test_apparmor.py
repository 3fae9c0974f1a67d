"""AppArmor profiles: every unit has one or a waiver; none may change what confines it; all of them parse.

What a profile allows is read from `apparmor_parser --preprocess`, so abstractions that it includes count as well.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from hedgerow.converge import apparmor
from hedgerow.device.confinement import UNITS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "files/apparmor.d"

# Units that roles start or write, and that run without a profile of ours: why.
WAIVERS = {
    "hailo-ollama.service": "Hailo's own server, which nothing here starts; the role hardening binds it to loopback",
    "hedgerow-boot-trial.service": "runs in the boot of a trial alone, in a sandbox, with checks of the operator",
    "hedgerow-egress.service": "a one-shot that resolves names and fills sets of nftables, in a sandbox of its own",
    "hedgerow-journal-critical.service": "starts one unit when journalctl prints a line; sandboxed to two sockets",
    "hedgerow-journal-ram.service": "a one-shot of journalctl, in a sandbox that leaves it journald's socket",
    "hedgerow-journal-save.service": "a one-shot of journalctl, in a sandbox that leaves it journald's socket",
    "hedgerow-renew.service": "a one-shot that renews the identity, which no profile may write; sandboxed",
    "hedgerow-revocation.service": "a one-shot that verifies lists and writes two files; sandboxed, no network",
    "hedgerow-switch@.service": "restarts one unit and moves links of runtimes, at root's word; sandboxed to these",
    "hedgerow-storage-probe.service": "reads one block of the root disk, and its sandbox leaves it nothing else",
    "mender-client.service": "stays off (role mender_client); the program has hedgerow-mender by its path",
    "nftables.service": "Debian's one-shot that loads a file at boot and ends",
    "ssh.service": "Debian's own: it starts whatever whoever logs in may run, and hedgerow-viewer's command is ours",
    "systemd-journald.service": "systemd's own, in systemd's sandbox; it reads what every process may send",
    "systemd-time-wait-sync.service": "systemd's own; waits for a flag file at boot and ends",
    "systemd-timesyncd.service": "systemd's own, in systemd's sandbox, as a user of its own",
}

# What no profile may write, for it is what confines it, proves who the device is, or runs as root.
UNTOUCHABLE = (
    "/opt/hedgerow/runtime/0.1.0+abc/bin/hedgerow",
    "/opt/hedgerow/runtime/0.1.0+abc/bin/hedgerow-device",
    "/opt/hedgerow/runtime/0.1.0+abc/lib/python3.13/site-packages/hedgerow/cli.py",
    "/opt/hedgerow/runtime/current",
    "/opt/hedgerow/runtime/confirmed",
    "/usr/local/lib/hedgerow/switch.py",
    "/usr/bin/python3.13",
    "/usr/bin/mender",
    "/usr/bin/prometheus-node-exporter",
    "/usr/sbin/nginx",
    "/usr/lib/python3/dist-packages/x.py",
    "/usr/share/mender/modules/v3/hedgerow-bundle",
    "/usr/share/mender/identity/mender-device-identity",
    "/var/lib/hedgerow/identity/device.key",
    "/var/lib/hedgerow/identity/device.crt",
    "/var/lib/hedgerow/identity/ca.crt",
    "/etc/apparmor.d/hedgerow-server",
    "/etc/apparmor.d/local/hedgerow-server",
    "/sys/kernel/security/apparmor/.load",
    "/sys/kernel/security/apparmor/.replace",
    "/etc/hedgerow/device.yml",
    "/etc/hedgerow/server.yml",
    "/etc/systemd/system/hedgerow-server.service",
    "/etc/passwd",
    "/etc/shadow",
    "/etc/sudoers.d/50-hedgerow-admin",
    "/root/.ssh/authorized_keys",
    "/home/hedgerow-admin/.ssh/authorized_keys",
    "/boot/firmware/config.txt",
    "/srv/hedgerow/registry/metadata/timestamp.json",
)
# Who may read the device's key, and why; services have a copy of their own (LoadCredential=).
KEY_READERS = {
    "hedgerow-device": "fetches from the registry as the device",
    "hedgerow-nginx": "its master opens the key before it gives up being root",
}
KEY = "/var/lib/hedgerow/identity/device.key"
# Programs that give whoever starts them any other program.
SHELLS = (
    "/usr/bin/sh",
    "/usr/bin/dash",
    "/usr/bin/bash",
    "/bin/sh",
    "/usr/bin/busybox",
    "/usr/bin/env",
    "/usr/bin/perl",
)
# Capabilities that end a confinement, or reach into other processes.
ENDS_CONFINEMENT = {"mac_admin", "mac_override", "sys_admin", "sys_module", "sys_ptrace", "sys_rawio", "setpcap"}

_RULE = re.compile(
    r"^(?P<qualifiers>(?:(?:audit|deny|owner|allow|quiet)\s+)*)"
    r"(?P<path>@?[/{@]\S*)\s+(?P<permissions>[rwaklmixpucPUC]+)(?:\s*->\s*(?P<target>\S+))?,$"
)
_VARIABLES = {
    "PROC": "/proc",
    "run": "/run",
    "sys": "/sys",
    "pid": "[0-9]*",
    "pids": "[0-9]*",
    "HOME": "{/home/*,/root}",
}


@dataclass(frozen=True)
class Rule:
    """One file rule of a profile."""

    path: str
    permissions: str
    deny: bool = False
    target: str | None = None

    def matches(self, path: str) -> bool:
        return glob(self.path).fullmatch(path) is not None


@cache
def glob(pattern: str) -> re.Pattern[str]:
    """AppArmor's globs: `*` stays in a folder, `**` does not, `{a,b}` are alternatives."""
    text = re.sub(r"@\{(\w+)\}", lambda found: _VARIABLES.get(found[1], "*"), pattern).replace("//", "/")
    out, depth = "", 0
    for token in re.findall(r"\*\*|\[[^]]*\]|.", text):
        if token == "{":
            depth += 1
            out += "(?:"
        elif token == "}":
            depth -= 1
            out += ")"
        elif token == "," and depth:
            out += "|"
        elif token.startswith("["):
            out += token.replace("[^", "[^/")
        else:
            out += {"**": ".+", "*": "[^/]*", "?": "[^/]"}.get(token) or re.escape(token)
    return re.compile(out)


def rules(text: str) -> Iterator[Rule]:
    """The file rules of a preprocessed profile."""
    for line in text.splitlines():
        found = _RULE.match(re.sub(r"\s*#.*", "", line).strip())
        if found:
            yield Rule(found["path"], found["permissions"], "deny" in found["qualifiers"].split(), found["target"])


def allowed(found: list[Rule], path: str) -> set[str]:
    """Letters that the profile grants on ``path``; a denial beats all grants."""
    granted = {letter for rule in found if not rule.deny and rule.matches(path) for letter in rule.permissions}
    return granted - {letter for rule in found if rule.deny and rule.matches(path) for letter in rule.permissions}


def violations(name: str, text: str) -> list[str]:
    """What a profile allows that none may allow."""
    found, said = list(rules(text)), []
    for path in UNTOUCHABLE:
        written = "".join(sorted(allowed(found, path) & set("wakl")))
        said += [f"{name} may {written} {path}"] if written else []
    if name not in KEY_READERS and "r" in allowed(found, KEY):
        said.append(f"{name} may read the device's key")
    said += [f"{name} may start {shell}" for shell in SHELLS if "x" in allowed(found, shell)]
    said += [
        f"{name} starts {rule.path} unconfined"
        for rule in found
        if not rule.deny and set(rule.permissions) & {"u", "U"}
    ]
    said += [
        f"{name} may do all that {capability} allows"
        for capability in re.findall(r"(?m)^\s*capability\s+(\w+)?", text)
        if capability in ENDS_CONFINEMENT or capability == ""
    ]
    said += [
        f"{name} may {word}"
        for word in ("mount", "pivot_root", "change_profile")
        if re.search(rf"(?m)^\s*{word}\b", text)
    ]
    return said


def without(units: Mapping[str, Any]) -> list[str]:
    """Units of roles that have neither a profile nor a waiver."""
    confined = {unit for unit in UNITS.values() if unit is not None}
    return [
        f"{unit} ({role}) has neither a profile nor a waiver"
        for unit, role in sorted(units.items())
        if unit not in confined | set(WAIVERS)
    ]


def services(roles: list[Any]) -> dict[str, str]:
    """Every service that a role starts or writes → the role."""
    found = {}
    for role in roles:
        for path in role.templates:
            if (name := re.match(r"etc/systemd/system/([^/]+\.service)(\.j2$|\.d/)", path)) is not None:
                found[name[1]] = role.name
        for task in role.tasks:
            unit = str((task.get("hedgerow_unit") or {}).get("name", ""))
            if unit.endswith(".service") and "{" not in unit:
                found[unit] = role.name
    return found


# ── the parser ──────────────────────────────────────────────────────────────


@pytest.fixture(scope="session")
def parser() -> str:
    path = shutil.which("apparmor_parser", path="/usr/sbin:/sbin:/usr/bin")
    assert path is not None, "apparmor_parser is missing; tools/bootstrap.sh dev installs it"
    return path


@pytest.fixture(scope="session")
def abi() -> str:
    """The lock's ABI, or the newest that this machine's parser knows: Debian 12's ends at 3.0."""
    return "4.0" if Path("/etc/apparmor.d/abi/4.0").exists() else "3.0"


@pytest.fixture(scope="session")
def preprocessed(parser: str, abi: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Profile → its text with all that it includes."""
    texts = apparmor.texts(str(FOLDER), dict.fromkeys(apparmor.PROFILES, "enforce"), abi)
    return {name: _parse(parser, text, tmp_path_factory.mktemp(name), "--preprocess") for name, text in texts.items()}


def _parse(parser: str, text: str, folder: Path, *options: str) -> str:
    (folder / "profile").write_text(text)
    command = [parser, "--skip-kernel-load", "--skip-cache", *options, str(folder / "profile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("mode", apparmor.MODES)
@pytest.mark.parametrize("name", apparmor.PROFILES)
def test_it_parses(parser: str, abi: str, tmp_path: Path, name: str, mode: str) -> None:
    text = apparmor.texts(str(FOLDER), {name: mode}, abi, {name: ["/srv/x r,"]})[name]
    assert _parse(parser, text, tmp_path, "--names").split() == [name]


def test_the_parser_can_refuse(parser: str, abi: str, tmp_path: Path) -> None:
    text = apparmor.texts(str(FOLDER), {"hedgerow-server": "enforce"}, abi)["hedgerow-server"]
    with pytest.raises(AssertionError, match="Invalid network entry"):
        _parse(parser, text.replace("network inet stream,", "network inet steam,"), tmp_path)


@pytest.mark.parametrize("name", apparmor.PROFILES)
def test_it_may_not_change_what_confines_it(preprocessed: dict[str, str], name: str) -> None:
    assert violations(name, preprocessed[name]) == []


def test_the_reader_of_rules_reads(preprocessed: dict[str, str]) -> None:
    """Were the reader blind, every profile would be harmless."""
    found = {name: list(rules(text)) for name, text in preprocessed.items()}
    assert min(len(each) for each in found.values()) > 50
    assert allowed(found["hedgerow-device"], "/var/lib/hedgerow/models/a/1/model.onnx") >= set("rw")
    assert "w" not in allowed(found["hedgerow-server"], "/var/lib/hedgerow/models/a/1/model.onnx")
    assert allowed(found["hedgerow-exporter"], "/var/lib/hedgerow/models/.store/written.json") == {"r"}
    assert allowed(found["hedgerow-exporter"], "/var/lib/hedgerow/models/.store/pins.json") == set()
    assert (
        allowed(found["hedgerow-server"], "/dev/hailo0") == allowed(found["hedgerow-server"], "/dev/h1x-0") == set("rw")
    )
    assert "r" in allowed(found["hedgerow-nginx"], KEY)
    assert "x" in allowed(found["hedgerow-mender"], "/usr/share/mender/modules/v3/hedgerow-bundle")
    assert "x" not in allowed(found["hedgerow-mender"], "/usr/share/mender/modules/v3/script")


@pytest.mark.parametrize(
    "rule,text",
    [
        ("/opt/hedgerow/** rw,", "may w /opt/hedgerow/runtime/0.1.0+abc/bin/hedgerow"),
        ("owner /etc/** w,", "may w /etc/apparmor.d/hedgerow-server"),
        ("/var/lib/hedgerow/** r,", "may read the device's key"),
        ("/usr/bin/* ix,", "may start /usr/bin/sh"),
        ("/{usr/,}bin/sh rPUx,", "may start /bin/sh"),
        ("/usr/bin/foo Ux,", "unconfined"),
        ("capability sys_admin,", "sys_admin"),
        ("mount fstype=tmpfs,", "may mount"),
        ("/sys/kernel/security/** rw,", ".load"),
    ],
)
def test_each_rule_can_be_broken(rule: str, text: str) -> None:
    assert text in " ".join(violations("x", f"profile x {{\n  {rule}\n}}\n"))


def test_a_denial_beats_a_grant() -> None:
    assert violations("x", "/var/lib/hedgerow/** r,\naudit deny /var/lib/hedgerow/identity/** rwklmx,\n") == []


# ── coverage ────────────────────────────────────────────────────────────────


def test_every_unit_has_a_profile_or_a_waiver(roles: list[Any]) -> None:
    assert without(services(roles)) == []


def test_no_waiver_outlives_its_unit(roles: list[Any]) -> None:
    assert set(WAIVERS) <= set(services(roles))


def test_the_reader_of_units_reads(roles: list[Any]) -> None:
    assert {"hedgerow-server.service", "hedgerow-deadline.service", "nginx.service"} <= set(services(roles))


def test_a_unit_without_either_is_found() -> None:
    assert without({"x.service": "a", "nginx.service": "b"}) == ["x.service (a) has neither a profile nor a waiver"]


def test_units_name_the_profile_that_is_theirs(root: Path, roles: list[Any]) -> None:
    """`AppArmorProfile=` stands in the unit or its drop-in, never with the minus that lets it start unconfined."""
    named = {}
    written = (root / "roles").glob("*/templates/etc/systemd/system/**/*.j2")
    for path in (*written, *(root / "files/systemd").glob("*.service")):
        for profile in re.findall(r"(?m)^AppArmorProfile=(.+)$", path.read_text()):
            own = path.parent if path.parent.name.endswith(".d") else path
            unit = own.name.removesuffix(".d").removesuffix(".j2")
            named[profile] = unit
    assert named == {profile: unit for profile, unit in UNITS.items() if unit is not None}


def test_sources_and_table_name_the_same_profiles(root: Path) -> None:
    assert {path.name for path in FOLDER.iterdir() if path.is_file()} == set(apparmor.PROFILES)


def test_the_role_places_each(roles: list[Any]) -> None:
    role = next(role for role in roles if role.name == "apparmor")
    assert {Path(str(entry["dest"])).name for entry in role.placed} == set(apparmor.PROFILES)


@pytest.mark.parametrize("fixture", ["inventory/example", "inventory/emulated"])
def test_the_lock_s_abi_is_one_that_trixie_has(root: Path, fixture: str) -> None:
    lock = yaml.safe_load((root / fixture / "group_vars/all/release.yml").read_text())["fleet_release"]
    assert lock["apparmor"]["abi"] in {"3.0", "4.0"}
