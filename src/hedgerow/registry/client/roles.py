"""Who must vouch for a release, and whether they do. No IO.

Rules
-----
* Two roles must vouch for the same content: one that builds and one that approves. A threshold over both sets of keys
  could not say "one of each", and a walk through delegations stops at the first role that knows the target. So the
  device asks each of the two by name (multi-role delegation as in TAP 3 of The Update Framework, as a client's rule).
* Only the top-level targets say who they are. A role that itself delegates names nobody.
* For each purpose the bundle's own role speaks where there is one, else its kind's. A bundle with its own role is not
  spoken for by its kind's, whatever that signs. Because roles are looked up by name, their order shadows nothing.
* A role speaks only for the paths that are delegated to it.
* No public key may stand in both roles, under whatever key id, nor twice in one: a threshold counts key ids.
"""

from __future__ import annotations

from dataclasses import dataclass

from securesystemslib.signer import Key
from tuf.api.metadata import DelegatedRole, Delegations, TargetFile

from hedgerow.registry import trust_names as names
from hedgerow.registry.client.errors import Rule
from hedgerow.registry.trust_names import Purpose

_HASH = "sha256"


class RuleBrokenError(Exception):
    """A rule of this module does not hold; the client says where and what to type next."""

    def __init__(self, rule: Rule, what: str) -> None:
        super().__init__(what)
        self.rule = rule
        self.what = what


@dataclass(frozen=True)
class Vouchers:
    """The names of the two roles that must vouch for a bundle."""

    build: str
    approve: str


def vouchers(delegations: Delegations | None, kind: str, name: str, path: str) -> Vouchers:
    """Who must vouch for ``path``, a target of this bundle.

    Raises:
        RuleBrokenError: nobody is named, the path is not theirs, or they are not apart.
    """
    if delegations is None or delegations.roles is None:
        raise RuleBrokenError(Rule.NO_ROLE, "the registry names nobody to build and to approve: it is of the old form")
    roles = delegations.roles
    build = _voucher(roles, names.BUILD, kind, name, path)
    approve = _voucher(roles, names.APPROVE, kind, name, path)
    shared = _keys(build, delegations.keys) & _keys(approve, delegations.keys)
    if shared:
        raise RuleBrokenError(Rule.SHARED_KEY, f"one key speaks for both {build.name} and {approve.name}")
    return Vouchers(build.name, approve.name)


def agreed(build: TargetFile | None, approve: TargetFile | None, by: Vouchers, what: str) -> TargetFile:
    """The one content that both vouch for; ``what`` names it in errors.

    Raises:
        RuleBrokenError: one of them does not, or they vouch for different content.
    """
    if build is None and approve is None:
        raise RuleBrokenError(Rule.UNKNOWN, f"the registry has no {what}")
    if build is None:
        raise RuleBrokenError(Rule.NOT_BUILT, f"{by.approve} approves {what}, but {by.build} has not built it")
    if approve is None:
        raise RuleBrokenError(Rule.NOT_APPROVED, f"{what} is built, but {by.approve} does not approve it")
    if _HASH not in build.hashes or _HASH not in approve.hashes:
        raise RuleBrokenError(Rule.MALFORMED, f"{what} is named without its SHA-256")
    if (build.length, build.hashes[_HASH]) != (approve.length, approve.hashes[_HASH]):
        raise RuleBrokenError(Rule.DISAGREE, f"{by.build} and {by.approve} vouch for different content of {what}")
    return approve


def _voucher(roles: dict[str, DelegatedRole], purpose: Purpose, kind: str, name: str, path: str) -> DelegatedRole:
    own, general = names.role(purpose, kind, name), names.role(purpose, kind)
    role = roles.get(own) or roles.get(general)
    if role is None:
        raise RuleBrokenError(Rule.NO_ROLE, f"the registry names nobody as {general}, nor as {own}")
    if not role.is_delegated_path(path):
        raise RuleBrokenError(Rule.NO_ROLE, f"{role.name} may not speak for {path}")
    return role


def _keys(role: DelegatedRole, keys: dict[str, Key]) -> set[str]:
    """The role's public keys by what they are, not by the id that they go under."""
    found = [_material(keys[keyid]) for keyid in role.keyids if keyid in keys]
    if len(set(found)) != len(found):
        raise RuleBrokenError(Rule.SHARED_KEY, f"one key counts twice for {role.name}")
    return set(found)


def _material(key: Key) -> str:
    """PEM or hex, without the white space that PEM may have anywhere; the key's type has several names for one key."""
    return "".join(str(key.keyval.get("public", key.keyval)).split())
