"""What the identity scenario's tests share: who shows which certificate, who is let in by which."""

from __future__ import annotations

import json
import re
import secrets
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import rollout_fleet
from cryptography import x509

from hedgerow import atomic, paths
from hedgerow.fleet import access
from hedgerow.identity import issued
from hedgerow.identity.authority import generations, opening
from hedgerow.identity.profiles import Profile
from hedgerow.identity.tls import server_name
from hedgerow.server.protocols.grpc import messages, service

IDENTITY = "/var/lib/hedgerow/identity"
FILES = ("device.key", "device.crt", "ca.crt")
REST, GRPC, NODE, EXPORTER, REGISTRY, RENEWAL = 8443, 8444, 9100, 9101, 443, 8445
PI_PORTS = (REST, GRPC, NODE, EXPORTER)
GATEWAY_PORTS = (REGISTRY, NODE)
_PATIENCE_S = 10.0


@dataclass(frozen=True)
class Holder:
    """Key and certificate in files of this machine, as whoever has them would keep them; ``ca`` is whom he trusts."""

    key: Path
    certificate: Path
    ca: Path

    @property
    def serial_number(self) -> int:
        return x509.load_pem_x509_certificate(self.certificate.read_bytes()).serial_number

    @property
    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


class Fleet(rollout_fleet.Fleet):
    """The rollout scenario's, with eyes for certificates."""

    def __init__(self, controller: Any) -> None:
        super().__init__(controller)
        self.hosts = sorted(self.inventory.hosts)
        self.gateway = next(iter(self.inventory.gateways)).name
        self.site_name = self.inventory.hosts[self.gateway].site
        self.directory = paths.fleet_dir(self.inventory.fleet)

    def rotate(self, *hosts: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """``playbooks/rotate_identity.yml``, for all where no host is named; ``variables`` as ``-e``."""
        return self._play("rotate_identity.yml", hosts, variables)

    def converge(self, *hosts: str, **variables: Any) -> subprocess.CompletedProcess[str]:
        """``playbooks/site.yml --tags device_identity``."""
        return self.site("device_identity", hosts=hosts, **variables)

    def site(self, *tags: str, hosts: Iterable[str] = (), **variables: Any) -> subprocess.CompletedProcess[str]:
        """``playbooks/site.yml`` with these tags."""
        return self._play("site.yml", hosts, variables, "--tags", ",".join(tags))

    def _play(self, name: str, hosts: Iterable[str], variables: dict[str, Any], *more: str) -> Any:
        only = ["--limit", ",".join(hosts)] if hosts else []
        extra = ["-e", json.dumps(variables)] if variables else []
        return self.controller.play(name, "--diff", *more, *only, *extra)

    def done(self, what: subprocess.CompletedProcess[str]) -> str:
        """Its output, once it succeeded."""
        assert what.returncode == 0, what.stdout + what.stderr
        return what.stdout

    # -- the CA -----------------------------------------------------------------

    @property
    def root_passphrase(self) -> tuple[str, str]:
        """The option that opens a root of two tiers; its file goes with the fleet."""
        file = self.directory / "root.passphrase"
        if not file.exists():
            atomic.write_bytes(file, f"{secrets.token_hex(16)}\n".encode(), mode=0o600)
        return "--passphrase-file", f"root={file}"

    @property
    def tiers(self) -> int:
        folder = self.directory / "ca"
        return 2 if generations.two_tier(folder, generations.active(folder).number) else 1

    def begin(self, tiers: int) -> None:
        """Have another CA beside the present one, with as many tiers, and every host trust both."""
        if tiers == 1:
            self.done(self.hedgerow("ca", "rotate", "begin"))
        else:
            self.done(self.hedgerow("ca", "rotate", "begin", "--two-tier", *self.root_passphrase))
            self.done(self.hedgerow("ca", "issuing", "add", "fleet", "--next", "--unencrypted", *self.root_passphrase))
        self.done(self.converge())

    def authority(self) -> x509.Certificate:
        """What signs: the CA, or the fleet's issuing CA below a root."""
        return opening.for_clients(self.directory).certificate

    def issued(self) -> int:
        """How many certificates the CA has signed so far."""
        return sum(1 for _ in issued.read_fleet(self.directory / "ca"))

    # -- what is in place, and what is shown -------------------------------------

    def serial_numbers(self, hosts: Iterable[str] = ()) -> dict[str, int]:
        """Host → serial number of the certificate in its folder."""
        return {host: self.certificate(host).serial_number for host in hosts or self.hosts}

    def certificate(self, host: str) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.on(host, f"cat {IDENTITY}/device.crt").encode())

    def keys(self, hosts: Iterable[str] = ()) -> dict[str, str]:
        """Host → its public key (PEM)."""
        return {host: self.on(host, f"openssl pkey -in {IDENTITY}/device.key -pubout") for host in hosts or self.hosts}

    def ports(self, host: str) -> tuple[int, ...]:
        return GATEWAY_PORTS if host == self.gateway else PI_PORTS

    def shown(self, host: str, port: int) -> int:
        """Serial number of the certificate that a new connection to a server is shown; it verifies, too."""
        found = self.inventory.hosts[host]
        context = access.context(self.inventory.fleet, Profile.OPERATOR)
        context.set_alpn_protocols(["h2"] if port == GRPC else ["http/1.1"])
        with (
            socket.create_connection((found.address, port), _PATIENCE_S) as plain,
            context.wrap_socket(plain, server_hostname=self.name(host)) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
        assert shown is not None
        return x509.load_der_x509_certificate(shown).serial_number

    def all_shown(self, hosts: Iterable[str] = ()) -> dict[str, set[int]]:
        """Host → all that its servers show; one that does not answer shows 0."""
        return {host: {self._shown(host, port) for port in self.ports(host)} for host in hosts or self.hosts}

    def _shown(self, host: str, port: int) -> int:
        try:
            return self.shown(host, port)
        except OSError:
            return 0

    def name(self, host: str) -> str:
        return server_name(host, self.inventory.hosts[host].site, self.inventory.fleet)

    def servers(self) -> dict[str, tuple[str, ...]]:
        """Pi → process, start and restarts of its server: the same as long as nobody started it anew."""
        asked = "systemctl show hedgerow-server -p MainPID -p NRestarts -p ExecMainStartTimestampMonotonic --value"
        return {host: tuple(self.on(host, asked).split()) for host in self.pis}

    def rested(self, pi: str) -> None:
        """Have its servers run, and systemd forget how often they were started.

        It gives up what starts too often, since that is how a crash looks; a certificate a minute is none.
        """
        units = "hedgerow-server hedgerow-exporter prometheus-node-exporter"
        self.on(pi, f"systemctl reset-failed {units}; systemctl start {units}")

    # -- who is let in -----------------------------------------------------------

    def holder(self, profile: Profile) -> Holder:
        """This controller's own certificate of a profile."""
        access.context(self.inventory.fleet, profile)
        clients = self.directory / "ca" / "clients"
        name = f"controller-{profile.value}"
        return Holder(clients / f"{name}.key", clients / f"{name}.crt", self.directory / "ca" / "ca.crt")

    def stolen(self, host: str, folder: Path) -> Holder:
        """A host's own pair, as somebody has it who read its card."""
        folder.mkdir(mode=0o700, exist_ok=True)
        for name in FILES:
            (folder / name).write_text(self.on(host, f"cat {IDENTITY}/{name}"))
        return Holder(folder / "device.key", folder / "device.crt", folder / "ca.crt")

    def kept(self, profile: Profile, folder: Path) -> Holder:
        """A copy of what this controller has now, as whoever does not renew would keep it."""
        now = self.holder(profile)
        for source, name in ((now.key, "kept.key"), (now.certificate, "kept.crt")):
            shutil.copy(source, folder / name)
        return Holder(folder / "kept.key", folder / "kept.crt", now.ca)

    def attempts(self, holder: Holder, pi: str) -> dict[str, str]:
        """What somebody with this certificate gets: on a Pi's servers, and at the gateway's registry.

        An HTTP status, gRPC's code, or ``cut`` where the connection is ended instead of answered.
        """
        model, gateway = self.model, self.gateway
        return {
            "infer": self._http(holder, (pi, REST), "POST", f"/v2/models/{model}/infer", rollout_fleet.QUESTION),
            # Of a model that is not there: whoever is let in harms nothing.
            "unload": self._http(holder, (pi, REST), "POST", "/v2/repository/models/nothing/unload", {}),
            "report": self._http(holder, (pi, REST), "GET", "/health/report"),
            "metrics": self._http(holder, (pi, REST), "GET", "/metrics"),
            "exporter": self._http(holder, (pi, EXPORTER), "GET", "/metrics"),
            "node": self._http(holder, (pi, NODE), "GET", "/metrics"),
            "gateway's node": self._http(holder, (gateway, NODE), "GET", "/metrics"),
            "grpc infer": self._grpc(holder, pi, "ModelInfer", _tensor(model)),
            "grpc unload": self._grpc(
                holder, pi, "RepositoryModelUnload", messages.RepositoryModelUnloadRequest(model_name="nothing")
            ),
            "registry": self._http(holder, (gateway, REGISTRY), "GET", "/metadata/timestamp.json"),
            "publish": self._http(holder, (gateway, REGISTRY), "PUT", "/metadata/timestamp.json", {"signed": {}}),
        }

    def listed(self) -> set[int]:
        """What the lists call revoked (serial numbers), as the gateway's renewal service gives them."""
        address, name = self.inventory.hosts[self.gateway].address, self.name(self.gateway)
        with httpx.Client(verify=self.holder(Profile.MONITOR).context, trust_env=False) as client:
            answer = client.get(
                f"https://{address}:{RENEWAL}/identity/crl.pem",
                headers={"Host": name},
                extensions={"sni_hostname": name},
            )
        blocks = re.findall(r"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----\n", answer.text, re.DOTALL)
        lists = [x509.load_pem_x509_crl(block.encode()) for block in blocks]
        assert lists, answer.text
        return {entry.serial_number for each in lists for entry in each}

    def _http(self, holder: Holder, door: tuple[str, int], method: str, path: str, body: Any = None) -> str:
        host, port = door
        address = self.inventory.hosts[host].address
        try:
            with httpx.Client(verify=holder.context, trust_env=False, timeout=_PATIENCE_S) as client:
                answer = client.request(
                    method,
                    f"https://{address}:{port}{path}",
                    json=body,
                    headers={"Host": self.name(host)},
                    extensions={"sni_hostname": self.name(host)},
                )
        except (httpx.TransportError, ssl.SSLError) as error:
            # Nobody who listens, or no answer, is no refusal.
            if isinstance(error, httpx.TimeoutException) or "Connection refused" in str(error):
                raise
            return "cut"
        return str(answer.status_code)

    def _grpc(self, holder: Holder, host: str, call: str, question: Any) -> str:
        credentials = grpc.ssl_channel_credentials(
            holder.ca.read_bytes(), holder.key.read_bytes(), holder.certificate.read_bytes()
        )
        options = [("grpc.ssl_target_name_override", self.name(host)), ("grpc.enable_http_proxy", 0)]
        target = f"{self.inventory.hosts[host].address}:{GRPC}"
        with grpc.secure_channel(target, credentials, options) as channel:
            try:
                channel.unary_unary(f"/{service.NAME}/{call}")(question.SerializeToString(), timeout=_PATIENCE_S)
            except grpc.RpcError as error:
                code = error.code()  # type: ignore[attr-defined] # it is a call as well
                return "cut" if code is grpc.StatusCode.UNAVAILABLE else str(code.name)
        return "OK"


def said(done: subprocess.CompletedProcess[str]) -> str:
    """A playbook's output as running text: Ansible folds long lines."""
    return " ".join((done.stdout + done.stderr).split())


def _tensor(model: str) -> Any:
    asked = messages.ModelInferRequest(model_name=model)
    tensor = asked.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(0.0)
    return asked
