"""After a Pi was stolen: its certificate is worth nothing at its gateway; the others go on."""

from __future__ import annotations

import json
import time

import pytest

from hedgerow import paths

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

IDENTITY = "/var/lib/hedgerow/identity"
WITHIN_S = 60  # the service signs its list within 10 s of the ledger, and looks at the bundle every 10 s


def ask(host, path, port, more=""):
    """Status (000: the connection was cut) and body of a request to the host's gateway, with the host's own pair."""
    gateway = next(each for each in host.fleet.gateways if each.site == host.entry.site)
    name = f"{gateway.name}.{gateway.site}.{host.fleet.fleet}"
    pair = f"--cacert {IDENTITY}/ca.crt --cert {IDENTITY}/device.crt --key {IDENTITY}/device.key"
    done = host.as_root(
        f"curl --silent --max-time 20 --resolve {name}:{port}:{gateway.address} {pair} {more} "
        f"--write-out '\\n%{{http_code}}' https://{name}:{port}{path}"
    )
    body, _, code = done.stdout.rpartition("\n")
    return code, body


def becomes(code, host, path, port):
    deadline = time.monotonic() + WITHIN_S
    while (found := ask(host, path, port)[0]) != code:
        assert time.monotonic() < deadline, f"{host.name} gets {found} at port {port} and not {code}"
        time.sleep(1)


def stolen(host):
    return host.name == host.fleet.pis[1].name


def test_the_stolen_one_has_a_certificate_of_the_gateway_s_own_ca(pi):
    """Else what comes next would show the controller's list alone."""
    if not stolen(pi):
        pytest.skip("another host was stolen")
    assert "site-ca" in pi.root(f"openssl x509 -in {IDENTITY}/device.crt -noout -issuer")


def test_the_stolen_one_is_refused_by_nginx_and_by_the_renewal_service(pi):
    if stolen(pi):
        becomes("403", pi, "/metadata/1.root.json", 443)
        becomes("000", pi, "/identity/time", 8445)
        becomes("000", pi, "/identity/renew", 8445)
    else:
        assert ask(pi, "/metadata/1.root.json", 443)[0] in {"200", "404"}
        assert ask(pi, "/identity/time", 8445)[0] == "200"


def test_who_was_left_out_is_on_the_list_now_and_gets_seven_days(pi):
    if pi.name != pi.fleet.pis[-1].name:
        pytest.skip("it was on the list before")
    pi.root(f"openssl req -new -key {IDENTITY}/device.key -subj /CN={pi.entry.serial} -out /run/hedgerow-test.csr")
    try:
        more = "--request POST --data-binary @/run/hedgerow-test.csr"
        code, body = ask(pi, "/identity/renew", 8445, more)
        assert code == "200", body
        pi.root(f"cat >/run/hedgerow-test.csr <<'EOT'\n{json.loads(body)['certificate']}\nEOT")
        assert pi.as_root(f"openssl x509 -in /run/hedgerow-test.csr -noout -checkend {6 * 86400}").rc == 0
        assert pi.as_root(f"openssl x509 -in /run/hedgerow-test.csr -noout -checkend {8 * 86400}").rc != 0
    finally:
        pi.root("rm -f /run/hedgerow-test.csr")


def test_the_controller_has_the_log_of_what_the_gateway_issued(gateway):
    """As far as the gateway had come when it was visited; each line as it stands there."""
    ca = paths.fleet_dir(gateway.fleet.fleet) / "ca"
    copy = next(link for link in ca.glob(f"**/issuing/{gateway.entry.site}") if link.is_symlink())
    for name in ("issued.jsonl", "renewals.jsonl"):
        here = (copy / name).read_text(encoding="utf-8")
        assert here
        assert gateway.root(f"cat /var/lib/hedgerow/renewal/{name}").startswith(here)
    assert (copy / "ca.crl").exists()
