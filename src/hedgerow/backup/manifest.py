"""``MANIFEST.json``, the first file of a backup: what is in it, by hash; what was left out; what is needed apart."""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from hedgerow.errors import HedgerowError

NAME: Final = "MANIFEST.json"
FLEET: Final = "fleet/"
"""Below it lies what was in ``var/fleets/<fleet>``."""
INVENTORY: Final = "inventory/"
MAX_BYTES: Final = 64 << 20


class ManifestError(HedgerowError):
    """A backup whose manifest cannot be read, or whose files are not what it says."""


class Item(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file or symbolic link. ``path`` begins with ``fleet/`` or ``inventory/``; ``link`` is where a link points."""

    path: str
    size: int = 0
    sha256: str = ""
    mode: int = 0o600
    link: str | None = None


class LeftOut(msgspec.Struct, frozen=True):
    """A file of a bundle, which devices and gateways have and which can be published again."""

    path: str
    size: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """``at`` is RFC 3339 in UTC: nothing later is in it. ``audit_head`` is the audit log's end, ``NUMBER:SHA256``.

    ``apart`` says what a restored controller needs that is not in here: passphrases, tokens.
    """

    schema: Literal[1] = 1
    fleet: str
    at: str
    by: str
    version: str
    audit_head: str
    items: list[Item]
    left_out: list[LeftOut] = []
    apart: list[str] = []


def encode(manifest: Manifest) -> bytes:
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(data: bytes) -> Manifest:
    """Read a manifest; its paths are what they should be.

    Raises:
        ManifestError: it is none, or a path of it leads elsewhere.
    """
    try:
        found = msgspec.json.decode(data, type=Manifest)
    except msgspec.DecodeError as error:
        raise ManifestError(
            f"the backup's manifest cannot be read: {error}",
            where=NAME,
            next_step="read it with the version of Hedgerow that made it; tar shows what is in it",
        ) from error
    for item in found.items:
        _require_inside(item)
    if not found.fleet or "/" in found.fleet or found.fleet.startswith("."):
        raise ManifestError("the backup's manifest names a fleet that is a path", where=found.fleet[:80])
    return found


def leads_out(path: str, link: str) -> bool:
    """Whether a link at ``path`` (``fleet/…`` or ``inventory/…``) climbs out of that top folder on its way."""
    depth = path.count("/") - 1
    out = link.startswith("/")
    for part in link.split("/"):
        depth += -1 if part == ".." else 0 if part in {"", "."} else 1
        out = out or depth < 0
    return out


def _require_inside(item: Item) -> None:
    """Nothing is ever written outside the two folders, whoever made the file."""
    parts = item.path.split("/")
    below = item.path.startswith((FLEET, INVENTORY)) and len(parts) > 1
    links_out = item.link is not None and leads_out(item.path, item.link)
    if not below or {"", ".", ".."} & set(parts) or "\0" in item.path or links_out:
        raise ManifestError("a path in the backup leads out of its folder", where=item.path[:200])
