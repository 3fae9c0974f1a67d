"""Speak HTTP over TLS 1.3 with a pair of one's own choice: to try one that is not in service, and to renew.

Through ``openssl s_client``, so that a key in a TPM works as one in a file does, and before any Hedgerow is installed.

- The peer is verified: to the CA given, by its name, at a time that the caller names (a Pi's clock may be years off).
- A handshake alone proves nothing: in TLS 1.3 a server judges the client's certificate after the client's handshake is
  over. Only an answer shows that the server took it.
- An answer has a bound and a deadline.
"""

from __future__ import annotations

import http.client
import io
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path

from hedgerow.identity.keys_device import kinds
from hedgerow.identity.keys_device.tool import EnrolError, run

TIMEOUT_S = 30.0
MAX_ANSWER = 4 * 1024 * 1024
OK = 200
_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


class PeerError(EnrolError):
    """No answer: the peer cannot be reached, is not who it should be, or hung up. Worth another try.

    ``early``: its certificate is not valid yet by the time it was verified at.
    """

    early = False


@dataclass(frozen=True)
class Peer:
    """``host`` and ``port`` to connect to, ``name`` that its certificate must have."""

    host: str
    port: int
    name: str

    def __str__(self) -> str:
        address = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{address}:{self.port} ({self.name})"


@dataclass(frozen=True)
class Pair:
    """PEM files: a key, its certificate (with its chain), and the CA that the peer must come from."""

    key: Path
    certificate: Path
    ca: Path


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: Message = field(default_factory=Message)


def exchange(
    peer: Peer,
    pair: Pair,
    method: str,
    path: str,
    *,
    body: bytes = b"",
    headers: dict[str, str] | None = None,
    at: int | None = None,
    timeout_s: float = TIMEOUT_S,
) -> Answer:
    """Ask once, and hang up. ``at``: verify certificates as of then (seconds since 1970; None: the clock).

    Raises:
        PeerError: no answer.
        EnrolError: the pair cannot be used, or openssl is missing.
    """
    request = _request(peer, method, path, body, headers or {})
    with _chain(pair.certificate) as chain:
        done = _s_client(
            peer,
            pair.ca,
            *("-quiet", *kinds.of(pair.key).options),
            *("-cert", str(pair.certificate), "-key", str(pair.key), *chain),
            *(() if at is None else ("-attime", str(at))),
            stdin=request,
            timeout_s=timeout_s,
        )
    if not done.stdout.startswith(b"HTTP/"):
        raise _no_answer(peer, done.stderr.decode(errors="replace"))
    return _parse(peer, done.stdout, method)


def witness(peer: Peer, ca: Path, *, timeout_s: float = TIMEOUT_S) -> str:
    """The peer's certificate (PEM): its chain to ``ca`` and its name hold, its times are not looked at.

    That it was signed proves that it is not earlier than its beginning, to whoever has no better clock.

    Raises:
        PeerError: no answer, or it is not who it should be.
    """
    done = _s_client(peer, ca, "-showcerts", "-no_check_time", stdin=b"", timeout_s=timeout_s)
    text = done.stdout.decode(errors="replace")
    shown = text.split(_BEGIN)
    if "Verify return code: 0 (ok)" not in text or len(shown) == 1:
        raise _no_answer(peer, done.stderr.decode(errors="replace"))
    return _BEGIN + shown[1].partition(_END)[0] + _END + "\n"


def _s_client(
    peer: Peer, ca: Path, *arguments: str, stdin: bytes, timeout_s: float
) -> subprocess.CompletedProcess[bytes]:
    """A connection to ``peer``, which is verified to ``ca`` and by its name."""
    address = f"[{peer.host}]" if ":" in peer.host else peer.host
    return run(
        *("openssl", "s_client", "-tls1_3", "-connect", f"{address}:{peer.port}", "-servername", peer.name),
        *("-CAfile", str(ca), "-no-CApath", "-no-CAstore", "-x509_strict"),
        *("-verify_return_error", "-verify_hostname", peer.name, *arguments),
        stdin=stdin,
        timeout_s=timeout_s,
        package="openssl",
    )


def _request(peer: Peer, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"Host: {peer.name}", "Connection: close", "Accept: */*"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body or method == "POST" else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def try_out(peer: Peer, pair: Pair, path: str, *, at: int | None = None) -> None:
    """Raise EnrolError unless ``peer`` takes ``pair``: it answers 200 to ``path``."""
    try:
        answer = exchange(peer, pair, "GET", path, at=at)
    except PeerError as fault:
        raise EnrolError(
            f"the new certificate was tried and did not work; the old one stays: {fault.what}",
            where=fault.where,
            next_step=fault.next_step,
        ) from fault
    if answer.status != OK:
        raise EnrolError(
            f"the new certificate was tried and {peer.name} answered {answer.status}; the old one stays",
            where=f"{peer}{path}",
            next_step="compare: hedgerow ca show, with ca.crt on that host; then run it again",
        )


@contextmanager
def _chain(certificate: Path) -> Iterator[tuple[str, ...]]:
    """Options that send what follows the leaf in ``certificate``: s_client reads its first block alone."""
    rest = certificate.read_text(encoding="ascii").split(_BEGIN)[2:]
    if not rest:
        yield ()
        return
    with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="hedgerow-chain-") as file:
        file.write("".join(_BEGIN + each for each in rest))
        file.flush()
        yield ("-cert_chain", file.name)


def _parse(peer: Peer, data: bytes, method: str) -> Answer:
    response = http.client.HTTPResponse(_Received(data), method=method)  # type: ignore[arg-type]
    # HTTPResponse wants a socket and uses nothing of it but makefile().
    try:
        response.begin()
        body = response.read(MAX_ANSWER + 1)
        whole = response.length in {None, 0}
    except (http.client.HTTPException, ValueError) as error:
        raise PeerError(
            f"{peer.name} sent no whole answer: {error!r}", where=str(peer), next_step="try again"
        ) from error
    if len(body) > MAX_ANSWER or not whole:
        raise PeerError(f"{peer.name} sent no whole answer", where=str(peer), next_step="try again")
    return Answer(response.status, body, response.headers)


class _Received:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


_EARLY = "not yet valid"
_ALL_IS_WELL = ("depth=", "verify return:1")
_CUT = "it cut the connection, as it does where this device's certificate was revoked"
_WAS_REVOKED = "on the controller: hedgerow ca log; for a board that was found again, hedgerow ca readmit"
# What s_client says, in the words of whoever has to act on it; the first that fits.
_SAYINGS = (
    ("connect:errno", "it cannot be reached", "look at the network and at the gateway: ping, systemctl status nginx"),
    ("Connection refused", "nobody listens there", "on the gateway: systemctl status hedgerow-renewal"),
    (_EARLY, "its certificate is not valid yet by this device's time", "timedatectl; wait for the time sync"),
    ("certificate has expired", "a certificate has expired by this device's time", "timedatectl; then renew"),
    ("hostname mismatch", "it shows a certificate of another name", "correct identity.renewal_name in device.yml"),
    ("unable to get", "it shows a certificate of no CA that this device trusts", "compare ca.crt: hedgerow ca show"),
    ("self-signed", "it shows a certificate of no CA that this device trusts", "compare ca.crt: hedgerow ca show"),
    ("alert certificate expired", "it refuses this device's certificate: expired", "renew it from the controller"),
    ("alert certificate revoked", "it refuses this device's certificate: revoked", "hedgerow ca log"),
    ("alert", "it refuses this device's certificate", "hedgerow-device identity show; the gateway's log says why"),
    ("Could not read", "the key cannot be used", "hedgerow-device identity show"),
    # In TLS 1.3 a client has shaken hands before it can be refused; a server that is told later can but hang up.
    ("unexpected eof", _CUT, _WAS_REVOKED),
    ("read:errno", _CUT, _WAS_REVOKED),
    ("write:errno", _CUT, _WAS_REVOKED),
)


def _no_answer(peer: Peer, said: str) -> PeerError:
    for text, meaning, next_step in _SAYINGS:
        if text in said:
            fault = PeerError(f"no answer from {peer.name}: {meaning}", where=str(peer), next_step=next_step)
            fault.early = text == _EARLY
            return fault
    lines = [line for line in said.splitlines() if line.strip() and not line.startswith(_ALL_IS_WELL)]
    if not lines:
        return PeerError(f"no answer from {peer.name}: {_CUT}", where=str(peer), next_step=_WAS_REVOKED)
    return PeerError(f"no answer from {peer.name}: {lines[-1]}", where=str(peer), next_step="try again")


def parse_address(text: str, default_port: int) -> tuple[str, int]:
    """``host`` and port of ``https://host[:port]``.

    Raises:
        EnrolError: no such address.
    """
    rest = text.removeprefix("https://").rstrip("/")
    host, colon, port = rest.rpartition(":") if not rest.endswith("]") else (rest, "", "")
    host, port = (host, port) if colon else (rest, str(default_port))
    host = host.strip("[]")
    if not text.startswith("https://") or not host or not port.isdigit() or "/" in rest:
        raise EnrolError(
            f"{text!r} is no address",
            where="identity.renewal_url in device.yml",
            next_step="write it like https://10.77.0.10:8445",
        )
    return host, int(port)
