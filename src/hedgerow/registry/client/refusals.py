"""python-tuf's exceptions in words: which rule was broken, whose move it is, and what to type. No IO."""

from __future__ import annotations

from datetime import timedelta

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)

from hedgerow.errors import HedgerowError, NetworkError
from hedgerow.registry.client.errors import Rule, TrustRefusedError
from hedgerow.registry.client.times import SKEW, TrustedTime
from hedgerow.registry.client.updater import ClockDisagreesError

VERIFY = "nothing was changed here; on the controller: hedgerow registry verify"
_REFRESH = "what serves goes on; on the controller: hedgerow registry refresh, then playbooks/publish.yml"
_CEREMONY = "what serves goes on; renew the root by its ceremony: hedgerow registry rotate root"
_CLOCK = "set this device's clock: timedatectl set-ntp true (timedatectl timesync-status shows by whom); then try again"
_RULES: tuple[tuple[type[RepositoryError], Rule], ...] = (
    (UnsignedMetadataError, Rule.SIGNATURE),
    (BadVersionNumberError, Rule.ROLLBACK),
    (LengthOrHashMismatchError, Rule.MIXTURE),
)


def explain(error: RepositoryError | DownloadError, time: TrustedTime, url: str) -> HedgerowError:
    """The error that a person reads; ``time`` is what was known of the time when it was raised."""
    if isinstance(error, DownloadLengthMismatchError):
        return _refused(Rule.TOO_LONG, f"the registry sends more than it may: {error}", url)
    if isinstance(error, DownloadError):
        return NetworkError(
            f"the registry cannot be read: {error}",
            where=url,
            next_step="bring the registry to the gateway: playbooks/publish.yml",
        )
    if isinstance(error, ClockDisagreesError):
        return _refused(
            Rule.CLOCK,
            f"{error}, and this device's clock, which is synchronised, says {_shown(time.clock)}: one of them is wrong",
            url,
            "compare both with a clock on the wall; " + _CLOCK,
        )
    if isinstance(error, ExpiredMetadataError):
        return _expired(error, time, url)
    for kind, rule in _RULES:
        if isinstance(error, kind):
            return _refused(rule, f"the registry's signatures do not hold: {error}", url)
    # python-tuf has no type of its own for a snapshot that lost a role.
    rule = Rule.ROLLBACK if "missing info" in str(error) else Rule.MALFORMED
    return _refused(rule, f"the registry's metadata are not what they must be: {error}", url)


def _expired(error: ExpiredMetadataError, time: TrustedTime, url: str) -> TrustRefusedError:
    advice = _CEREMONY if "root" in str(error) else _REFRESH
    what = f"the registry's metadata are over: {error}"
    if time.floor is None:
        return _refused(Rule.EXPIRED, f"{what} by this device's clock, {_shown(time.clock)}", url, advice)
    proven = f"the newest signed time, of {time.floor.proven_by}, is {_shown(time.floor.time)}"
    if time.behind:
        return _refused(Rule.EXPIRED, f"{what}; {proven}, whatever the clock says ({_shown(time.clock)})", url, advice)
    ahead = time.clock - time.floor.time
    what = f"{what}; {proven}, and this device's clock is {_span(ahead)} later"
    if time.synced is False and ahead > SKEW:
        return _refused(Rule.CLOCK, f"{what}, and not synchronised: it may be ahead", url, _CLOCK)
    if time.synced is None:
        return _refused(Rule.EXPIRED, what, url, f"{advice}; if the clock is ahead: {_CLOCK}")
    return _refused(Rule.EXPIRED, what, url, advice)


def _refused(rule: Rule, what: str, url: str, next_step: str = VERIFY) -> TrustRefusedError:
    return TrustRefusedError(what, rule=rule, url=url, next_step=next_step)


def _shown(time: object) -> str:
    return f"{time:%Y-%m-%d %H:%M} UTC"


def _span(span: timedelta) -> str:
    hours = span.total_seconds() / 3600
    return f"{hours:.0f} hours" if hours < 48 else f"{span.days} days"  # noqa: PLR2004 - two days
