"""Between the controller and the gateway that holds a site's issuing CA: its request comes, its certificate goes.

The key is made on the gateway and stays there. With every visit its logs and its list come back, to the folder
that the CA has here (``authority.issuing``), where every command reads them. Rules:

- A log is only ever added to here. One that does not begin with what is here already, or whose chain does not hold,
  is refused, and nothing of it is taken.
- A list is taken if that CA signed it and its number does not go back.
- What the root signed for this key is handed out; nothing is signed here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography import x509

from hedgerow import atomic
from hedgerow.chainlog import ChainLog
from hedgerow.device import site_ca
from hedgerow.errors import RefusedError
from hedgerow.gateway.renewal.history import FILE as RENEWALS
from hedgerow.gateway.renewal.history import Line
from hedgerow.identity import certificates, csr, issued
from hedgerow.identity.authority import build, crl, generations, issuing
from hedgerow.identity.authority.admission import Admission, locked
from hedgerow.identity.authority.leaf import read_first
from hedgerow.identity.authority.lists import LIST

REQUESTS: Final = "requests"
"""Below the fleet's ``ca``: the requests of gateways, ``<site>.csr``, for who has the root's key to sign."""

Call = Callable[..., Any]
"""Runs a function of ``hedgerow.device.site_ca`` on the gateway."""


@dataclass(frozen=True)
class Exchange:
    """``certificate`` (PEM) is what the root signed for the gateway's key; None: ``next_step`` says what to do.

    ``request`` is where the request lies; ``brought`` names what came from the gateway this time.
    """

    certificate: str | None
    request: Path
    next_step: str | None = None
    brought: tuple[str, ...] = ()


def exchange(call: Call, fleet_dir: Path, site: str, *, directory: str, state: str, check: bool = False) -> Exchange:
    """Visit the gateway of ``site``. With ``check`` nothing is written here.

    Raises:
        RefusedError: what the gateway has cannot be taken (see the rules), or its key was revoked.
        DeviceError: the gateway refuses, because a log of its own was changed.
        UsageError: the fleet has no CA.
    """
    folder = fleet_dir / "ca"
    request = folder / REQUESTS / f"{site}.csr"
    number = generations.active(folder).number
    generations.certificate(folder, number)
    home = _home(folder, number, site)

    def visit() -> dict[str, Any]:
        known = {name: _known(home, name) for name in site_ca.LOGS}
        answer: dict[str, Any] = call("read", directory=directory, state=state, known=known)
        return answer

    found = visit()
    if found["request"] is None:
        return Exchange(None, request, "its key comes with this run")
    key = build.key_id(csr.public_key(csr.parse_csr(found["request"], where=f"the gateway of {site}: {directory}")))
    Admission(folder).require_admitted("authority", key)
    if not check:
        _keep_request(request, found["request"])
    certificate = None if home is None else read_first(home / issuing.CERTIFICATE)
    if home is None or certificate is None or build.authority_key(certificate) != key:
        sign = f"hedgerow ca issuing sign {request} --site {site}"
        return Exchange(None, request, f"have the root sign it: {sign}; then run this again")
    brought: list[str] = []
    if not check:
        with locked(folder):
            brought += [name for name in site_ca.LOGS if _bring(visit, home, name, found)]
            brought += _bring_list(home, certificate, found["list"])
    return Exchange(certificates.pem(certificate), request, None, tuple(brought))


def _home(folder: Path, number: int, site: str) -> Path | None:
    """The folder of the site's CA in use, in a generation."""
    link = generations.home(folder, number) / issuing.FOLDER / site
    return link.resolve() if link.exists() else None


def _known(home: Path | None, name: str) -> dict[str, Any]:
    data = b""
    if home is not None and (home / name).exists():
        data = (home / name).read_bytes()
    return {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _keep_request(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists() or path.read_text(encoding="ascii") != text:
        atomic.write_text(path, text, mode=0o600)


def _bring(visit: Callable[[], dict[str, Any]], home: Path, name: str, found: dict[str, Any]) -> bool:
    """Add what is new of a log; whether there was anything."""
    part, brought = found["logs"][name], False
    while part is not None and part["text"]:
        _add(home / name, part)
        brought = True
        if not part["more"]:
            break
        part = visit()["logs"][name]
    return brought


def _add(path: Path, part: dict[str, Any]) -> None:
    """The log with ``part`` at its end, looked at as a whole before it takes the place of the one here."""
    staged = path.with_name(f".{path.name}.new")
    head = staged.with_name(f"{staged.name}{site_ca.HEAD}")
    before = path.read_bytes() if path.exists() else b""
    try:
        atomic.write_bytes(staged, before + part["text"].encode(), mode=0o600)
        if part["head"] is not None and not part["more"]:
            atomic.write_text(head, part["head"], mode=0o600)
        _require_whole(staged, path.name, anchored=head.exists())
        staged.rename(path)
        if head.exists():
            head.rename(path.with_name(f"{path.name}{site_ca.HEAD}"))
    finally:
        staged.unlink(missing_ok=True)
        head.unlink(missing_ok=True)


def _require_whole(path: Path, name: str, *, anchored: bool) -> None:
    chain: ChainLog[Any] = ChainLog(path, Line, name="log of renewals") if name == RENEWALS else issued.chain(path)
    verdict = chain.verify()
    # A part of a long log comes before its anchor.
    problems = [each for each in verdict.problems if anchored or each.line]
    if problems:
        raise RefusedError(
            f"the gateway's log {name} does not hold: {problems[0].what}",
            where=f"line {problems[0].line}",
            next_step="keep it for inquiry; what is here of it stays as it was",
        )


def _bring_list(home: Path, certificate: x509.Certificate, text: str | None) -> list[str]:
    if text is None:
        return []
    try:
        fresh = x509.load_pem_x509_crl(text.encode())
    except ValueError as error:
        raise RefusedError(
            f"the gateway's revocation list cannot be read: {error}", where=str(home / LIST), next_step=_LOOK
        ) from error
    if not crl.is_of(fresh, certificate):
        raise RefusedError(
            "the gateway's revocation list is not signed by its CA", where=str(home / LIST), next_step=_LOOK
        )
    present = x509.load_pem_x509_crl((home / LIST).read_bytes()) if (home / LIST).exists() else None
    if present is not None and crl.number(fresh) <= crl.number(present):
        return []
    atomic.write_text(home / LIST, text)
    return [LIST]


_LOOK = "journalctl -u hedgerow-renewal on the gateway"
