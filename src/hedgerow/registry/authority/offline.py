"""Signing away from the network: a request is one file that travels to the key and back.

The request holds the metadata to be signed and what is published now. Whoever signs is shown the difference, computed
from the bytes that will be signed; it is a difference only where *their own* earlier signature vouches for what is
published, else everything is shown as new: a forged "published" part could hide what is added.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta, Struct
from securesystemslib.signer import Key
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets

from hedgerow.errors import PublisherError, RefusedError, UsageError
from hedgerow.registry.authority import describe, keys, roles
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.roles import ROOT
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settling import Waiting, waiting

TYPE: Final = "hedgerow-signing-request"
_MAX_BYTES = 64 << 20


class Place(Struct, frozen=True, forbid_unknown_fields=True):
    """A key that may sign: its name, whose it is, by which URI its owner reaches it, and its public part."""

    name: str
    owner: str
    uri: str
    keyid: str
    public: dict[str, Any]


class Request(Struct, frozen=True, forbid_unknown_fields=True):
    """A signing request. ``proposed`` and ``published`` are metadata as JSON text; None where nothing is published."""

    type: Literal["hedgerow-signing-request"]
    schema: Annotated[int, Meta(ge=1, le=1)]
    fleet: str
    stage: str
    role: str
    proposed: str
    published: str | None
    keys: tuple[Place, ...]


@dataclass(frozen=True)
class Shown:
    """What a person is told before signing. ``fingerprint``: SHA-256 of the signed bytes, to be compared by voice."""

    lines: tuple[str, ...]
    fingerprint: str


def request(session: Session, role: str) -> Request:
    """The request for a candidate's signatures.

    Raises:
        UsageError: nothing waits in this role.
    """
    draft = session.look()
    metadata = draft.candidate(role)
    if metadata is None:
        raise UsageError(
            f"nothing waits to be signed in {role}", next_step="hedgerow registry ceremony shows what does"
        )
    asked = {keyid: key for result in draft.required(role) for keyid, key in (result.signed | result.unsigned).items()}
    named = {entry.keyid: (name, entry.uri) for name, entry in session.settings.keys.items()}
    places = []
    for keyid, key in sorted(asked.items()):
        name, uri = named.get(keyid, (keyid[:12], ""))
        public = {"keytype": key.keytype, "scheme": key.scheme, "keyval": dict(key.keyval)}
        places.append(Place(name, keys.owner(key), uri, keyid, public))
    published: Metadata[Any] | None = draft.published_root() if role == ROOT else draft.published_targets(role)
    return Request(
        TYPE,
        1,
        session.settings.fleet,
        session.settings.stage,
        role,
        metadata.to_bytes().decode(),
        None if published is None else published.to_bytes().decode(),
        tuple(places),
    )


def show(asked: Request, name: str) -> Shown:
    """What the key ``name`` would sign.

    Raises:
        UsageError: the request does not ask for this key, or is damaged.
    """
    key = _key(_place(asked, name))
    proposed = _metadata(asked.role, asked.proposed)
    before: Root | Targets | None = None
    note = "compared with nothing: this is everything that the new version says"
    if asked.published is not None:
        published = _metadata(asked.role, asked.published)
        if published.signed.version + 1 == proposed.signed.version and _signed(published, key):
            before = published.signed
            note = "compared with the version before, which this key has signed"
    head = f"fleet {asked.fleet}, stage {asked.stage}; {note}"
    lines = (head, *describe.candidate(asked.role, before, proposed.signed))
    return Shown(lines, hashlib.sha256(proposed.signed_bytes).hexdigest())


def sign(asked: Request, name: str, *, passphrases: Passphrases, uri: str | None, module: str | None) -> Request:
    """The request with one signature more. ``uri`` says where the key is on this machine, if not as the request says.

    Raises:
        UsageError: the request does not ask for this key, or it is not here.
    """
    place = _place(asked, name)
    key = _key(place)
    proposed = _metadata(asked.role, asked.proposed)
    if _signed(proposed, key):
        return asked
    signer = keys.open_uri(
        uri or place.uri, key, lambda: passphrases.of(name), directory=Path.cwd(), pkcs11_module=module
    )
    if signer is None:
        raise UsageError(
            f"the private part of {name} is not here", where=uri or place.uri, next_step="say where it is: --uri URI"
        )
    keys.add_signature(proposed, signer, name)
    return msgspec.structs.replace(asked, proposed=proposed.to_bytes().decode())


def accept(session: Session, signed: Request) -> tuple[Waiting, ...]:
    """Take the signatures of a request that came back; what the role still lacks.

    Raises:
        RefusedError: it is another stage's, or the candidate has changed since it was asked for.
        UsageError: it holds no signature that counts.
    """
    own = (session.settings.fleet, session.settings.stage)
    if (signed.fleet, signed.stage) != own:
        raise RefusedError(f"the request is of {signed.fleet}, {signed.stage} (rule: own-stage)", where="/".join(own))
    with session.work() as work:
        candidate = work.draft.candidate(signed.role)
        proposed = _metadata(signed.role, signed.proposed)
        published = work.draft.published_root() if signed.role == ROOT else work.draft.published_targets(signed.role)
        if published is not None and published.signed_bytes == proposed.signed_bytes:
            return ()
        if candidate is None or candidate.signed_bytes != proposed.signed_bytes:
            raise RefusedError(
                f"{signed.role} has changed since the request was made (rule: same-bytes)",
                next_step=f"ask again: hedgerow registry request {signed.role}",
            )
        wanted = {keyid: key for result in work.draft.required(signed.role) for keyid, key in result.unsigned.items()}
        came = [keyid for keyid, key in wanted.items() if _signed(proposed, key)]
        if not came and not any(keyid in candidate.signatures for keyid in proposed.signatures):
            raise UsageError("the request has no signature that counts", next_step="hedgerow registry sign")
        for keyid in came:
            candidate.signatures[keyid] = proposed.signatures[keyid]
            work.draft.dirty.add(signed.role)
        return waiting(work.draft, session.keyring(), [signed.role])


def encode(asked: Request) -> bytes:
    """A request's file."""
    return msgspec.json.format(msgspec.json.encode(asked), indent=1) + b"\n"


def read(path: Path) -> Request:
    """Read a request's file.

    Raises:
        UsageError: it is none.
    """
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(_MAX_BYTES), type=Request)
    except (OSError, msgspec.DecodeError) as error:
        raise UsageError(f"this is no signing request: {error}", where=str(path)) from error


def _place(asked: Request, name: str) -> Place:
    for place in asked.keys:
        if name in {place.name, place.keyid}:
            return place
    known = ", ".join(place.name for place in asked.keys)
    raise UsageError(f"the request does not ask for {name!r}", where=f"it asks for: {known}")


def _key(place: Place) -> Key:
    return Key.from_dict(place.keyid, dict(place.public))


def _metadata(role: str, text: str) -> Metadata[Any]:
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(text.encode())
    except RepositoryError as error:
        raise PublisherError(f"the request is damaged: {error}", where=role) from error
    if isinstance(metadata.signed, Root) != (role == ROOT) or not isinstance(metadata.signed, Root | Targets):
        raise PublisherError(f"the request says it is for {role}, and holds {metadata.signed.type}", where=role)
    return metadata


def _signed(metadata: Metadata[Any], key: Key) -> bool:
    signature = metadata.signatures.get(key.keyid)
    if signature is None:
        return False
    return roles.holds(key, signature, metadata.signed_bytes)
