"""Renewals without a transport: who was verified and what is asked comes in, a certificate or a refusal goes out."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from cryptography import x509

from hedgerow.errors import HedgerowError, MachineError, RefusedError
from hedgerow.gateway.renewal import rules
from hedgerow.gateway.renewal.config import Board, RenewalConfig, profile_of
from hedgerow.gateway.renewal.history import Clone, History, Renewed
from hedgerow.gateway.renewal.rules import Cloned, Code, Refusal, Shown
from hedgerow.identity import anchor, certificates, csr
from hedgerow.identity.profiles import DEVICE_PROFILES, Peer

if TYPE_CHECKING:
    from hedgerow.identity.issuer import Issuer

log = logging.getLogger("hedgerow.renewal")
_HOUR: Final = timedelta(hours=1)


@dataclass(frozen=True)
class Renewal:
    """A new certificate with its chain (PEM, its own first), the roots to trust, its end and its serial number."""

    certificate: str
    ca: str
    not_after: datetime
    serial_number: str


class Renewals:
    """Renews for the boards of ``config``; safe among threads: one request at a time is decided, logged and signed."""

    def __init__(self, config: RenewalConfig, issuer: Issuer, history: History) -> None:
        self._config = config
        self._issuer = issuer
        self._history = history
        self._asked: defaultdict[str, deque[datetime]] = defaultdict(deque)
        self._lock = threading.Lock()

    @property
    def history(self) -> History:
        return self._history

    def renew(
        self,
        peer: Peer | None,
        chain: Sequence[x509.Certificate],
        csr_pem: str,
        *,
        vouched: str | None = None,
        now: datetime | None = None,
    ) -> Renewal:
        """Give the holder of ``chain`` (verified but for times) its next certificate.

        ``vouched``: the signature of the board's own key over the request, where it has one.

        Raises:
            Refusal: with the reason.
        """
        now = now or datetime.now(UTC)
        board = self._board(peer)
        with self._lock:
            self._count(board.serial, now)
            shown = _shown(chain[0])
            grace = rules.require_time(shown, now=now, grace=timedelta(days=self._config.grace_days))
            _require_authorities(chain[1:], now)
            self._require_admitted(board, shown)
            key = self._key(board, csr_pem, vouched)
            self._require_one_board(board, shown, key, grace=grace, now=now)
            return self._issue(board, shown, key, csr_pem, grace=grace, now=now)

    def _board(self, peer: Peer | None) -> Board:
        config = self._config
        if (
            peer is None
            or peer.fleet != config.fleet
            or peer.profile not in DEVICE_PROFILES
            or peer.site != config.site
        ):
            raise Refusal(
                Code.WRONG_PROFILE,
                f"only machines of site {config.site} renew here",
                "people and programs: hedgerow ca issue",
            )
        board = config.board(peer.name)
        if board is None:
            raise Refusal(
                Code.NOT_LISTED,
                f"serial {peer.name} is not on this gateway's list",
                "add it to the inventory and converge the gateway",
            )
        if profile_of(board) is not peer.profile:
            raise Refusal(
                Code.WRONG_PROFILE,
                f"{board.host} is a {board.profile}, its certificate is a {peer.profile.value}'s",
                "ansible-playbook playbooks/site.yml --tags device_identity",
            )
        return board

    def _count(self, serial: str, now: datetime) -> None:
        """Bound what one board may ask, allowed or not: every request costs signatures and a write."""
        asked = self._asked[serial]
        while asked and asked[0] <= now - _HOUR:
            asked.popleft()
        if len(asked) >= self._config.per_hour:
            wait = int((asked[0] + _HOUR - now).total_seconds()) + 1
            raise Refusal(
                Code.TOO_OFTEN,
                f"{serial} has asked {len(asked)} times within an hour",
                "wait; its timer tries again",
                retry_after_s=wait,
            )
        asked.append(now)

    def _require_admitted(self, board: Board, shown: Shown) -> None:
        try:
            self._issuer.require_admitted("board", board.serial)
        except RefusedError as error:
            raise Refusal(Code.REVOKED, error.what, error.next_step or "") from error
        if shown.serial_number in self._issuer.revoked_certificates():
            raise Refusal(Code.REVOKED, "this certificate was revoked", rules.NEW_KEY)

    def _key(self, board: Board, csr_pem: str, vouched: str | None) -> str:
        """SHA-256 of the key that is asked for."""
        try:
            request = csr.parse_csr(csr_pem, where="request")
            key = csr.public_key(request)
        except HedgerowError as error:
            raise Refusal(Code.BAD_REQUEST, error.what, error.next_step or "") from error
        asked = csr.request_serial(request)
        if asked != board.serial:
            raise Refusal(
                Code.BAD_REQUEST,
                f"the request is for serial {asked!r}, the certificate that came with it is {board.serial}'s",
                "hedgerow-device identity renew",
            )
        if board.anchor is not None and (vouched is None or not anchor.holds(board.anchor, csr_pem, vouched)):
            raise Refusal(
                Code.ANCHOR,
                "the board's own key does not vouch for this request",
                "is it the board that was enrolled? then renew from the controller: playbooks/rotate_identity.yml",
            )
        return hashlib.sha256(certificates.public_der(key)).hexdigest()

    def _require_one_board(self, board: Board, shown: Shown, key: str, *, grace: bool, now: datetime) -> None:
        if board.serial in self._history.cloned:
            raise Cloned("what only the other could have, earlier")
        before = self._history.key_of(shown.serial_number)
        holder = self._history.other_holder(key, board.serial)
        try:
            rules.require_key(shown, key, grace=grace, before=before, holder=holder)
        except Cloned as clone:
            for serial in {board.serial, holder or board.serial}:
                named = self._config.board(serial)
                line = Clone(
                    time=_rfc3339(now),
                    serial=serial,
                    host="" if named is None else named.host,
                    certificate=shown.serial_number,
                    key_sha256=key,
                    what=clone.what,
                )
                self._append(line)
            log.error("cloned serial: %s (%s)", clone.what, board.host)  # noqa: TRY400 - the message is complete
            raise

    def _issue(self, board: Board, shown: Shown, key: str, csr_pem: str, *, grace: bool, now: datetime) -> Renewal:
        self._append(
            Renewed(
                time=_rfc3339(now),
                serial=board.serial,
                host=board.host,
                certificate=shown.serial_number,
                key_sha256=key,
                grace=grace,
            )
        )
        try:
            chain = self._issuer.sign_csr(
                csr_pem,
                profile_of(board),
                self._config.names(board),
                days=self._config.days,
                reason="renewed in its grace time" if grace else "renewed at the gateway",
                now=now.replace(microsecond=0),
            )
        except HedgerowError as error:
            raise _unavailable(error) from error
        leaf = x509.load_pem_x509_certificate(chain.encode())
        log.info("%s: renewed until %s%s", board.host, leaf.not_valid_after_utc, " in its grace time" if grace else "")
        return Renewal(chain, self._issuer.anchors, leaf.not_valid_after_utc, f"{leaf.serial_number:x}")

    def _append(self, line: Renewed | Clone) -> None:
        try:
            self._history.append(line)
        except HedgerowError as error:
            raise _unavailable(error) from error


def _require_authorities(chain: Sequence[x509.Certificate], now: datetime) -> None:
    """What OpenSSL does not look at here for the holder's sake still holds for those who signed it."""
    for each in chain:
        if not each.not_valid_before_utc <= now < each.not_valid_after_utc:
            raise Refusal(
                Code.EXPIRED,
                f"{each.subject.rfc4514_string()}, which signed the certificate, is not valid now",
                "replace the CA: hedgerow ca rotate, then converge",
            )


def _shown(leaf: x509.Certificate) -> Shown:
    return Shown(
        serial_number=f"{leaf.serial_number:x}",
        key_sha256=hashlib.sha256(certificates.certificate_public_der(leaf)).hexdigest(),
        not_before=leaf.not_valid_before_utc,
        not_after=leaf.not_valid_after_utc,
    )


def _unavailable(error: HedgerowError) -> Refusal:
    full = isinstance(error, MachineError)
    log.error("%s", error)
    return Refusal(
        Code.UNAVAILABLE,
        f"the gateway cannot renew now: {error.what}",
        error.next_step or "journalctl -u hedgerow-renewal on the gateway",
        retry_after_s=600 if full else 3600,
    )


def _rfc3339(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
