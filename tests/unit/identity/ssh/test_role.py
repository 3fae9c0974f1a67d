"""The role itself, by the real ansible-playbook on a host of its own: then a real sshd reads what it placed.

The host is a mount namespace whose /etc, /run and /usr/local/lib are copies; nothing of the machine is changed.
``systemctl`` stands in for systemd, which no namespace has: it writes down what it is asked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.converge import hardening

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[4]
Make = Callable[..., Any]
ETC = "/etc/ssh/hedgerow"
HARDENING = {
    "hardening_ssh_users": ["hedgerow-viewer", "hedgerow-operator", "hedgerow-breakglass"],
    "hardening_ssh_trusted_user_ca_keys": f"{ETC}/user_ca.pub",
    "hardening_ssh_host_certificate": f"{ETC}/ssh_host_ed25519_key-cert.pub",
    "hardening_ssh_revoked_keys": f"{ETC}/revoked.krl",
    "hardening_ssh_principals_file": f"{ETC}/principals/%u",
    "hardening_ssh_authorized_keys_files": f"{ETC}/keys/%u",
}
PLAY = [
    {
        "hosts": "pi-orchard-1",
        "gather_facts": False,
        "force_handlers": True,
        "tasks": [
            {
                "name": "facts",
                "ansible.builtin.set_fact": {
                    "cacheable": True,
                    "hedgerow_facts": {
                        "packages": {"openssh-server": "1", "sudo": "1"},
                        "state": {
                            "users": "{{ lookup('ansible.builtin.pipe', 'cut -d: -f1 /etc/passwd').split() }}",
                            "units": {"ssh.service": {"active": "active", "enabled": "enabled"}},
                            "time": 0,
                        },
                    },
                },
            },
            {"name": "role", "ansible.builtin.import_role": {"name": "ssh_access"}},
        ],
    }
]


class Converged:
    """The host: what each run said, what systemd was asked, and its sshd."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def run(self, number: int) -> dict[str, Any]:
        text = (self.folder / f"run-{number}").read_text()
        assert "{" in text, text
        found: dict[str, Any] = json.loads(text[text.index("{") :])
        return found

    def failed(self, number: int) -> list[str]:
        return [
            str(host["msg"])
            for task in self.run(number)["plays"][0]["tasks"]
            for host in task["hosts"].values()
            if host.get("failed")
        ]

    def changed(self, number: int) -> list[str]:
        assert self.failed(number) == []
        return [
            task["task"]["name"].removeprefix("ssh_access : ")
            for task in self.run(number)["plays"][0]["tasks"]
            if any(host.get("changed") for host in task["hosts"].values())
        ]


@pytest.fixture
def converge(
    *, authority: Any, inventory: Any, fleet_dir: Path, pair: Make, tmp_path: Path, sshd_program: str, free_port: int
) -> Iterator[Make]:
    """Run the role twice and in check mode with ``variables``, then start sshd as role hardening would configure it."""
    started: list[subprocess.Popen[bytes]] = []
    (fleet_dir / "ssh").mkdir(parents=True, exist_ok=True)
    pair(fleet_dir / "ssh" / "id_ed25519")

    def run(*, groups: tuple[str, ...] = ("pis",), serve: bool = True, **variables: Any) -> Converged:
        host = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "ansible_host": "127.0.0.1",
            "site": "orchard",
            "fleet": "meadow",
            "pi_serial": "10000000000000a1",
            "admin_user": "hedgerow-admin",
            **HARDENING,
            **variables,
        }
        members = {"hosts": {"pi-orchard-1": host}}
        named = {name: {"hosts": {}} for name in ("gateways", "pis", "site_orchard")}
        named |= {name: {"hosts": {"pi-orchard-1": {}}} for name in (*groups, "site_orchard")}
        (tmp_path / "hosts.json").write_text(json.dumps({"all": {**members, "children": named}}))
        (tmp_path / "play.json").write_text(json.dumps(PLAY))
        wanted = {
            "users": ["hedgerow-admin", *HARDENING["hardening_ssh_users"]],
            "tcp_forwarding": "no", "auth_tries": 4, "login_grace_s": 30, "exempt": [],
            "trusted_user_ca_keys": HARDENING["hardening_ssh_trusted_user_ca_keys"],
            "host_certificate": HARDENING["hardening_ssh_host_certificate"],
            "revoked_keys": HARDENING["hardening_ssh_revoked_keys"],
            "principals_file": HARDENING["hardening_ssh_principals_file"],
            "authorized_keys_files": HARDENING["hardening_ssh_authorized_keys_files"],
        }  # fmt: skip
        lines = [f"{keyword} {value}" for keyword, value, _ in hardening.sshd_settings(**wanted)]
        lines = [line.replace("mlkem768x25519-sha256,sntrup761x25519-sha512,", "") for line in lines]
        lines += [f"Port {free_port}", "ListenAddress 127.0.0.1", "HostKey /etc/ssh/ssh_host_ed25519_key", "UsePAM no"]
        (tmp_path / "sshd_config").write_text("\n".join(lines) + "\n")
        log = tmp_path / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-ec",
                    script(tmp_path, sshd_program, serve=serve),
                ],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                env=os.environ
                | {
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
                    "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
                    "ANSIBLE_REMOTE_TEMP": str(tmp_path / "remote"),
                },
            )
        started.append(process)
        deadline = time.monotonic() + 300
        while b"Server listening" not in log.read_bytes():
            if process.poll() is not None:
                break
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        return Converged(tmp_path, free_port)

    yield run
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)


# What ``systemctl show`` says of a unit that runs, and a note of what else it is asked.
SYSTEMCTL = """\
#!/bin/sh
case "$1" in
  show) printf 'Id=ssh.service\\nLoadState=loaded\\nActiveState=active\\nSubState=running\\n' ;;
  *) echo "$@" >> {notes} ;;
esac
"""


def script(folder: Path, sshd_program: str, *, serve: bool) -> str:
    """What happens in the namespace: a host's folders, the role in check mode and twice, then sshd."""
    playbook = f"'{Path(sys.executable).parent}/ansible-playbook' -i '{folder}/hosts.json' '{folder}/play.json'"
    (folder / "double").write_text(SYSTEMCTL.format(notes=folder / "systemctl"))
    layers = f"lowerdir=/etc,upperdir={folder}/layer/upper,workdir={folder}/layer/work"
    steps = [
        f"mkdir -p '{folder}/layer'",
        f"mount -t tmpfs tmpfs '{folder}/layer'",
        f"mkdir '{folder}/layer/upper' '{folder}/layer/work'",
        f"mount -t overlay -o '{layers}' overlay /etc",
        "mount -t tmpfs -o mode=0755 tmpfs /run",
        "mkdir -m 0755 /run/sshd",
        "mkdir -p /usr/local/lib",
        "mount -t tmpfs -o mode=0755 tmpfs /usr/local/lib",
        "mkdir /usr/local/lib/hedgerow",
        "mount -t tmpfs -o mode=0755 tmpfs /usr/local/bin",
        f"install -m 0755 '{folder}/double' /usr/local/bin/systemctl",
        "grep -q ^sshd: /etc/passwd || echo 'sshd:x:3900:65534::/run/sshd:/usr/sbin/nologin' >> /etc/passwd",
        "echo 'hedgerow-admin:x:3001:3001::/:/bin/sh' >> /etc/passwd",
        "echo 'hedgerow-admin:x:3001:' >> /etc/group",
        "rm -f /etc/ssh/ssh_host_*",
        "ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key",
        f"{playbook} --check > '{folder}/run-0'",
        f"ls /etc/ssh > '{folder}/after-check'",
        f"{playbook} > '{folder}/run-1'",
        f"{playbook} > '{folder}/run-2'",
        f"cp -r /etc/ssh/hedgerow '{folder}/placed'",
        f"visudo -c > '{folder}/visudo'",
        f"getent passwd > '{folder}/passwd'",
        f"find /etc/ssh/hedgerow -printf '%m %u %p\\n' > '{folder}/modes'",
    ]
    return "\n".join([*steps, f"exec '{sshd_program}' -D -e -f '{folder}/sshd_config'" if serve else "exit 0"])


def test_it_converges_once_and_a_real_sshd_lets_in_whom_it_should(
    converge: Make, log_in: Make, ssh_to: Make, inventory: Any, tmp_path: Path
) -> None:
    host = converge()
    assert "hedgerow" not in (tmp_path / "after-check").read_text().split()  # check mode wrote nothing
    assert "Have a certificate for the host's SSH key" in host.changed(1)
    assert host.changed(2) == []
    assert (tmp_path / "systemctl").read_text().count("reload ssh.service") == 1
    assert "parsed OK" in (tmp_path / "visudo").read_text()
    modes = [line.split()[:2] for line in (tmp_path / "modes").read_text().splitlines()]
    assert {(mode, user) for mode, user in modes} == {("755", "root"), ("644", "root")}
    inventory.hosts["pi-orchard-1"].vars["ansible_port"] = host.port
    said = ssh_to(log_in("jane", "operator"), "pi-orchard-1", "id -un; sudo -n -l")
    assert said.stdout.startswith("hedgerow-operator\n"), said.stderr + (tmp_path / "log").read_text()
    assert "/usr/bin/systemctl restart hedgerow-server.service" in said.stdout
    assert "report " in ssh_to(log_in("vic", "viewer"), "pi-orchard-1", "help").stdout
    assert ssh_to(log_in("jane", "admin"), "pi-orchard-1", "id -un").stdout == "hedgerow-admin\n"
    assert ssh_to(log_in("jane", "admin", sites=("upper",)), "pi-orchard-1", "id -un").returncode == 255


def test_a_gateway_has_the_account_that_passes_through(converge: Make, tmp_path: Path) -> None:
    users = [*HARDENING["hardening_ssh_users"], "hedgerow-jump"]
    host = converge(groups=("gateways",), serve=False, hardening_ssh_users=users, hardening_ssh_tcp_forwarding="local")
    assert host.changed(2) == []
    assert "hedgerow-jump:" in (tmp_path / "passwd").read_text()
    assert "no-port-forwarding" in (tmp_path / "placed/principals/hedgerow-jump").read_text()  # the site has no Pi


@pytest.mark.parametrize(
    "variables,text",
    [
        ({"hardening_ssh_revoked_keys": None}, "ssh_access_enabled needs these"),
        ({"hardening_ssh_users": []}, "ssh_access_enabled needs these"),
        ({"ssh_access_operator_commands_host": [{"command": "/bin/sh *", "reason": "why"}]}, "cannot be given"),
    ],
    ids=["file", "users", "wildcard"],
)
def test_it_refuses_what_would_lock_out_or_let_in_too_much(
    converge: Make, variables: dict[str, Any], text: str
) -> None:
    assert text in " ".join(converge(serve=False, **variables).failed(0))
