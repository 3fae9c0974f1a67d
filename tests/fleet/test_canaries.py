"""Secrets of a whole run on a converged fleet: nothing of them in its output, on hosts' process lists or in their logs.

The canaries are the passphrase of the controller's CA, the vault's password and a vaulted variable that a play uses;
beside them the bytes of the private keys themselves. Hosts are watched while the site is converged in check mode and
for real, as well as while their certificates are rotated.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hedgerow import paths

# Three minutes: the site is converged twice more; tests/unit/secrets/test_canaries.py looks at the controller's side.
pytestmark = [pytest.mark.fleet, pytest.mark.slow, pytest.mark.nightly]

# Reads every process's arguments and environment 20 times a second until its standard input ends. It looks for hashes
# of words, so that the canaries themselves are not on the host.
WATCH = r"""
import hashlib, os, re, select, sys
wanted = set(sys.stdin.readline().split())
while not select.select([sys.stdin], [], [], 0.05)[0]:
    for pid in filter(str.isdigit, os.listdir("/proc")):
        for name in ("cmdline", "environ"):
            try:
                data = open(f"/proc/{pid}/{name}", "rb").read()
            except OSError:
                continue
            for word in re.split(rb"[\0\s=:'\"]+", data):
                if hashlib.sha256(word).hexdigest() in wanted:
                    print(f"{name} of process {pid}", flush=True)
print("watched")
"""


@pytest.fixture
def canaries(controller, tmp_path, monkeypatch) -> dict[str, str]:
    """Name → secret, as they stand while the test runs."""
    found = {"vaulted": "canary-vaulted-5b19", "vault password": "canary-vault-password-2c60"}
    password = tmp_path / "vault-password"
    password.write_text(found["vault password"] + "\n")
    password.chmod(0o600)
    monkeypatch.setenv("ANSIBLE_VAULT_PASSWORD_FILE", str(password))
    folder = paths.fleet_dir(controller.inventory.fleet)
    for name, key in (("CA key", folder / "ca" / "ca.key"), ("SSH key", folder / "ssh" / "id_ed25519")):
        found[name] = key.read_text().splitlines()[2]
    return found


@pytest.fixture
def vaulted(controller, canaries, tmp_path) -> Path:
    """A file of extra variables, encrypted."""
    file = tmp_path / "vaulted.yml"
    file.write_text(f"canary: {canaries['vaulted']}\n")
    tool = Path(sys.executable).with_name("ansible-vault")
    subprocess.run([tool, "encrypt", file], check=True, capture_output=True)
    return file


def test_a_whole_run_keeps_its_secrets(controller, canaries, vaulted) -> None:
    wanted = " ".join(hashlib.sha256(text.encode()).hexdigest() for text in canaries.values())
    seen: dict[str, str] = {}
    stop = {host: threading.Event() for host in controller.pis}

    def watch(host: str) -> None:
        done = controller.on(host, "cat > /run/canaries.py; true", stdin=WATCH.encode())
        assert done.returncode == 0, done.stderr
        seen[host] = ""
        while not stop[host].is_set():
            # In pieces of two seconds, so that a host that restarts something under it is watched again.
            line = f"(echo {wanted}; sleep 2) | python3 /run/canaries.py"
            seen[host] += controller.on(host, line).stdout

    threads = [threading.Thread(target=watch, args=(host,)) for host in controller.pis]
    for each in threads:
        each.start()
    try:
        runs = [
            controller.play("site.yml", "-e", f"@{vaulted}", "-vvv", "--diff", "--check"),
            controller.play("site.yml", "-e", f"@{vaulted}", "-vvv", "--diff"),
            controller.play("rotate_identity.yml", "-e", f"@{vaulted}", "-vvv", "--diff"),
        ]
    finally:
        for event in stop.values():
            event.set()
        for each in threads:
            each.join()
    assert [run.returncode for run in runs] == [0, 0, 0], runs[-1].stdout[-2000:]
    output = "".join(run.stdout + run.stderr for run in runs)
    assert [name for name, text in canaries.items() if text in output] == []
    for host, found in seen.items():
        assert "watched" in found, f"{host} was not watched"
        assert found.replace("watched\n", "") == "", host
    for host in controller.pis:
        for name, text in canaries.items():
            # The pattern comes over standard input, or the search would find itself in the journal of sudo.
            line = "umask 077; cat > /run/canary; journalctl -q --no-pager -b | grep -cFf /run/canary; rm /run/canary"
            done = controller.on(host, line, stdin=text.encode())
            assert done.stdout.strip() == "0", f"{name} is in the journal of {host}"
        device_key = controller.on(host, "cat /var/lib/hedgerow/identity/device.key").stdout.splitlines()[1]
        assert device_key not in output
    log = paths.fleet_dir(controller.inventory.fleet) / "audit" / "audit.jsonl"
    assert [name for name, text in canaries.items() if text in log.read_text()] == []
