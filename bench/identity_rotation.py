"""How long it takes until every host of a fleet shows a new certificate.

    .venv/bin/python -m bench.identity_rotation [-i INVENTORY] [--json]     on a converged emulated fleet
    .venv/bin/python -m bench.identity_rotation --hosts 30 [--json]         on one made for it (half an hour)

``playbooks/rotate_identity.yml`` as an operator runs it, from its start to its end. A Pi counts once its inference
server shows another certificate than before to who asks it: what lies on the disk and is not served has not been
rotated. Nothing is taken out of the time: the playbook's waves and its first single host are in it.

Ends with 1 where 30 hosts or more took longer than 60 s, or a Pi shows what it showed before. Fewer hosts are held to
no time.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench import breach_fleet
from bench.breach_fleet import BIN
from bench.proof import ROOT, machine
from cryptography import x509

from hedgerow import inventory as inventories
from hedgerow import output, paths
from hedgerow.fleet import access
from hedgerow.identity.profiles import Profile
from hedgerow.inventory import Host, Inventory

BAR_S, BAR_HOSTS = 60.0, 30
FORKS = 8
"""Hosts at a time. Four for each core of the machine on which the emulated hosts run as well."""
_ASKED_WITHIN_S = 10.0


def shown(inventory: Inventory, host: Host) -> int:
    """The serial number of the certificate that ``host``'s inference server shows.

    Raises:
        OSError: it does not answer, or not with a certificate of the fleet.
    """
    endpoint = access.endpoint(host.name, host.address, site=host.site, fleet=inventory.fleet)
    context = access.context(inventory.fleet, Profile.OPERATOR)
    with (
        socket.create_connection((endpoint.address, endpoint.port), timeout=_ASKED_WITHIN_S) as connection,
        context.wrap_socket(connection, server_hostname=endpoint.server_name) as tls,
    ):
        certificate = tls.getpeercert(binary_form=True)
    assert certificate is not None
    return x509.load_der_x509_certificate(certificate).serial_number


def rotate(inventory: Inventory, *, forks: int) -> tuple[float, list[str]]:
    """Seconds that the playbook took, and the Pis that show what they showed before.

    Raises:
        SystemExit: the playbook failed; its output was shown.
    """
    before = {host.name: shown(inventory, host) for host in inventory.pis}
    command = [str(BIN / "ansible-playbook"), "-i", str(inventory.path), "playbooks/rotate_identity.yml"]
    environment = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "NO_COLOR": "1"}
    started = time.monotonic()
    done = subprocess.run(
        [*command, "--forks", str(forks)], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    seconds = time.monotonic() - started
    if done.returncode != 0:
        output.err.print((done.stdout + done.stderr)[-4000:], highlight=False, markup=False)
        sys.exit(f"the playbook ended with {done.returncode}")
    return seconds, [host.name for host in inventory.pis if shown(inventory, host) == before[host.name]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", type=Path, default=ROOT / "inventory/emulated", help="%(default)s")
    parser.add_argument("--hosts", type=int, help="make a fleet of so many Pis for it, and remove it")
    parser.add_argument("--forks", type=int, default=FORKS, help="hosts at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args(argv)
    with ExitStack() as stack:
        if arguments.hosts:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=paths.var_dir(), prefix="rotation-")))
            inventory = stack.enter_context(breach_fleet.converged(arguments.hosts, folder))
        else:
            inventory = inventories.load(arguments.inventory)
        seconds, same = rotate(inventory, forks=arguments.forks)
    hosts = len(inventory.hosts)
    enough = hosts >= BAR_HOSTS
    ok = not same and seconds <= BAR_S if enough else None
    found = {"hosts": hosts, "seconds": round(seconds, 1), "not_rotated": same, "bar_s": BAR_S, "bar_hosts": BAR_HOSTS}
    if arguments.json:
        output.print_json({"machine": machine(), **found, "ok": ok})
    else:
        rows = [(key, json.dumps(value)) for key, value in found.items()]
        output.print_table(f"certificates of a whole fleet, on {machine()}", ("what", "measured"), rows)
    return 1 if same or ok is False else 0


if __name__ == "__main__":
    sys.exit(main())
