"""The registry's web server: nginx itself, with the role's own template, real certificates and real lists.

Needs nginx (Debian's package; ``HEDGEROW_NGINX`` names another program); without it these tests are skipped.
"""

from __future__ import annotations

import datetime as dt
import http.client
import importlib.util
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import jinja2
import pytest
import yaml

from hedgerow.gateway import nginx
from hedgerow.identity import certificates
from hedgerow.identity.profiles import Profile

ROLE = Path(__file__).parents[3] / "roles/registry_mirror"
NGINX = os.environ.get("HEDGEROW_NGINX") or shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
PATIENCE_S = 60


def _support():
    path = Path(__file__).parents[1] / "server" / "tls_support.py"
    if "tls_support" not in sys.modules:
        spec = importlib.util.spec_from_file_location("tls_support", path)
        sys.modules["tls_support"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["tls_support"])
    return sys.modules["tls_support"]


support = _support()
NAME = f"gw-1.{support.SITE}.{support.FLEET}"
needs_nginx = pytest.mark.skipif(NGINX is None, reason="no nginx here: apt install nginx")


def rendered(folder: Path, port: int, **variables) -> str:
    """The role's template as Ansible renders it, with every path below ``folder`` and no word to syslog."""
    environment = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined)
    given = yaml.safe_load((ROLE / "defaults/main.yml").read_text()) | yaml.safe_load(
        (ROLE / "vars/main.yml").read_text()
    )
    given |= {"fleet": support.FLEET, "site": support.SITE, "inventory_hostname": "gw-1", "registry_mirror_port": port}
    # What these follow from by default: a CA with one tier, and no renewal service.
    given |= {"registry_mirror_verify_depth": 1, "registry_mirror_revocation": False}
    text = environment.from_string((ROLE / "templates/etc/nginx/nginx.conf.j2").read_text()).render(given | variables)
    for old, new in {
        # As root its workers would be somebody who may not read a test's folder.
        "user www-data;": "daemon off;" + (" user root;" if os.geteuid() == 0 else ""),
        "worker_processes auto;": "worker_processes 1;",
        "/run/nginx.pid": f"{folder}/nginx.pid",
        "syslog:server=unix:/dev/log,nohostname,tag=nginx warn": f"{folder}/error.log warn",
        "syslog:server=unix:/dev/log,nohostname,tag=registry": f"{folder}/access.log",
        "/var/lib/hedgerow/identity": f"{folder}/server",
        "/var/lib/hedgerow/revocation": f"{folder}/revocation",
        "/srv/hedgerow/registry": f"{folder}/registry",
        f"listen [::]:{port} ssl;": "",
        "http {\n": "http {\n" + "".join(
            f"    {kind}_temp_path {folder}/{kind};\n"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        ),
    }.items():  # fmt: skip
        assert old in text or "revocation" in old, old
        text = text.replace(old, new)
    return text


class Mirror:
    """nginx on loopback as this user."""

    def __init__(self, folder: Path, signer, **variables) -> None:
        self.folder, self.signer = folder, signer
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        support.write_server_files(folder / "server", signer, host="gw-1")
        (folder / "registry" / "metadata").mkdir(parents=True)
        (folder / "registry" / "metadata" / "timestamp.json").write_text("{}")
        (folder / "revocation").mkdir()
        self.variables = variables
        (folder / "nginx.conf").write_text(rendered(folder, self.port, **variables))
        self._child = subprocess.Popen([NGINX, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "error.log"])
        self._until(lambda: socket.create_connection(("127.0.0.1", self.port), 1).close() is None)

    def ask(self, pair, path="/metadata/timestamp.json", method="GET") -> int:
        context = support.caller(pair, self.signer.root)
        with support.connected(self.port, context, NAME) as connection:
            connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
            response = http.client.HTTPResponse(connection)
            response.begin()
            response.read()
            return response.status

    def place(self, bundle: str) -> None:
        """The lists, the map that the device makes of them, and a reload."""
        folder = self.folder / "revocation"
        (folder / "crl.pem").write_text(bundle)
        (folder / "nginx.map").write_text(nginx.revocation_map(bundle.encode()))
        self._child.send_signal(signal.SIGHUP)

    def until(self, condition) -> None:
        self._until(condition)

    def _until(self, condition) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if condition():
                    return
            except (OSError, ssl.SSLError):
                pass
            assert self._child.poll() is None, (self.folder / "error.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def close(self) -> None:
        self._child.terminate()
        self._child.wait(PATIENCE_S)


@pytest.fixture
def mirror(tmp_path):
    made = []

    def make(signer, **variables):
        made.append(Mirror(tmp_path, signer, **variables))
        return made[-1]

    yield make
    for each in made:
        each.close()


@needs_nginx
def test_who_may_read_the_registry_and_that_nobody_writes(mirror, tmp_path):
    signer = support.Signer.single(tmp_path)
    server = mirror(signer)
    for profile in Profile:
        pair = signer.issue(profile)
        readers = {Profile.DEVICE, Profile.OPERATOR}
        assert server.ask(pair) == (200 if profile in readers else 403), profile
        for method in ("PUT", "POST", "DELETE"):
            assert server.ask(pair, method=method) in ({405} if profile in readers else {403, 405})
        assert server.ask(pair, "/identity/crl.pem") in ({404} if profile in readers else {403})
    expired = signer.issue(Profile.DEVICE, ends=-dt.timedelta(days=1))
    assert server.ask(expired) == 400
    assert server.ask(support.Signer.single(tmp_path).issue(Profile.OPERATOR)) == 400
    assert server.ask(support.Signer.single(tmp_path, "other").issue(Profile.OPERATOR, fleet="other")) == 400


@needs_nginx
def test_a_revoked_certificate_is_refused_by_a_list_out_of_date_too_and_others_are_not(mirror, tmp_path):
    root, issuing = support.Signer.below(tmp_path)
    server = mirror(issuing, registry_mirror_revocation=True, registry_mirror_verify_depth=2)
    stolen, good = issuing.issue(Profile.DEVICE), issuing.issue(Profile.DEVICE)
    assert server.ask(stolen) == server.ask(good) == 200
    own = certificates.pem(issuing.certificate) + issuing.crl(stolen.leaf, next_update=-dt.timedelta(days=1))
    server.place(own)
    server.until(lambda: server.ask(stolen) == 403)
    assert server.ask(good) == 200
    assert server.ask(good, "/identity/crl.pem") == 200
    server.place(own + root.crl(issuing.certificate))
    server.until(lambda: server.ask(good) == 403)


@needs_nginx
def test_a_sites_ca_that_names_an_operator_makes_none(mirror, tmp_path):
    _, issuing = support.Signer.below(tmp_path, site=support.SITE)
    server = mirror(issuing, registry_mirror_verify_depth=2)
    assert server.ask(issuing.issue(Profile.DEVICE)) == 200
    assert server.ask(issuing.issue(Profile.OPERATOR)) == 403


def test_the_map_names_certificates_as_nginx_shows_them(tmp_path):
    root, issuing = support.Signer.below(tmp_path)
    stolen = issuing.issue(Profile.DEVICE).leaf
    assert nginx.revocation_map(b"") == nginx.HEAD
    text = nginx.revocation_map((certificates.pem(issuing.certificate) + issuing.crl(stolen)).encode())
    assert f":{nginx.serial_text(stolen.serial_number)}" in text
    assert "serialNumber=" in text
    assert "~^" not in text
    both = certificates.pem(issuing.certificate) + issuing.crl() + root.crl(issuing.certificate)
    assert "~^serialNumber=" in nginx.revocation_map(both.encode())
    with pytest.raises(ValueError, match="cut short"):
        nginx.revocation_map(b"-----BEGIN X509 CRL-----\nAAAA")
