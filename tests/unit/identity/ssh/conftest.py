"""A real sshd on the loopback, unprivileged to the machine: accounts, sudo's rules and host files of a fleet's host.

Nothing of the machine is changed. sshd runs in a mount namespace of its own, where ``/etc/passwd``, ``shadow``,
``group``, ``sudoers.d`` and ``/etc/ssh/hedgerow`` are files of the test, with the accounts that role ``ssh_access``
makes. Its configuration is the role hardening's own (``sshd_settings``), plus where the test's host key and port are.

``HEDGEROW_TEST_SSHD`` names another sshd than the installed one.
"""

from __future__ import annotations

import datetime as dt
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import ports
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.converge import hardening
from hedgerow.device import ssh_viewer
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import Profile
from hedgerow.identity.ssh import authority as authorities
from hedgerow.identity.ssh import client_config, keygen, known_hosts, on_host, proof
from hedgerow.identity.ssh.roles import BREAK_GLASS_ACCOUNT, RULES, SshRole
from hedgerow.inventory import Host, Inventory

ACCOUNTS = {
    "hedgerow-admin": (3001, "/bin/sh"),
    "hedgerow-viewer": (3002, "/bin/sh"),
    "hedgerow-operator": (3003, "/bin/sh"),
    "hedgerow-jump": (3004, "/bin/sh"),
    "hedgerow-breakglass": (3005, "/bin/sh"),
}
PASSWORD = "let me in"  # of every account: it must not help
_START_S = 20


def program() -> str | None:
    return os.environ.get("HEDGEROW_TEST_SSHD") or shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")


def missing() -> str | None:
    """Why such a server cannot run here; None if it can."""
    if program() is None:
        return "no sshd: apt-get install openssh-server"
    if os.geteuid() != 0:
        return "accounts of several users need root's own mount namespace"
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "no mount namespaces here"


@dataclass
class _Sshd:
    """One server. ``etc`` is its ``/etc/ssh/hedgerow``; ``settings`` are the arguments of ``sshd_settings``."""

    folder: Path
    etc: Path
    host_key: Path
    settings: dict[str, object]
    address: str
    sudoers: str = ""
    extra: str = ""
    mounts: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.port = ports.free_port("0.0.0.0")
        self._process: subprocess.Popen[bytes] | None = None
        self.log = self.folder / "sshd.log"

    def start(self) -> _Sshd:
        self._write_accounts()
        config = self.folder / "sshd_config"
        lines = [f"{keyword} {value}" for keyword, value, _ in hardening.sshd_settings(**self.settings)]  # type: ignore[arg-type] # a dictionary of arguments
        # Debian's 9.2 lacks what trixie's 10.0 knows; it refuses names that it does not.
        lines = [line.replace("mlkem768x25519-sha256,sntrup761x25519-sha512,", "") for line in lines]
        lines += [
            f"Port {self.port}",
            f"ListenAddress {self.address}",
            f"HostKey {self.host_key}",
            "UsePAM no",
            "PidFile none",
        ]
        config.write_text("\n".join([*lines, self.extra]) + "\n", encoding="utf-8")
        script = self._script(config)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_S
        while not _answers(self.address, self.port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(self.log.read_text(errors="replace"))
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.wait(timeout=10)

    def _script(self, config: Path) -> str:
        binds = {
            self.folder / "passwd": "/etc/passwd",
            self.folder / "shadow": "/etc/shadow",
            self.folder / "group": "/etc/group",
            self.folder / "sudoers": "/etc/sudoers",
            **self.mounts,
        }
        steps = ["mount -t tmpfs -o mode=0755 tmpfs /run", "mkdir -m 0755 /run/sshd"]
        steps += [f"mount --bind '{source}' '{target}'" for source, target in binds.items()]
        # The test's folders are below the machine's own, which its users may not enter; /etc/ssh is everybody's.
        steps += ["mount -t tmpfs -o mode=0755 tmpfs /etc/ssh", "mkdir /etc/ssh/hedgerow"]
        steps += [f"mount --bind '{self.etc}' /etc/ssh/hedgerow"]
        steps += [
            "mkdir -p /usr/local/lib",
            "mount -t tmpfs -o mode=0755 tmpfs /usr/local/lib",
            "mkdir /usr/local/lib/hedgerow",
        ]
        steps += [f"cp '{ssh_viewer.__file__}' /usr/local/lib/hedgerow/ssh_viewer.py"]
        return "\n".join([*steps, f"exec '{program()}' -D -e -f '{config}'"])

    def _write_accounts(self) -> None:
        hashed = subprocess.run(
            ["openssl", "passwd", "-6", "-stdin"], input=PASSWORD, capture_output=True, text=True, check=True
        ).stdout.strip()
        passwd, shadow, group = (
            Path("/etc", name).read_text(encoding="utf-8") for name in ("passwd", "shadow", "group")
        )
        if "sshd" not in {entry.pw_name for entry in pwd.getpwall()}:
            passwd += "sshd:x:3900:65534::/run/sshd:/usr/sbin/nologin\n"
            shadow += "sshd:!:20000::::::\n"
        for name, (number, shell) in ACCOUNTS.items():
            passwd += f"{name}:x:{number}:{number}::/:{shell}\n"
            shadow += f"{name}:{hashed}:20000:0:99999:7:::\n"
            group += f"{name}:x:{number}:\n"
        for name, text, mode in (("passwd", passwd, 0o644), ("shadow", shadow, 0o600), ("group", group, 0o644)):
            (self.folder / name).write_text(text, encoding="utf-8")
            (self.folder / name).chmod(mode)
        sudoers = self.folder / "sudoers"
        sudoers.write_text(f"Defaults env_reset\nroot ALL=(ALL:ALL) ALL\n{self.sudoers}", encoding="utf-8")
        sudoers.chmod(0o440)


def _answers(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1) as connection:
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


# -- a fleet on the loopback ---------------------------------------------------

OPERATORS = {
    "jane": {"roles": ["viewer", "operator", "admin"], "sites": "all"},
    "vic": {"roles": ["viewer"], "sites": ["orchard"]},
}


@pytest.fixture(scope="session")
def emulated() -> Inventory:
    return inventories.load(paths.repository_root() / "inventory" / "emulated")


@pytest.fixture
def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


@pytest.fixture
def inventory(emulated: Inventory) -> Inventory:
    """A gateway and a Pi at each of two sites, all on the loopback; ports are set when a server has one."""
    pi, gateway = emulated.pis[0], emulated.gateways[0]

    def host(like: Host, name: str, site: str, serial: str, address: str) -> Host:
        return msgspec.structs.replace(
            like, name=name, site=site, serial=serial, address=address, vars={**like.vars, "ansible_port": 22}
        )

    hosts = [
        host(gateway, "gw-orchard", "orchard", "10000000000000a0", "127.0.0.2"),
        host(pi, "pi-orchard-1", "orchard", "10000000000000a1", "127.0.0.1"),
        host(gateway, "gw-upper", "upper", "10000000000000b0", "127.0.0.4"),
        host(pi, "pi-upper-1", "upper", "10000000000000b1", "127.0.0.3"),
    ]
    names = {one.name: one for one in hosts}
    groups = {
        "gateways": ("gw-orchard", "gw-upper"),
        "pis": ("pi-orchard-1", "pi-upper-1"),
        "site_orchard": ("gw-orchard", "pi-orchard-1"),
        "site_upper": ("gw-upper", "pi-upper-1"),
    }
    return msgspec.structs.replace(
        emulated, fleet="meadow", hosts=names, groups=groups, vars={**emulated.vars, "ssh_access_operators": OPERATORS}
    )


@pytest.fixture
def fleet_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEDGEROW_VAR", str(tmp_path / "var"))
    passphrase = tmp_path / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    passphrase.chmod(0o600)
    monkeypatch.setenv(keygen.PASSPHRASE_FILE, str(passphrase))
    # bcrypt's rounds guard a stolen file; here they would be most of a test's time.
    monkeypatch.setattr(keygen, "_KDF_ROUNDS", "1")
    return tmp_path / "var/fleets/meadow"


@pytest.fixture
def fleet_ca(fleet_dir: Path, now: dt.datetime) -> FleetCA:
    return FleetCA.init(fleet_dir, "meadow", now=now)[0]


@pytest.fixture
def authority(fleet_dir: Path, fleet_ca: FleetCA, now: dt.datetime) -> authorities.SshAuthority:
    return authorities.SshAuthority.init(fleet_dir, "meadow", by="test@here", now=now)[0]


def new_pair(path: Path) -> str:
    """A key without a passphrase at ``path``; its public line."""
    key = Ed25519PrivateKey.generate()
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    path.with_name(f"{path.name}.pub").write_text(f"{public}\n")
    return public


@pytest.fixture
def pair() -> Callable[[Path], str]:
    return new_pair


@dataclass
class _Login:
    """An operator's key with its certificates, and what it asked with."""

    key: Path
    certificate: Path
    jump: Path
    role: SshRole


@pytest.fixture
def ask(
    authority: authorities.SshAuthority, fleet_ca: FleetCA, inventory: Inventory, tmp_path: Path, now: dt.datetime
) -> Callable[..., proof.Request]:
    """A signed request of an operator, with a challenge of its own unless it is told another."""

    def make(
        name: str = "jane", role: str = "operator", *, at: dt.datetime | None = None, **asked: Any
    ) -> proof.Request:
        files = fleet_ca.issue_client(Profile.OPERATOR, name, now=now)
        fields = {"fleet": "meadow", "role": role, "sites": ("orchard",), "public_key": "", **asked}
        fields.setdefault("challenge", authority.challenge(now=at or now))
        fields["public_key"] = fields["public_key"] or new_pair(tmp_path / f"key-{os.urandom(4).hex()}")
        return proof.ask(proof.Asked(**fields), key=files.key, certificate=files.certificate)

    return make


@pytest.fixture
def log_in(
    authority: authorities.SshAuthority,
    ask: Callable[..., proof.Request],
    inventory: Inventory,
    tmp_path: Path,
    now: dt.datetime,
) -> Callable[..., _Login]:
    """What an operator gets: a fresh key and its certificates, signed at ``at``."""

    def make(name: str = "jane", role: str = "operator", *, at: dt.datetime | None = None, **asked: Any) -> _Login:
        key = tmp_path / f"id-{os.urandom(4).hex()}"
        request = ask(name, role, at=at, public_key=new_pair(key), **asked)
        issued = authority.sign_operator(request, inventory, now=at or now)
        login = _Login(key, Path(f"{key}-cert.pub"), Path(f"{key}-jump-cert.pub"), SshRole(role))
        login.certificate.write_text(f"{issued.certificate}\n")
        login.jump.write_text(f"{issued.jump}\n")
        return login

    return make


@pytest.fixture
def serve(
    authority: authorities.SshAuthority, inventory: Inventory, tmp_path: Path, now: dt.datetime
) -> Iterator[Callable[..., _Served]]:
    """Start a host of the inventory as a real sshd with what role ``ssh_access`` would place on it."""
    if (why := missing()) is not None:
        pytest.skip(why)
    running: list[_Sshd] = []

    def start(name: str = "pi-orchard-1", *, certified_at: dt.datetime | None = None, **settings: Any) -> _Served:
        host = inventory.hosts[name]
        folder = tmp_path / f"host-{name}"
        etc = folder / "etc"
        for part in ("principals", "keys"):
            (etc / part).mkdir(parents=True, exist_ok=True)
        host_key = folder / "ssh_host_ed25519_key"
        public = new_pair(host_key)
        certificate = authority.sign_host(host, public, now=certified_at or now)
        (etc / "host-cert.pub").write_text(f"{certificate}\n")
        forward = [(one.address, one.port) for one in inventory.pis if one.site == host.site]
        for role in SshRole:
            account = RULES[role].account or "hedgerow-admin"
            text = on_host.principals(role, host.site, host.name, forward)
            if role is not SshRole.JUMP or host.is_gateway:
                (etc / "principals" / account).write_text(text)
        server = _Sshd(
            folder,
            etc,
            host_key,
            {
                "users": list(ACCOUNTS),
                "tcp_forwarding": "local" if host.is_gateway else "no",
                "auth_tries": 4,
                "login_grace_s": 30,
                "exempt": [],
                "trusted_user_ca_keys": "/etc/ssh/hedgerow/user_ca.pub",
                "host_certificate": "/etc/ssh/hedgerow/host-cert.pub",
                "revoked_keys": "/etc/ssh/hedgerow/revoked.krl",
                "principals_file": "/etc/ssh/hedgerow/principals/%u",
                "authorized_keys_files": "/etc/ssh/hedgerow/keys/%u",
                **settings,
            },
            host.address,
            sudoers=on_host.sudoers([{"command": "/usr/bin/id -u", "reason": "shows that it is root"}])
            + "hedgerow-admin ALL=(ALL:ALL) NOPASSWD: ALL\nhedgerow-breakglass ALL=(ALL:ALL) NOPASSWD: ALL\n",
        )
        served = _Served(authority, inventory, host, server)
        served.place()
        server.start()
        running.append(server)
        host.vars["ansible_port"] = server.port
        return served

    yield start
    for server in running:
        server.stop()


@pytest.fixture
def sshd_program() -> str:
    if (why := missing()) is not None:
        pytest.skip(why)
    return str(program())


@pytest.fixture
def free_port() -> int:
    return ports.free_port("0.0.0.0")


@pytest.fixture
def ssh_to(
    authority: authorities.SshAuthority, inventory: Inventory, tmp_path: Path
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Log in to a host of the inventory, which some other fixture runs."""

    def run(login: _Login, host: str, command: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "client").mkdir(exist_ok=True)
        known, config = tmp_path / "client" / "known_hosts", tmp_path / "client" / "config"
        known.write_text("".join(f"{line}\n" for line in known_hosts.lines(inventory, authority.trusted("host"))))
        files = client_config.Files(login.key, login.certificate, login.jump, known, authority.trust / "revoked.krl")
        config.write_text(client_config.render(inventory, login.role, files, bastion=False))
        return subprocess.run(
            ["ssh", "-F", str(config), "-o", "BatchMode=yes", host, command],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    return run


@dataclass
class _Served:
    """A host that runs, and how to come in."""

    authority: authorities.SshAuthority
    inventory: Inventory
    host: Host
    server: _Sshd

    def place(self) -> None:
        """What a converge places: CA keys, revocation list, the key in the safe."""
        for name in ("user_ca.pub", "revoked.krl"):
            shutil.copy(self.authority.trust / name, self.server.etc / name)
        safe = (self.authority.trust / "break_glass.pub").read_text()
        (self.server.etc / "keys" / BREAK_GLASS_ACCOUNT).write_text(on_host.keys([safe], source=["127.0.0.0/8"]))

    def config(self, login: _Login, *, bastion: bool = False) -> Path:
        """The operator's ssh_config, made anew: nothing is known of any host but the CA."""
        folder = self.server.folder
        known = folder / "known_hosts"
        keys = known_hosts.lines(self.inventory, self.authority.trusted("host"))
        known.write_text("".join(f"{line}\n" for line in keys))
        files = client_config.Files(
            login.key, login.certificate, login.jump, known, self.authority.trust / "revoked.krl"
        )
        path = folder / "ssh_config"
        path.write_text(client_config.render(self.inventory, login.role, files, bastion=bastion))
        return path

    def ssh(
        self, login: _Login, command: str = "echo in", *options: str, user: str | None = None, bastion: bool = False
    ) -> subprocess.CompletedProcess[str]:
        words = ["ssh", "-F", str(self.config(login, bastion=bastion)), "-o", "BatchMode=yes", *options]
        words += ["-l", user] if user else []
        return subprocess.run(
            [*words, self.host.name, *([command] if command else [])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            stdin=subprocess.DEVNULL,
            env={key: value for key, value in os.environ.items() if not key.startswith("SSH_")},
        )

    def said(self) -> str:
        """sshd's own log."""
        return self.server.log.read_text(errors="replace")


SOFTHSM = "/usr/lib/softhsm/libsofthsm2.so"
# Nothing else on a machine has it: a test looks for it in processes and files.
TOKEN_PIN = "7730941826"


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A SoftHSM2 token with two EC keys; returns its library."""
    pkcs11 = pytest.importorskip("pkcs11")
    if not Path(SOFTHSM).exists():
        pytest.skip("softhsm2 is not installed")
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path}/tokens\nobjectstore.backend = file\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", "ssh", "--pin", TOKEN_PIN, "--so-pin", "654321"],
        check=True,
        capture_output=True,
    )
    # The library reads its configuration when it is loaded: keys are made by another process than this one.
    program = (
        "import pkcs11, sys\n"
        f"session = pkcs11.lib({SOFTHSM!r}).get_token(token_label='ssh').open(rw=True, user_pin={TOKEN_PIN!r})\n"
        "from pkcs11.util.ec import encode_named_curve_parameters\n"
        "curve = encode_named_curve_parameters('secp256r1')\n"
        "for number, label in enumerate(('user-a', 'host-a', 'user-b')):\n"
        "    known = {pkcs11.Attribute.EC_PARAMS: curve}\n"
        "    parameters = session.create_domain_parameters(pkcs11.KeyType.EC, known, local=True)\n"
        "    parameters.generate_keypair(store=True, label=label, id=bytes([number + 1]))\n"
    )
    assert pkcs11
    subprocess.run([sys.executable, "-c", program], check=True)
    pin = tmp_path / "pin"
    pin.write_text(f"{TOKEN_PIN}\n")
    pin.chmod(0o600)
    monkeypatch.setenv(keygen.PIN_FILE, str(pin))
    return SOFTHSM
