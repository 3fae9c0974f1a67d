"""Why a registry was not believed: each refusal names one rule, so that a person and a program can tell them apart."""

from __future__ import annotations

from enum import StrEnum

from hedgerow.errors import RefusedError


class Rule(StrEnum):
    """What was broken. The value is part of the message, of ``--json`` and of docs/attacks.md."""

    SIGNATURE = "signature"
    """Too few valid signatures of the keys that count now: altered, a stranger's, a revoked key, threshold not met."""
    ROLLBACK = "rollback"
    """Older than what this device has seen, gone, or another version than the metadata above it names."""
    MIXTURE = "mixture"
    """Not the content that the metadata above it names: pieces of different moments, or altered."""
    EXPIRED = "expired"
    """Its time is over: a frozen mirror, or a registry that nobody refreshes."""
    CLOCK = "clock"
    """The device's clock and the signed times cannot both be right."""
    TOO_LONG = "too-long"
    """More bytes than were signed for, or than any registry needs."""
    MALFORMED = "malformed"
    """No metadata of The Update Framework, or not in a form that vouches for anything."""
    NO_ROLE = "no-role"
    """Nobody is named to build, or to approve, what was asked for."""
    NOT_BUILT = "not-built"
    """The builder does not vouch for it."""
    NOT_APPROVED = "not-approved"
    """The approver does not vouch for it: not yet, or not any more."""
    UNKNOWN = "unknown"
    """Neither of the two knows it."""
    DISAGREE = "disagree"
    """Builder and approver vouch for different content."""
    SHARED_KEY = "shared-key"
    """One key could speak for both, or counts twice for one."""
    MISNAMED = "misnamed"
    """The manifest describes another bundle, or another kind, than its place says."""


class TrustRefusedError(RefusedError):
    """The registry's signatures do not vouch for what was asked for. Nothing was changed, what serves goes on."""

    def __init__(self, what: str, *, rule: Rule, url: str, next_step: str) -> None:
        super().__init__(what, where=f"{url} (rule: {rule})", next_step=next_step)
        self.rule = rule
