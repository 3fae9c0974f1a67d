"""Hold a combination to the rules; refuse what breaks one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hedgerow.errors import RefusedError
from hedgerow.release.model import Combination, Finding, Rule, Status
from hedgerow.release.rules import BY_ID, RULES


def check(of: Combination) -> list[Finding]:
    """Every breach of a rule, those first that refuse the combination."""
    allowed = of.release.allow
    found = [
        Finding(rule, what, allowed.get(rule.id) if rule.status.may_be_allowed else None)
        for rule in RULES
        for what in rule.breaks(of)
    ]
    found += [Finding(_ALLOW, what) for what in _wrong_allowances(of)]
    return sorted(found, key=lambda finding: not finding.refused)


def idle_allowances(of: Combination, findings: Sequence[Finding]) -> list[str]:
    """Entries of ``allow`` that allow nothing any more."""
    used = {finding.rule.id for finding in findings if not finding.refused}
    return sorted(name for name in of.release.allow if name not in used)


def refuse(findings: Sequence[Finding], *, name: str, where: str, next_step: str) -> None:
    """Raise where a finding refuses the combination.

    Raises:
        RefusedError: naming each broken rule, with its source.
    """
    refused = [finding for finding in findings if finding.refused]
    if not refused:
        return
    lines = [in_words(finding) for finding in refused]
    can_be_allowed = sorted({finding.rule.id for finding in refused if finding.rule.status.may_be_allowed})
    hint = f"; or allow it with a reason: fleet_release.allow.{can_be_allowed[0]}" if can_be_allowed else ""
    raise RefusedError(
        f"the version lock {name} is refused:\n"
        + "\n".join(f"  {number}. {line}" for number, line in enumerate(lines, 1)),
        where=where,
        next_step=next_step + hint,
    )


def in_words(finding: Finding) -> str:
    """One finding in a line or two."""
    rule = finding.rule
    return f"{finding.what}\n     {rule.id} ({rule.status}; {rule.source}): {rule.says}"


def _wrong_allowances(of: Combination) -> Iterator[str]:
    for name in of.release.allow:
        rule = BY_ID.get(name)
        if rule is None:
            yield f"allow.{name}: there is no such rule; hedgerow release rules lists them"
        elif not rule.status.may_be_allowed:
            yield f"allow.{name}: this rule is {rule.status}; nothing allows breaking it"


_ALLOW = Rule(
    "allow",
    "An allowance names a rule that may be broken.",
    "docs/contracts.md",
    Status.FORBIDDEN,
    _wrong_allowances,
)
