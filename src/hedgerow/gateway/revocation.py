"""The lists of revoked certificates on a gateway: what the controller placed and what its issuing CA signed, as one.

Three write lists here: the controller (``placed.pem``), the renewal service (its own CA's ``ca.crl``) and
``hedgerow-renew``, which fetches from a gateway as any device does. Every server reads one file, ``crl.pem``. Rules:

- Of each CA the list with the highest number counts, whoever brought it; so nobody takes a step back, also where a
  converge brings what the controller had last week.
- Only lists that a CA of this gateway's own ``ca.crt`` signed are taken (``hedgerow.device.identity.revocation``).
- nginx goes by a map made of the same file, and reads it when it is told; it is told when the map has changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hedgerow import atomic
from hedgerow.device.identity import revocation
from hedgerow.errors import UsageError
from hedgerow.gateway.nginx import revocation_map
from hedgerow.identity.authority import crl, lists

PLACED: Final = "placed.pem"
MAP: Final = "nginx.map"


@dataclass(frozen=True)
class Places:
    """Where things are on a gateway. ``bundle`` is what servers read; the controller's and nginx's lie beside it."""

    bundle: Path = Path("/var/lib/hedgerow/revocation/crl.pem")
    own: Path = Path("/var/lib/hedgerow/renewal") / lists.LIST
    issuing: Path = Path("/var/lib/hedgerow/issuing/ca.crt")
    anchors: Path = Path("/var/lib/hedgerow/identity/ca.crt")

    @property
    def placed(self) -> Path:
        return self.bundle.with_name(PLACED)

    @property
    def nginx_map(self) -> Path:
        return self.bundle.with_name(MAP)


@dataclass(frozen=True)
class Gathered:
    """``left_out``: issuers of lists that nobody here trusts. ``map_changed``: nginx has to read its map again."""

    changed: bool
    map_changed: bool
    numbers: dict[str, int]
    left_out: tuple[str, ...]


def gather(places: Places) -> Gathered:
    """Put the lists together, then the map.

    Raises:
        UsageError: a file cannot be read, or holds no lists.
        PublisherError: a CA of ours did not sign what says so; everything stays as it was.
    """
    texts = [_text(places.placed), *_own(places)]
    try:
        # What is in place counts as well, unless it is damaged: then what was brought replaces it.
        present = crl.merge(_text(places.bundle))
    except ValueError:
        present = ""
    try:
        data = crl.merge(present, *texts).encode()
    except ValueError as error:
        raise UsageError(
            f"a list of revoked certificates is damaged: {error}",
            where=f"{places.placed} or {places.own}",
            next_step="on the controller: hedgerow ca crl; then: ansible-playbook playbooks/site.yml "
            "--tags renewal_service",
        ) from error
    done = revocation.refresh(places.bundle, data, places.anchors, _text(places.issuing).encode())
    text = revocation_map(places.bundle.read_bytes() if places.bundle.exists() else b"")
    map_changed = _text(places.nginx_map) != text
    if map_changed:
        atomic.write_text(places.nginx_map, text)
    return Gathered(done.changed, map_changed, done.numbers, done.left_out)


def _own(places: Places) -> list[str]:
    """The list of the gateway's issuing CA, its certificate first as everywhere in bundles."""
    own = _text(places.own)
    return [_text(places.issuing) + own] if own else []


def _text(path: Path) -> str:
    """What is in a file; empty where there is none."""
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"a list of revoked certificates cannot be read: {error}", where=str(path), next_step="run it with sudo"
        ) from error
