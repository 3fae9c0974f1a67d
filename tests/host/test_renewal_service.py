"""What role `renewal_service` promises of a converged gateway that renews, and of the Pis that it renews for."""

from __future__ import annotations

import json
import re
import time

import pytest

from hedgerow import paths

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

UNIT = "hedgerow-renewal.service"
ISSUING = "/var/lib/hedgerow/issuing"
IDENTITY = "/var/lib/hedgerow/identity"
PAIR = f"--cacert {IDENTITY}/ca.crt --cert {IDENTITY}/device.crt --key {IDENTITY}/device.key"
DROP_IN = "/run/systemd/system/hedgerow-renew.service.d/90-now.conf"
SCORE = 2.5  # as tests/host/test_sandbox.py holds every unit to


@pytest.fixture(autouse=True)
def renews(request):
    """Gateways that renew; fleets without one (it is off by default) have nothing to show here."""
    if "gateway" in request.fixturenames:
        found = request.getfixturevalue("gateway")
        if not found.file("/etc/hedgerow/renewal.yml").exists:
            pytest.skip("this gateway does not renew certificates (renewal_service_enabled)")


@pytest.fixture
def its_gateway(fleet, pi):
    """Address and name of the gateway that the Pi renews at: of its own site."""
    found = [each for each in fleet.gateways if each.site == pi.entry.site]
    assert found, f"no gateway of site {pi.entry.site}"
    return found[0].address, f"{found[0].name}.{pi.entry.site}.{fleet.fleet}"


@pytest.fixture
def renewing(pi):
    """A Pi that renews by itself."""
    if pi.run("systemctl is-enabled --quiet hedgerow-renew.timer").rc != 0:
        pytest.skip("this host does not renew by itself (device_identity_renewal)")
    return pi


def ask(host, gateway, path, pair=PAIR, more=""):
    """Status (000: the connection was refused) and body of a request to the gateway."""
    address, name = gateway
    done = host.as_root(
        f"curl --silent --max-time 20 --resolve {name}:8445:{address} {pair} {more} "
        f"--write-out '\\n%{{http_code}}' https://{name}:8445{path}"
    )
    body, _, code = done.stdout.rpartition("\n")
    return code, body


def renew(host, gateway, pair=PAIR, key=f"{IDENTITY}/device.key"):
    """Ask for a renewal with a request for the key; what came back is not installed."""
    host.root(f"openssl req -new -key {key} -subj /CN={host.entry.serial} -out /run/hedgerow-test.csr")
    try:
        more = "--request POST --data-binary @/run/hedgerow-test.csr"
        return ask(host, gateway, "/identity/renew", pair, more)
    finally:
        host.root("rm -f /run/hedgerow-test.csr")


def serial_number(host):
    return host.root(f"openssl x509 -in {IDENTITY}/device.crt -noout -serial").strip().removeprefix("serial=")


def test_it_runs_as_its_user_and_will_after_a_reboot(gateway):
    assert gateway.service(UNIT).is_running
    assert gateway.service(UNIT).is_enabled
    pid = gateway.root(f"systemctl show -p MainPID --value {UNIT}").strip()
    assert gateway.root(f"ps -o user= -p {pid}").split() == ["hedgerow-renewal"]
    assert gateway.root("getent passwd hedgerow-renewal").strip().endswith(":/usr/sbin/nologin")


def test_the_key_of_its_ca_is_root_s_alone_and_not_on_the_controller(gateway, fleet):
    shown = gateway.root(f"stat -c '%a %U' {ISSUING} {ISSUING}/ca.key").split()
    assert shown == ["700", "root", "600", "root"]
    assert gateway.as_root(f"runuser -u hedgerow-renewal -- cat {ISSUING}/ca.key").rc != 0
    ca = paths.fleet_dir(fleet.fleet) / "ca"
    homes = [link for link in ca.glob(f"**/issuing/{gateway.entry.site}") if link.is_symlink()]
    assert homes, "the controller has no certificate of the site's CA"
    assert [name for home in homes for name in ("ca.key", "key.yml") if (home / name).exists()] == []


def test_it_lets_nobody_in_without_a_certificate_of_the_fleet(gateway):
    address, name = gateway.entry.address, f"{gateway.name}.{gateway.entry.site}.{gateway.fleet.fleet}"
    own = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 1 -subj /CN=nobody"
    gateway.root(f"{own} -keyout /run/hedgerow-test.key -out /run/hedgerow-test.crt 2>/dev/null")
    try:
        for pair in ("--insecure", "--insecure --cert /run/hedgerow-test.crt --key /run/hedgerow-test.key"):
            assert ask(gateway, (address, name), "/identity/time", pair)[0] == "000"
        assert ask(gateway, (address, name), "/identity/time")[0] == "200"
    finally:
        gateway.root("rm -f /run/hedgerow-test.*")


def test_every_server_of_the_gateway_goes_by_one_bundle_of_lists(gateway):
    bundle = gateway.root("cat /var/lib/hedgerow/revocation/crl.pem")
    lists = bundle.count("BEGIN X509 CRL")
    # The root's, the fleet's, and this gateway's own.
    assert lists >= 3
    assert gateway.file("/var/lib/hedgerow/revocation/nginx.map").exists
    assert gateway.service("hedgerow-revocation.path").is_running
    address, name = gateway.entry.address, f"{gateway.name}.{gateway.entry.site}.{gateway.fleet.fleet}"
    code, served = ask(gateway, (address, name), "/identity/crl.pem")
    assert (code, served.count("BEGIN X509 CRL")) == ("200", lists)


def test_a_device_renews_at_its_gateway_by_its_own_unit(renewing, its_gateway):
    """The unit as it is, but for the question whether it is due. The old certificate works until the switch."""
    pi = renewing
    before = serial_number(pi)
    command = pi.root("systemctl cat hedgerow-renew.service")
    start = re.findall(r"(?m)^ExecStart=(.+) --if-due$", command)[-1]
    address, name = its_gateway
    watch = (
        f"while [ ! -e /run/hedgerow-test/stop ]; do curl --silent --max-time 20 {PAIR} --output /dev/null "
        f"--resolve {name}:8445:{address} --write-out '%{{http_code}} ' https://{name}:8445/identity/time; done "
        ">/run/hedgerow-test/codes"
    )
    pi.root(
        "rm -rf /run/hedgerow-test; mkdir -m 700 /run/hedgerow-test; "
        f"cp {IDENTITY}/device.crt {IDENTITY}/device.key /run/hedgerow-test/; "
        f'mkdir -p {DROP_IN.rpartition("/")[0]}; printf "[Service]\\nExecStart=\\nExecStart={start}\\n" >{DROP_IN}; '
        "systemctl daemon-reload"
    )
    try:
        pi.root(f"cat >/run/hedgerow-test/watch <<'EOT'\n{watch}\nEOT")
        pi.root("systemd-run --quiet --collect --unit hedgerow-test-watch sh /run/hedgerow-test/watch")
        done = pi.as_root("systemctl start hedgerow-renew.service")
        said = pi.root("journalctl -u hedgerow-renew.service --no-pager -n 30")
        pi.root("touch /run/hedgerow-test/stop; while systemctl is-active -q hedgerow-test-watch; do sleep 0.1; done")
        assert done.rc == 0, said
        codes = pi.root("cat /run/hedgerow-test/codes").split()
        assert len(codes) >= 3
        assert set(codes) == {"200"}, "the pair in place was not good at every moment"
        old = f"--cacert {IDENTITY}/ca.crt --cert /run/hedgerow-test/device.crt --key /run/hedgerow-test/device.key"
        assert ask(pi, its_gateway, "/identity/time", old)[0] == "200"
    finally:
        pi.root(
            f"rm -rf {DROP_IN} /run/hedgerow-test; systemctl daemon-reload; "
            "systemctl reset-failed hedgerow-renew.service 2>/dev/null || :"
        )
    assert serial_number(pi) != before
    issuer = pi.root(f"openssl x509 -in {IDENTITY}/device.crt -noout -issuer")
    assert "site-ca" in issuer, issuer
    verify = f"openssl verify -CAfile {IDENTITY}/ca.crt -untrusted {IDENTITY}/device.crt {IDENTITY}/device.crt"
    assert pi.root(verify).endswith(": OK\n")


def test_its_timer_s_run_fetches_the_lists(renewing):
    renewing.root("systemctl start hedgerow-renew.service")
    assert "BEGIN X509 CRL" in renewing.root("cat /var/lib/hedgerow/revocation/crl.pem")


def test_the_gateway_renews_its_own_certificate_at_itself(gateway):
    """Else the site would stand still when the gateway's own one ends, with the controller away."""
    if gateway.run("systemctl is-enabled --quiet hedgerow-renew.timer").rc != 0:
        pytest.skip("this gateway does not renew by itself (device_identity_renewal)")
    before = serial_number(gateway)
    config = "--config /etc/hedgerow/gateway.yml"
    start = gateway.root("systemctl cat hedgerow-renew.service")
    start = re.findall(r"(?m)^ExecStart=(.+) --if-due (.+)$", start)[-1]
    assert start[1] == config
    gateway.root(
        f"mkdir -p {DROP_IN.rpartition('/')[0]}; "
        f'printf "[Service]\\nExecStart=\\nExecStart={" ".join(start)}\\n" >{DROP_IN}; systemctl daemon-reload'
    )
    try:
        done = gateway.as_root("systemctl start hedgerow-renew.service")
        assert done.rc == 0, gateway.root("journalctl -u hedgerow-renew.service --no-pager -n 30")
    finally:
        gateway.root(f"rm -f {DROP_IN}; systemctl daemon-reload")
    assert serial_number(gateway) != before
    assert gateway.service(UNIT).is_running
    address, name = gateway.entry.address, f"{gateway.name}.{gateway.entry.site}.{gateway.fleet.fleet}"
    shown = gateway.root(
        f"openssl s_client -connect {address}:8445 -servername {name} </dev/null 2>/dev/null | "
        "openssl x509 -noout -serial"
    )
    assert shown.strip().removeprefix("serial=") == serial_number(gateway)


def test_who_is_not_on_the_gateway_s_list_is_refused(fleet, pi, its_gateway):
    """A certificate of the fleet, of the site even, is not enough: names and right come from the inventory."""
    import testinfra

    gateway = next(each for each in fleet.gateways if each.site == pi.entry.site)
    shell = testinfra.get_host(
        f"ssh://{fleet.admin_user}@{gateway.address}:{gateway.port}",
        ssh_identity_file=str(fleet.ssh_key),
        ssh_extra_args=f"-o UserKnownHostsFile={fleet.known_hosts} -o StrictHostKeyChecking=yes",
    )
    listed = shell.run("sudo cat /etc/hedgerow/renewal.yml")
    if listed.rc != 0:
        pytest.skip("the site's gateway does not renew certificates (renewal_service_enabled)")
    if pi.entry.serial in listed.stdout:
        pytest.skip("it is on the list")
    code, body = renew(pi, its_gateway)
    assert (code, json.loads(body)["code"]) == ("403", "not_listed")


def test_its_units_are_tight(host):
    units = host.root(
        "cd /etc/systemd/system; ls hedgerow-renewal.service hedgerow-revocation.service hedgerow-renew.service "
        "2>/dev/null || :"
    ).split()
    if not units:
        pytest.skip("nothing of renewals is on this host")
    found = {}
    for unit in units:
        shown = host.root(f"systemd-analyze security {unit} --no-pager")
        found[unit] = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", shown)[1])
    assert {unit: score for unit, score in found.items() if score > SCORE} == {}


def test_the_log_of_what_it_issued_grows_and_holds(gateway):
    """Every certificate that it handed out stands in its log, in the chain."""
    logs = "/var/lib/hedgerow/renewal"
    deadline = time.monotonic() + 20
    while gateway.as_root(f"test -e {logs}/ca.crl").rc != 0:
        assert time.monotonic() < deadline, "the service has written no list of its own"
        time.sleep(0.5)
    assert gateway.root(f"stat -c '%U' {logs}/ca.crl").strip() == "hedgerow-renewal"
    for name in ("issued.jsonl", "renewals.jsonl"):
        if gateway.as_root(f"test -e {logs}/{name}").rc == 0:
            lines = gateway.root(f"cat {logs}/{name}").splitlines()
            assert [json.loads(line)["entry"] for line in lines] == list(range(1, len(lines) + 1))
