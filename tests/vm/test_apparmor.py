"""AppArmor on a kernel of its own: services live under enforcement, and what a profile forbids is denied and logged.

    HEDGEROW_TEST_INVENTORY=INV pytest -m fleet tests/vm/test_apparmor.py

INV is a fleet with a gateway and a virtual machine that is converged and switched on. The order matters: normal life
comes first, and nothing of it may be denied.
"""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from hedgerow import inventory as inventories
from hedgerow import ssh
from hedgerow.converge.apparmor import PROFILES
from hedgerow.device.confinement import UNITS
from hedgerow.errors import NetworkError
from hedgerow.fleet import access
from hedgerow.identity.profiles import Profile
from hedgerow.identity.tls import server_name
from hedgerow.inventory import Host, Inventory

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
DEVICE = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
KEY = "/var/lib/hedgerow/identity/device.key"
PI = [name for name, kinds in PROFILES.items() if "pi" in kinds]
"""Profiles that the converged machine has; `hedgerow-nginx` comes with `gateway_on_a_pi.yml`."""
# A line of the kernel's log, once per denial.
_DENIED = re.compile(r'apparmor="DENIED" operation="(?P<operation>\w+)".* profile="(?P<profile>[^"]+)"(?P<rest>.*)')


@dataclass(frozen=True)
class Denial:
    """What the kernel logged."""

    profile: str
    operation: str
    text: str


class Machine:
    """One virtual machine, by SSH as an operator; its controller beside it."""

    def __init__(self, fleet: Inventory, host: Host) -> None:
        self.fleet, self.host = fleet, host

    def run(self, command: str, *, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
        """A shell line as root."""
        quoted = command.replace("'", "'\\''")
        return ssh.run(self.fleet, self.host, f"sudo sh -c '{quoted}'", stdin=stdin, timeout_s=300)

    def root(self, command: str, *, stdin: bytes = b"") -> str:
        done = self.run(command, stdin=stdin)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return str(done.stdout)

    def device(self, *words: str) -> str:
        return self.root(f"{DEVICE} {' '.join(words)}")

    def pid(self, unit: str) -> str:
        return self.root(f"systemctl show -p MainPID --value {unit}").strip()

    def label(self, unit: str) -> str:
        return self.root(f"cat /proc/{self.pid(unit)}/attr/current").strip()

    def denials(self, since: str) -> list[Denial]:
        """What was denied to profiles of ours since a time of this machine's clock."""
        log = self.root(f"journalctl -k --no-pager -o cat --since=@{since} -g 'apparmor=.DENIED' || :")
        found = [match for line in log.splitlines() if (match := _DENIED.search(line))]
        return [Denial(m["profile"], m["operation"], m["rest"]) for m in found if m["profile"].startswith("hedgerow-")]

    def now(self) -> str:
        return self.root("date +%s").strip()

    def converge(self, *words: str) -> str:
        command = [_tool("ansible-playbook"), "-i", str(self.fleet.path), "--limit", self.host.name, *words]
        done = subprocess.run(
            command, cwd=ROOT, env=_plain(), capture_output=True, text=True, check=False, timeout=1800
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def scrape(self, port: int, path: str = "/metrics") -> str:
        """Ask a port of the machine as an operator."""
        name = server_name(self.host.name, self.host.site, self.fleet.fleet)
        context = access.context(self.fleet.fleet, Profile.OPERATOR)
        with (
            socket.create_connection((self.host.address, port), timeout=120) as plain,
            context.wrap_socket(plain, server_hostname=name) as secure,
        ):
            connection = http.client.HTTPConnection(name)
            connection.sock = secure
            connection.request("GET", path)
            answer = connection.getresponse()
            assert answer.status == 200
            return answer.read().decode()


def _tool(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def _plain() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1"}


def wait(condition: Callable[[], bool], *, within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(1)


@pytest.fixture(scope="module")
def machine() -> Machine:
    path = os.environ.get("HEDGEROW_TEST_INVENTORY")
    if path is None:
        pytest.skip("HEDGEROW_TEST_INVENTORY names no converged fleet")
    fleet = inventories.load(Path(path))
    found = [host for host in fleet.hosts.values() if host.vars.get("virtual_machine")]
    if not found:
        pytest.skip("no host of this fleet is a virtual machine: only a kernel of its own enforces")
    machine = Machine(fleet, found[0])
    try:
        machine.root("aa-enabled --quiet")
    except NetworkError:
        pytest.skip(f"{machine.host.name} is switched off")
    # The kernel passes over what comes too fast.
    machine.root("sysctl --quiet --write kernel.printk_ratelimit=0")
    return machine


@pytest.fixture(scope="module")
def fleet_tests() -> ModuleType:
    """The controller of `tests/fleet`, which makes and publishes small models."""
    spec = importlib.util.spec_from_file_location("hedgerow_tests_fleet", ROOT / "tests/fleet/conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundles(machine: Machine, fleet_tests: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two small models in the registry; their versions are new in every run."""
    controller = fleet_tests.Controller(machine.fleet, tmp_path_factory.mktemp("bundles"))
    minute = int(time.time()) // 60
    return controller.publish(f"{minute}.0.1"), controller.publish(f"{minute}.0.2")


@pytest.fixture(scope="module")
def artifacts(machine: Machine, bundles: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder on the machine with two artifacts: a bundle of ours, and a script of anybody's."""
    folder = tmp_path_factory.mktemp("artifacts")
    tool = shutil.which("mender-artifact")
    if tool is None:
        subprocess.run(["apt-get", "-q", "download", "mender-artifact"], cwd=folder, check=True, capture_output=True)
        subprocess.run(["dpkg-deb", "-x", next(folder.glob("*.deb")), folder / "unpacked"], check=True)
        tool = str(folder / "unpacked/usr/bin/mender-artifact")
    home = machine.root("mktemp --directory /home/hedgerow-admin/artifacts.XXXX").strip()
    for name, module, payload in (
        ("bundle", "hedgerow-bundle", f"{bundles[1]}\n"),
        ("script", "script", "#!/bin/sh\ntouch /run/hedgerow-probe-ran\n"),
    ):
        (folder / f"{name}.sh").write_text(payload)
        what = ("-T", module, "-n", name, "-t", "raspberrypi5_64", "-f", f"{folder}/{name}.sh")
        built = folder / f"{name}.mender"
        subprocess.run([tool, "write", "module-image", *what, "-o", built], check=True, capture_output=True)
        machine.root(f"cat >{home}/{name}.mender", stdin=built.read_bytes())
    return home


# ── normal life ─────────────────────────────────────────────────────────────


def test_the_kernel_enforces_every_profile(machine: Machine) -> None:
    loaded = dict(re.findall(r"(?m)^(\S+) \((\w+)\)$", machine.root("cat /sys/kernel/security/apparmor/profiles")))
    assert {name: loaded.get(name) for name in PI} == dict.fromkeys(PI, "enforce")


def test_every_service_is_confined(machine: Machine) -> None:
    units = {unit: name for name in PI if (unit := UNITS[name]) is not None and machine.pid(unit) != "0"}
    assert set(units.values()) >= {"hedgerow-server", "hedgerow-exporter", "hedgerow-node-exporter"}
    assert {unit: machine.label(unit) for unit in units} == {unit: f"{name} (enforce)" for unit, name in units.items()}


def test_nothing_of_a_normal_day_is_denied(machine: Machine, bundles: tuple[str, str], artifacts: str) -> None:
    """Starts, activations, a missed deadline, reports, scrapes, an artifact: a profile that is complete lets it be."""
    since = machine.now()
    machine.root("systemctl restart hedgerow-server hedgerow-exporter prometheus-node-exporter")
    machine.device("activate", bundles[0])
    machine.device("confirm", bundles[0])
    machine.device("activate", bundles[1], "--confirm-within", "1")
    wait(lambda: json.loads(machine.device("report", "--json"))["pending"] is None, within_s=120)
    assert "nobody confirmed" in machine.root("journalctl -u hedgerow-deadline --no-pager -n 5")

    report = json.loads(machine.scrape(8443, "/health/report"))
    assert report["model"]["version"] == bundles[0].partition("@")[2]
    assert report["board"]["temperature_c"] is not None
    assert "node_cpu_seconds_total" in machine.scrape(9100)

    machine.root(f"mender --log-level error install {artifacts}/bundle.mender")
    assert json.loads(machine.device("report", "--json"))["model"]["version"] == bundles[1].partition("@")[2]
    machine.root("mender --log-level error rollback")
    assert machine.denials(since) == []


def test_the_metric_tells_what_the_kernel_does(machine: Machine) -> None:
    shown = dict(
        re.findall(r'(?m)^hedgerow_device_apparmor_enforcing\{profile="([^"]+)"\} (\S+)$', machine.scrape(9101))
    )
    assert shown == dict.fromkeys(PI, "1.0")


# ── what is forbidden ───────────────────────────────────────────────────────


def python(*statements: str) -> str:
    code = "; ".join(statements)
    return f'/usr/bin/python3 -I -c "{code}"'


READ_FSTAB = python("open('/etc/fstab')")
SHELL = python("import subprocess", "subprocess.run(['/bin/sh', '-c', 'exit 0'])")
UDP = python("import socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)")

# Profile → what it must allow.
ALLOWED = {
    "hedgerow-server": python("open('/etc/hedgerow/server.yml').read()"),
    "hedgerow-exporter": python("import os", "os.listdir('/sys/kernel/security/apparmor/policy/profiles')"),
    "hedgerow-device": f"{DEVICE} report --json || :",
    "hedgerow-agent": python("open('/etc/hedgerow/device.yml').read()"),
    "hedgerow-bundle": python("import subprocess", f"subprocess.run(['{DEVICE}', '--version'], check=True)"),
    "hedgerow-mender": "mender show-provides",
    "hedgerow-node-exporter": "/usr/bin/prometheus-node-exporter --version",
    "hedgerow-nginx": "nginx -t -q",
}
# Profile → command that it must not, and what the kernel says of it.
FORBIDDEN = [
    ("hedgerow-server", READ_FSTAB, 'name="/etc/fstab"'),
    ("hedgerow-server", python(f"open('{KEY}')"), f'name="{KEY}"'),
    ("hedgerow-server", SHELL, 'name="/usr/bin/dash"'),
    ("hedgerow-server", UDP, 'sock_type="dgram"'),
    ("hedgerow-server", python("open('/var/lib/hedgerow/models/probe', 'w')"), 'name="/var/lib/hedgerow/models/probe"'),
    ("hedgerow-exporter", READ_FSTAB, 'name="/etc/fstab"'),
    ("hedgerow-exporter", python(f"open('{KEY}')"), f'name="{KEY}"'),
    ("hedgerow-exporter", python("open('/proc/1/environ')"), 'name="/proc/1/environ"'),
    ("hedgerow-exporter", SHELL, 'name="/usr/bin/dash"'),
    ("hedgerow-device", python(f"open('{KEY}', 'a')"), f'name="{KEY}"'),
    ("hedgerow-device", python("open('/etc/hedgerow/device.yml', 'a')"), 'name="/etc/hedgerow/device.yml"'),
    ("hedgerow-device", python("open('/opt/hedgerow/runtime/probe', 'w')"), 'name="/opt/hedgerow/runtime/probe"'),
    ("hedgerow-device", SHELL, 'name="/usr/bin/dash"'),
    ("hedgerow-agent", READ_FSTAB, 'name="/etc/fstab"'),
    ("hedgerow-agent", python(f"open('{KEY}')"), f'name="{KEY}"'),
    ("hedgerow-agent", UDP, 'sock_type="dgram"'),
    ("hedgerow-agent", SHELL, 'name="/usr/bin/dash"'),
    ("hedgerow-bundle", READ_FSTAB, 'name="/etc/fstab"'),
    ("hedgerow-bundle", python(f"open('{KEY}')"), f'name="{KEY}"'),
    ("hedgerow-bundle", SHELL, 'name="/usr/bin/dash"'),
    ("hedgerow-mender", "mender --config /etc/fstab show-provides", 'name="/etc/fstab"'),
    ("hedgerow-mender", f"mender --config {KEY} show-provides", f'name="{KEY}"'),
    (
        "hedgerow-node-exporter",
        "/usr/bin/prometheus-node-exporter --web.listen-address=127.0.0.1:9199 --web.config.file=/etc/fstab",
        'name="/etc/fstab"',
    ),
    (
        "hedgerow-node-exporter",
        f"/usr/bin/prometheus-node-exporter --web.listen-address=127.0.0.1:9199 --web.config.file={KEY}",
        f'name="{KEY}"',
    ),
    ("hedgerow-nginx", "nginx -t -q -c /etc/fstab", 'name="/etc/fstab"'),
    ("hedgerow-nginx", "nginx -t -q -g 'error_log /etc/hedgerow-probe;'", 'name="/etc/hedgerow-probe"'),
]


def denied(machine: Machine, profile: str, command: str, text: str) -> None:
    """Run it; it must fail, and the kernel must have said so under this profile."""
    since = machine.now()
    assert machine.run(command).returncode != 0, f"{profile} may: {command}"
    found: list[Denial] = []

    def logged() -> bool:
        found[:] = machine.denials(since)
        return any(denial.profile == profile and text in denial.text for denial in found)

    try:
        wait(logged, within_s=20)
    except AssertionError:
        pytest.fail(f"{profile}: {command} failed, but the kernel logged no denial of {text}: {found}")


@pytest.fixture(scope="module")
def gateway_too(machine: Machine) -> Iterator[Machine]:
    """The machine with the gateway's web server and its profile as well; a Pi again afterwards."""
    machine.converge("tests/vm/gateway_on_a_pi.yml")
    yield machine
    machine.root("systemctl disable --now nginx && rm -r /etc/systemd/system/nginx.service.d /srv/hedgerow/registry")


@pytest.mark.parametrize("profile", PROFILES)
def test_a_profile_lets_its_work_be_done(gateway_too: Machine, profile: str) -> None:
    since = gateway_too.now()
    gateway_too.root(f"aa-exec -p {profile} -- {ALLOWED[profile]}")
    assert gateway_too.denials(since) == []


@pytest.mark.parametrize(
    "profile,command,text", FORBIDDEN, ids=[f"{profile}-{number}" for number, (profile, *_) in enumerate(FORBIDDEN)]
)
def test_what_is_forbidden_is_denied_and_logged(gateway_too: Machine, profile: str, command: str, text: str) -> None:
    denied(gateway_too, profile, f"aa-exec -p {profile} -- {command}", text)


def test_every_profile_has_two_things_that_it_forbids() -> None:
    tried = [profile for profile, *_ in FORBIDDEN]
    assert {profile: tried.count(profile) >= 2 for profile in PROFILES} == dict.fromkeys(PROFILES, True)


@pytest.mark.parametrize(
    "unit,command,text",
    [
        ("hedgerow-server.service", READ_FSTAB, 'name="/etc/fstab"'),
        ("hedgerow-server.service", UDP, 'sock_type="dgram"'),
        ("hedgerow-exporter.service", READ_FSTAB, 'name="/etc/fstab"'),
        ("hedgerow-exporter.service", python("open('/etc/issue')"), 'name="/etc/issue"'),
        ("hedgerow-deadline.service", READ_FSTAB, 'name="/etc/fstab"'),
        ("hedgerow-agent.service", READ_FSTAB, 'name="/etc/fstab"'),
        ("hedgerow-deadline.service", python("open('/etc/shadow')"), 'name="/etc/shadow"'),
        (
            "prometheus-node-exporter.service",
            "/usr/bin/prometheus-node-exporter --web.listen-address=127.0.0.1:9199 --web.config.file=/etc/fstab",
            'name="/etc/fstab"',
        ),
        ("nginx.service", "/usr/sbin/nginx -t -q -c /etc/fstab", 'name="/etc/fstab"'),
        ("nginx.service", "/usr/sbin/nginx -t -q -c /etc/hostname", 'name="/etc/hostname"'),
    ],
)
def test_the_unit_itself_is_held(gateway_too: Machine, unit: str, command: str, text: str) -> None:
    """The real unit with all of its lines, and another program: what its sandbox would allow its profile denies."""
    profile = next(name for name, confined in UNITS.items() if confined == unit)
    # Not ExecPaths: without it NoExecPaths would leave nothing to run, and nothing for the profile to deny.
    replaced = r"(Exec(Start|Stop|Reload|Condition)\w*|Type|Restart\w*|Watchdog\w+|PIDFile|Runtime\w+|Condition\w+)="
    lines = gateway_too.root(f"systemctl cat {unit}").splitlines()
    kept = [line for line in lines if not re.match(replaced, line)]
    section = next(number for number, line in enumerate(kept) if line == "[Service]")
    kept[section + 1 : section + 1] = ["Type=oneshot", f"ExecStart={command}"]
    gateway_too.root(
        "cat >/run/systemd/system/hedgerow-probe.service && systemctl daemon-reload", stdin="\n".join(kept).encode()
    )
    try:
        denied(gateway_too, profile, "systemctl start hedgerow-probe.service", text)
    finally:
        gateway_too.run(
            "rm /run/systemd/system/hedgerow-probe.service; systemctl daemon-reload; "
            "systemctl reset-failed hedgerow-probe.service"
        )


def test_an_artifact_cannot_bring_a_script(machine: Machine, artifacts: str) -> None:
    """Debian's client has a module that runs whatever an artifact holds, as root."""
    machine.root("rm -f /run/hedgerow-probe-ran")
    command = f"mender --log-level error install {artifacts}/script.mender"
    denied(machine, "hedgerow-mender", command, 'name="/usr/share/mender/modules/v3/script"')
    assert machine.run("test -e /run/hedgerow-probe-ran").returncode != 0


def test_a_gateway_s_registry_is_served_under_enforcement(gateway_too: Machine) -> None:
    since = gateway_too.now()
    assert gateway_too.label("nginx.service") == "hedgerow-nginx (enforce)"
    gateway_too.root("mkdir -p /srv/hedgerow/registry/metadata && echo {} >/srv/hedgerow/registry/metadata/probe.json")
    identity = "/var/lib/hedgerow/identity"
    name = f"{gateway_too.host.name}.{gateway_too.host.site}.{gateway_too.fleet.fleet}"
    shown = gateway_too.root(
        f"curl --silent --fail --cert {identity}/device.crt --key {identity}/device.key --cacert {identity}/ca.crt "
        f"--resolve {name}:443:127.0.0.1 https://{name}/metadata/probe.json"
    )
    gateway_too.root(
        "systemctl reload nginx && systemctl restart nginx && rm /srv/hedgerow/registry/metadata/probe.json"
    )
    assert shown == "{}\n"
    assert gateway_too.denials(since) == []


# ── changing modes, and what went wrong meanwhile ───────────────────────────


def changed(said: str) -> int:
    return sum(map(int, re.findall(r"changed=(\d+)", said)))


def test_from_enforce_to_complain_and_back(machine: Machine) -> None:
    """Check mode says it, processes stay up, a second run changes nothing."""
    role = ("playbooks/site.yml", "--tags", "apparmor")
    machine.converge(*role)
    watch = (*role, "-e", json.dumps({"apparmor_profile_modes_host": {"hedgerow-server": "complain"}}))
    pid = machine.pid("hedgerow-server")
    predicted = changed(machine.converge(*watch, "--check"))
    assert machine.label("hedgerow-server") == "hedgerow-server (enforce)"
    assert 0 < predicted == changed(machine.converge(*watch))
    assert machine.label("hedgerow-server") == "hedgerow-server (complain)"
    assert changed(machine.converge(*watch)) == 0
    assert changed(machine.converge(*role)) == predicted
    assert machine.label("hedgerow-server") == "hedgerow-server (enforce)"
    assert machine.pid("hedgerow-server") == pid


def test_a_service_that_lost_its_profile_gets_it_back(machine: Machine) -> None:
    """A profile that was unloaded and loaded again confines nothing that ran before; it only looks so."""
    machine.root("apparmor_parser --remove /etc/apparmor.d/hedgerow-server")
    assert machine.label("hedgerow-server") == "unconfined"
    machine.converge("playbooks/site.yml", "--tags", "apparmor,inference_runtime")
    assert machine.label("hedgerow-server") == "hedgerow-server (enforce)"


def test_a_profile_that_is_no_longer_ours_is_unloaded_and_removed(machine: Machine) -> None:
    machine.root(
        "echo 'profile hedgerow-old /usr/bin/hedgerow-old {}' >/etc/apparmor.d/hedgerow-old && "
        "apparmor_parser --add /etc/apparmor.d/hedgerow-old"
    )
    machine.converge("playbooks/site.yml", "--tags", "apparmor")
    assert "hedgerow-old" not in machine.root("cat /sys/kernel/security/apparmor/profiles; ls /etc/apparmor.d")
