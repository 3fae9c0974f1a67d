"""The fleet's SSH authority: signs for operators who prove who they are, and for hosts of the inventory.

Invariants:

- No operator's certificate without a proof (``proof``), a challenge that counts (``challenges``) and a line of the
  inventory that allows it (``policy``). It never outlives the X.509 certificate that it was asked for with.
- Names in a certificate are computed from the inventory. A request brings a public key and says what it wants.
- A certificate is in the log, on disk, before anyone gets it.
- A key has one holder: a key that was certified for somebody else, or revoked, is refused.
"""

from __future__ import annotations

import datetime as dt
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import RefusedError
from hedgerow.identity import certificates
from hedgerow.identity.profiles import check_label
from hedgerow.identity.ssh import (
    addresses,
    cakeys,
    challenges,
    events,
    generations,
    keygen,
    policy,
    proof,
    publickey,
    roles,
    store,
)
from hedgerow.identity.ssh.generations import Authority, CaKey
from hedgerow.identity.ssh.roles import SshRole
from hedgerow.inventory import Host, Inventory

HOST_DAYS = 60
MAXIMUM_HOST_DAYS = 90


@dataclass(frozen=True)
class Issued:
    """What an operator gets. ``jump`` is the certificate for the gateways on the way, None if there are none."""

    name: str
    grant: policy.Grant
    certificate: str
    jump: str | None
    serial: int
    valid_before: dt.datetime


class SshAuthority:
    """An opened authority; make one with ``open`` or ``init``. ``by`` says who typed the command, where."""

    def __init__(self, fleet_dir: Path, state: Authority, *, by: str) -> None:
        self.fleet_dir = fleet_dir
        self.folder = store.folder_of(fleet_dir)
        self.state = state
        self.log = events.log(self.folder)
        self.by = by

    @classmethod
    def init(
        cls,
        fleet_dir: Path,
        fleet: str,
        *,
        by: str,
        now: dt.datetime,
        tokens: Mapping[events.CaKind, tuple[str, str]] | None = None,
    ) -> tuple[SshAuthority, bool]:
        """Make user CA and host CA unless they are there; return the authority and whether it was made.

        ``tokens`` maps a kind to (PKCS#11 library, the key's label) for keys that a token holds already.
        """
        check_label("fleet", fleet)
        folder = store.folder_of(fleet_dir)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        with store.locked(folder):
            if (folder / store.STATE).exists():
                return cls.open(fleet_dir, by=by), False
            if (folder / events.FILE).exists():
                raise RefusedError(
                    "this SSH authority has signed, but its state is gone",
                    where=str(folder / store.STATE),
                    next_step=f"restore {folder} from your backup; a new authority would lock every operator out",
                )
            kinds: tuple[events.CaKind, ...] = ("user", "host")
            keys = tuple(
                cakeys.new_key(folder, (), kind, "current", fleet=fleet, token=(tokens or {}).get(kind), now=now)
                for kind in kinds
            )
            made = cls(fleet_dir, Authority(fleet=fleet, keys=keys), by=by)
            # The state last: keys alone are what an interrupted init leaves, and nothing trusts them yet.
            store.write(folder, made.state)
            made.log.append_all([made.rotated(key, "init", now) for key in keys])
            made.write_trust()
        return made, True

    @classmethod
    def open(cls, fleet_dir: Path, *, by: str) -> SshAuthority:
        """Read the authority of a fleet.

        Raises:
            UsageError: there is none.
        """
        return cls(fleet_dir, store.read(store.folder_of(fleet_dir)), by=by)

    @property
    def fleet(self) -> str:
        return self.state.fleet

    @property
    def trust(self) -> Path:
        """The folder of what hosts get."""
        return self.folder / store.TRUST

    def trusted(self, kind: events.CaKind) -> list[CaKey]:
        """The keys whose certificates count."""
        return generations.trusted(self.state.keys, kind)

    def challenge(self, *, now: dt.datetime) -> str:
        return challenges.make(self.folder / store.CHALLENGES, now=now)

    def sign_operator(self, request: proof.Request, inventory: Inventory, *, now: dt.datetime) -> Issued:
        """Sign what an operator asks for.

        Raises:
            RefusedError: the proof does not hold, the challenge does not count, the inventory does not allow it, or
                the key is somebody else's.
            UsageError: the request names what there is not.
        """
        operator, asked = proof.verify(request, fleet=self.fleet, ca_folder=self.fleet_dir / "ca", now=now)
        challenges.use(self.folder / store.CHALLENGES, asked.challenge, now=now)
        grant = policy.grant(operator.name, asked, inventory)
        public = publickey.parse(asked.public_key, where="the request's public key")
        ends = min(now + grant.life, operator.not_after)
        if ends - now < roles.MINIMUM:
            raise RefusedError(
                f"the certificate that {operator.name} asks with ends within a minute",
                where="rule: an SSH certificate does not outlive the certificate that it was asked for with",
                next_step=f"hedgerow ca issue --profile operator --name {operator.name}",
            )
        gateways = [host for host in inventory.gateways if host.site in grant.sites]
        # A host sees the gateway as the source of a connection that came through it.
        through = [*grant.source, *addresses.networks(host.address for host in gateways)] if grant.source else []
        wanted = [(grant.role, grant.principals, through)]
        if gateways:
            wanted.append((SshRole.JUMP, grant.jump, list(grant.source)))
        with self._signing() as key:
            self._require_own(public, operator.name, "user", now)
            signed, logged = [], []
            for role, principals, source in wanted:
                certificate = keygen.Certificate(
                    public=public,
                    host=False,
                    key_id=f"{operator.name}/{role.value}/{self.fleet}",
                    principals=principals,
                    serial=_serial(),
                    valid_after=int((now - certificates.BACKDATE).timestamp()),
                    valid_before=int(ends.timestamp()),
                    options=roles.options(role, source),
                )
                signed.append((self._sign(key, certificate), certificate.serial))
                logged.append(
                    self._line(
                        key,
                        certificate,
                        now=now,
                        who=operator.name,
                        reason=asked.reason,
                        role=role.value,
                        source=source,
                        proven=operator.sha256,
                    )
                )
            self.log.append_all(logged)
        return Issued(operator.name, grant, signed[0][0], signed[1][0] if len(signed) > 1 else None, signed[0][1], ends)

    def sign_host(
        self, host: Host, public_key: str, *, now: dt.datetime, days: int | None = None, reason: str = "requested"
    ) -> str:
        """The certificate of a host of the inventory; its names are computed here.

        Raises:
            RefusedError: the key is another host's or revoked, or the life is too long.
        """
        days = HOST_DAYS if days is None else days
        if not 1 <= days <= MAXIMUM_HOST_DAYS:
            raise RefusedError(
                f"a host certificate lives 1 to {MAXIMUM_HOST_DAYS} days, not {days}",
                where=host.name,
                next_step=f"leave days out for the default ({HOST_DAYS})",
            )
        public = publickey.parse(public_key, where=f"host key of {host.name}")
        with self._signing("host") as key:
            self._require_own(public, host.name, "host", now)
            certificate = keygen.Certificate(
                public=public,
                host=True,
                key_id=f"host/{host.name}.{host.site}.{self.fleet}",
                principals=host_names(host, self.fleet),
                serial=_serial(),
                valid_after=int((now - certificates.BACKDATE).timestamp()),
                valid_before=int((now + dt.timedelta(days=days)).timestamp()),
            )
            signed = self._sign(key, certificate)
            self.log.append(self._line(key, certificate, now=now, who=host.name, reason=reason))
        return signed

    def write_trust(self) -> None:
        store.write_trust(self.folder, self.state, self.log)

    def rotated(self, key: CaKey, step: events.Step, now: dt.datetime) -> events.Rotated:
        """The log's line of a key that changed its state."""
        return events.Rotated(
            time=events.text(now),
            by=self.by,
            kind=key.kind,
            step=step,
            key=key.name,
            fingerprint=publickey.fingerprint(key.public),
        )

    @contextmanager
    def _signing(self, kind: events.CaKind = "user") -> Iterator[CaKey]:
        """The key that signs, as the state says now: another process may have rotated since it was opened."""
        with store.locked(self.folder, shared=True):
            self.state = store.read(self.folder)
            yield generations.current(self.state.keys, kind)

    def _sign(self, key: CaKey, certificate: keygen.Certificate) -> str:
        secret = keygen.passphrase_file() if key.module is None else keygen.secret_file(keygen.PIN_FILE)
        return keygen.sign(store.signing_key(self.folder, key), certificate, secret=secret)

    def _require_own(self, public: str, who: str, kind: events.CaKind, now: dt.datetime) -> None:
        """Raise RefusedError if the key was revoked, is the one in the safe, or is certified for somebody else."""
        written = store.lines(self.log)
        shown = publickey.fingerprint(public)
        gone = store.revoked_serials(written)
        why = "it was revoked" if shown in store.revoked_keys(written) else None
        if f"{public}\n" == store.break_glass(self.folder):
            why = "it is the one in the safe"
        for line in written:
            if (
                isinstance(line, events.Signed)
                and (line.key, line.kind) == (shown, kind)
                and line.who != who
                and events.moment(line.valid_before) > now
                and line.serial not in gone.get(line.ca, ())
            ):
                why = f"it was certified for {line.who} on {line.time[:10]}"
        if why is not None:
            raise RefusedError(
                f"{who} may not have a certificate for the key {shown}: {why}",
                where="rule: a key has one holder, and a revoked one is never certified again",
                next_step="make a new key; on a host whose image brought its keys: rm /etc/ssh/ssh_host_*; "
                "dpkg-reconfigure openssh-server, and set ssh_host_key_sha256 anew",
            )

    def _line(
        self,
        key: CaKey,
        certificate: keygen.Certificate,
        *,
        now: dt.datetime,
        who: str,
        reason: str,
        role: str = "",
        source: Sequence[str] = (),
        proven: str = "",
    ) -> events.Signed:
        return events.Signed(
            time=events.text(now),
            by=self.by,
            kind=key.kind,
            ca=key.name,
            serial=str(certificate.serial),
            key_id=certificate.key_id,
            who=who,
            role=role,
            principals=list(certificate.principals),
            valid_after=events.text(dt.datetime.fromtimestamp(certificate.valid_after, dt.UTC)),
            valid_before=events.text(dt.datetime.fromtimestamp(certificate.valid_before, dt.UTC)),
            key=publickey.fingerprint(certificate.public),
            source=list(source),
            proof=proven,
            reason=reason,
        )


def host_names(host: Host, fleet: str) -> tuple[str, ...]:
    """What a host is called by those who log in: its name, its name in the fleet, its address."""
    return tuple(dict.fromkeys([host.name, f"{host.name}.{host.site}.{fleet}", host.address]))


def _serial() -> int:
    """63 random bits: no counter that a restored backup would set back, and nothing to guess."""
    return secrets.randbits(63) | 1
