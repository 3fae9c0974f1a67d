"""Renew this device's certificate at its gateway, over mutual TLS with the one it has.

Invariants:

- The old pair stays in service until the gateway has answered the new one (``enrol.install`` with a peer).
- The handshake with the old key is the proof of who asks; after its end the certificate still opens this one door for
  a while (grace), and then for the same key only.
- A new key that waits for its certificate is kept and asked for again: one certificate that asks for two keys is what
  two boards with one identity look like.
- What to trust never comes from the gateway: a new certificate must chain to the ``ca.crt`` that is here.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from cryptography import x509

from hedgerow.device.config import DeviceConfig
from hedgerow.device.identity import due, revocation
from hedgerow.device.identity.config import PORT, Service
from hedgerow.errors import DeviceError, HedgerowError, NetworkError, RefusedError, UsageError
from hedgerow.identity import enrol
from hedgerow.identity.keys_device import trial
from hedgerow.identity.keys_device.folder import CA, CERTIFICATE, GENERATIONS, KEY
from hedgerow.registry.client.times import Floor, TrustedTime

RENEW, TIME, CRL = "/identity/renew", "/identity/time", "/identity/crl.pem"
_REFUSED = {403, 409}
_LATER = {429, 503}
_NOT_FOUND = 404
_SYSTEMCTL_S = 300


class _Granted(msgspec.Struct):
    """A gateway's answer; more than these may be there."""

    certificate: str
    ca: str | None = None


class _Refusal(msgspec.Struct):
    error: str = ""
    code: str = ""
    next_step: str | None = None


@dataclass
class Outcome:
    """``reason`` says why it was renewed, None if it was not. ``notes`` are for people; ``untold`` services failed."""

    reason: str | None
    expires: datetime | None
    due_at: datetime | None
    new_key: bool = False
    notes: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)


class Device:
    """This device's identity: its folder, its gateway, and the time as far as it is known."""

    def __init__(self, config: DeviceConfig, clock: datetime, *, synced: bool | None = None) -> None:
        self.config = config
        self.own = config.identity
        self.folder = self.own.directory
        self.pair = trial.Pair(self.folder / KEY, self.folder / CERTIFICATE, self.folder / CA)
        self.certificate = self._certificate()
        self.lists = [] if self.own.crl is None or not self.pair.ca.exists() else self._lists(self.own.crl)
        self.time = TrustedTime(clock, due.floor(self.certificate, self.lists), synced)

    @property
    def due(self) -> due.Due | None:
        return None if self.certificate is None else due.judge(self.certificate, self.config.serial, self.time.now)

    def peer(self) -> trial.Peer:
        """The gateway's renewal service.

        Raises:
            UsageError: the configuration names none.
        """
        with _as_ours():
            if self.own.renewal_url is not None:
                host, port = trial.parse_address(self.own.renewal_url, PORT)
            else:
                host, port = urlsplit(self.config.registry_url).hostname or "", PORT
        if not host:
            raise UsageError(
                "no gateway is configured to renew at",
                where="identity.renewal_url in device.yml",
                next_step="name it, like https://10.77.0.10:8445, and its certificate's name as identity.renewal_name",
            )
        return trial.Peer(host, port, self.own.renewal_name or self.config.registry_name or host)

    def renew(self, *, force: bool, new_key: bool) -> Outcome:
        """Renew if it is due, or in any case with ``force``; ``new_key`` makes another key.

        Raises:
            RefusedError: the gateway will not.
            NetworkError: it cannot be reached, or says later.
            DeviceError: this device cannot, or the new pair did not work. In all three the old pair stays.
        """
        judged = self.due
        if self.certificate is None or judged is None or not self.pair.ca.exists():
            raise DeviceError(
                "this device has no certificate to renew, or no CA to trust",
                where=str(self.folder),
                next_step="enrol it from the controller: ansible-playbook playbooks/site.yml --tags device_identity",
            )
        new_key = new_key or self.own.new_key
        reason = judged.reason or ("a new key was asked for" if new_key and force else None)
        reason = reason or ("a renewal was asked for" if force else None)
        if reason is None:
            return Outcome(None, self.certificate.not_valid_after_utc, judged.at)
        notes = []
        if judged.expired and new_key:
            new_key = False
            notes.append("after its end a certificate is renewed for the same key; another one comes with the next")
        with _as_ours(due.doubt(self.time)):
            granted, created = self._ask(new_key=new_key)
            answer = enrol.install(
                str(self.folder),
                granted.certificate,
                self.pair.ca.read_text(encoding="ascii"),
                layout=GENERATIONS if created else None,
                peer=self._trial(),
            )
        if granted.ca is not None and granted.ca.split() != self.pair.ca.read_text(encoding="ascii").split():
            notes.append(
                "the gateway trusts other authorities than this device; the controller's next visit brings them"
            )
        self.certificate = self._certificate()
        judged = self.due
        untold = tell(self.own.services) if answer["changed"] else []
        expires = None if self.certificate is None else self.certificate.not_valid_after_utc
        return Outcome(reason, expires, None if judged is None else judged.at, created, notes, untold)

    def refresh_list(self) -> revocation.Refreshed | None:
        """Fetch the list of revoked certificates; None where the gateway has none, or none is asked for.

        Raises:
            NetworkError: it cannot be reached.
            PublisherError: the list is worth nothing; the one in place stays.
        """
        if self.own.crl is None:
            return None
        with _as_ours(due.doubt(self.time)):
            answer = self._exchange("GET", CRL)
        if answer.status == _NOT_FOUND:
            return None
        if answer.status != trial.OK:
            raise _refusal(answer, f"{self.peer()}{CRL}")
        found = revocation.refresh(self.own.crl, answer.body, self.pair.ca, self.pair.certificate.read_bytes())
        if found.changed:
            tell(self.own.crl_services)
        return found

    def _ask(self, *, new_key: bool) -> tuple[_Granted, bool]:
        """The gateway's certificate for this key or another one, and whether it is another one."""
        asked = enrol.request(
            str(self.folder), self.config.serial, new_key=new_key, key=self.own.key, keep_pending=True
        )
        headers = {"Content-Type": "application/pkcs10"}
        if asked["anchor"] is not None:
            headers["Hedgerow-Anchor"] = asked["anchor"]["signature"]
        peer = self.peer()
        answer = self._exchange("POST", RENEW, body=asked["csr"].encode(), headers=headers)
        if answer.status != trial.OK:
            raise _refusal(answer, f"{peer}{RENEW}")
        try:
            granted = msgspec.json.decode(answer.body, type=_Granted)
        except msgspec.DecodeError as error:
            raise NetworkError(
                f"the gateway's answer cannot be read: {error}", where=f"{peer}{RENEW}", next_step="try again"
            ) from error
        return granted, new_key or asked["key_created"]

    def _exchange(
        self, method: str, path: str, *, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> trial.Answer:
        """Ask the gateway. Whose certificate begins after all that this device knows of the time is a witness of it.

        Only where nothing says that this clock is right: a synchronised one is believed, and the gateway is refused.
        """
        peer = self.peer()
        try:
            return trial.exchange(
                peer, self.pair, method, path, body=body, headers=headers, at=due.verify_at(self.time)
            )
        except trial.PeerError as fault:
            if not fault.early or self.time.synced:
                raise
        shown = x509.load_pem_x509_certificate(trial.witness(peer, self.pair.ca).encode())
        self.time = self.time.raised(Floor(shown.not_valid_before_utc, f"the certificate of {peer.name}"))
        return trial.exchange(peer, self.pair, method, path, body=body, headers=headers, at=due.verify_at(self.time))

    def _trial(self) -> dict[str, str | int | None]:
        peer = self.peer()
        return {"host": peer.host, "port": peer.port, "name": peer.name, "path": TIME, "at": due.verify_at(self.time)}

    def _certificate(self) -> x509.Certificate | None:
        try:
            return x509.load_pem_x509_certificate(self.pair.certificate.read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        except PermissionError as error:
            raise UsageError(
                "the device's identity is root's alone", where=str(self.folder), next_step="run it with sudo"
            ) from error

    def _lists(self, path: Path) -> revocation.Lists:
        chain = self.pair.certificate.read_bytes() if self.pair.certificate.exists() else b""
        return revocation.read(path, self.pair.ca, chain)


def tell(services: tuple[Service, ...]) -> list[str]:
    """Have those services that run take a new file; the units that would not."""
    verbs = {"reloaded": "try-reload-or-restart", "restarted": "try-restart"}
    failed = []
    for service in services:
        done = subprocess.run(
            ["systemctl", verbs[service.state], service.unit],
            capture_output=True,
            timeout=_SYSTEMCTL_S,
            check=False,
        )
        if done.returncode != 0 and b"not loaded" not in done.stderr and b"not found" not in done.stderr:
            failed.append(service.unit)
    return failed


def _refusal(answer: trial.Answer, where: str) -> HedgerowError:
    try:
        said = msgspec.json.decode(answer.body, type=_Refusal)
    except msgspec.DecodeError:
        said = _Refusal()
    what = said.error or f"the gateway answered {answer.status}"
    where = f"{where}, {answer.status} {said.code}".rstrip()
    if answer.status in _REFUSED:
        return RefusedError(what, where=where, next_step=said.next_step or "see the gateway's log")
    if answer.status in _LATER:
        wait = answer.headers.get("Retry-After")
        later = f"try again in {wait} s; the timer does" if wait else "try again later; the timer does"
        return NetworkError(what, where=where, next_step=said.next_step or later)
    return DeviceError(what, where=where, next_step=said.next_step or "see the gateway's log")


@contextmanager
def _as_ours(doubt: str = "") -> Iterator[None]:
    """Raise the device half's faults as errors of ours, with what is to be said of the clock."""
    try:
        yield
    except trial.PeerError as fault:
        raise NetworkError(fault.what + doubt, where=fault.where, next_step=fault.next_step) from fault
    except enrol.EnrolError as fault:
        raise DeviceError(fault.what + doubt, where=fault.where, next_step=fault.next_step) from fault
