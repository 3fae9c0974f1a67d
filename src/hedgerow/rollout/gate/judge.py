"""The rules of a gate, without IO and without a clock.

- A look at a host passes when the host was reached, serves the new version
  and reports ``ok``, or ``degraded`` for nothing but reasons that stood before
  the release touched it: a release is not blamed for a fan that was slow
  yesterday; and when no criterion that rests on the report is breached.
- A host passes its soak after ``soak.passes`` passing looks **in a row**, not
  before ``soak.minimum_s``, and when every criterion has the samples it needs.
- An application has to be active, not to have been restarted since its
  activation, and its ports have to answer; the model is judged as ever.
- A host that serves another version than the activated one, reports
  ``failing``, answers wrongly, or breaches what counts since the activation
  (errors, restarts, a comparison) fails at once: waiting cannot make that right.
- Anything else (worse than before, unreached, no data) breaks the row and is
  looked at again until the deadline, which then decides with the last look.
- No data is never a pass. What nobody measures on this host is left out only
  where its criterion says so, and is listed as skipped.
- A breach of latency, throughput or heat while the board is slowed down or
  short of voltage is the environment's, and so is one of latency or throughput
  while other work has taken the board (``board``). Wrong answers and errors never are.
- Comparisons are tested when samples have doubled and once at the end, each with
  its share of ``alpha`` (``findings.stage_of``): looking often does not make
  alarms. None is tested before ``soak.passes`` looks: a version warms up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from hedgerow.device.change import Change
from hedgerow.rollout.gate import board, criteria
from hedgerow.rollout.gate.findings import Finding, Sight
from hedgerow.rollout.gate.rules import Rules
from hedgerow.rollout.gate.samples import STEPS, Expectation, Look, Window
from hedgerow.rollout.gate.shift import Control
from hedgerow.rollout.gate.verdicts import CriterionResult, Judgement, Standing, Verdict
from hedgerow.rollout.policy.gate import Condition, Criterion

__all__ = ["CriterionResult", "Expectation", "Judgement", "Look", "Verdict", "judge", "judge_look"]

PATIENCE = 0.5
"""Share of the deadline for which a passing host is held for samples that its built-in criteria want."""
_POWER = frozenset({"throttled", "undervoltage"})
_HEAT = frozenset({"hot"})


def judge_look(look: Look, expected: Expectation) -> Judgement:
    """Judge what one look says of the host's health, by itself."""
    if not look.reached:
        return Judgement(verdict=Verdict.UNREACHABLE, reason=look.note or "no answer", final=False)
    if look.status is None or look.version is None:
        reason = "it answered without a health report" if look.status is None else "its report names no model"
        return Judgement(verdict=Verdict.NO_DATA, reason=look.note or reason, final=False)
    other = _other_model(look, expected)
    if other is not None:
        return Judgement(verdict=Verdict.FAIL, reason=other, final=True)
    return _judge_application(look, expected) or _judge_health(look, expected)


def _other_model(look: Look, expected: Expectation) -> str | None:
    if look.version != expected.version:
        return f"it serves {look.version}, not {expected.version}: it has gone back by itself, or was changed"
    if look.sha256 != expected.sha256 and look.sha256 not in expected.builds:
        return f"its {look.version} has manifest {look.sha256}, the release has {expected.sha256}"
    if expected.started_with is None or expected.started_with.startswith("application:"):
        return None
    runs_with = {f"runtime:{look.runtime}", f"configuration:{look.configuration}"}
    if expected.started_with not in runs_with:
        kind = expected.started_with.partition(":")[0]
        found = look.runtime if kind == "runtime" else look.configuration
        return f"it runs with {kind} {found}, not {expected.started_with}: it has gone back by itself, or was changed"
    return None


def _judge_application(look: Look, expected: Expectation) -> Judgement | None:
    """What speaks against the application that is released; None: nothing, or none is."""
    if expected.started_with is None or not expected.started_with.startswith("application:"):
        return None
    wanted = Change.parse(expected.started_with)
    seen = next((each for each in look.applications or () if each.name == wanted.name), None)
    if seen is None or seen.version != wanted.version:
        found = "no version" if seen is None or seen.version is None else seen.version
        reason = f"it has {found} of {wanted.name}, not {wanted.version}: it has gone back by itself, or was changed"
        return Judgement(verdict=Verdict.FAIL, reason=reason, final=True)
    if seen.restarts:
        reason = f"{wanted.name} ended and was restarted {seen.restarts} time(s) since its activation"
        return Judgement(verdict=Verdict.FAIL, reason=reason, final=True)
    if not seen.active or seen.trouble is not None:
        reason = f"{wanted.name} does not run as it should: {seen.trouble or 'not active'}"
        return Judgement(verdict=Verdict.FAIL, reason=reason, final=not seen.active)
    return None


_HEALTHY = Judgement(verdict=Verdict.PASS, reason="healthy", final=False)


def _judge_health(look: Look, expected: Expectation) -> Judgement:
    if look.status == "ok":
        return _HEALTHY
    listed = ", ".join(sorted(look.reasons)) or "no reason given"
    if look.status != "degraded":
        return Judgement(verdict=Verdict.FAIL, reason=f"{look.status}: {listed}", final=True)
    new = look.reasons - expected.baseline
    if look.reasons and not new:
        return Judgement(verdict=Verdict.PASS, reason=f"as before the release: {listed}", final=False)
    since = ", ".join(sorted(new)) or listed
    if new & _POWER and new <= _POWER | _HEAT | STEPS:
        return Judgement(verdict=Verdict.ENVIRONMENT, reason=f"its supply or its heat: {since}", final=False)
    return Judgement(verdict=Verdict.FAIL, reason=f"degraded since the release: {since}", final=False)


def judge(
    before: Window | None,
    after: Window,
    untouched: Window | None,
    expected: Expectation,
    rules: Rules,
    *,
    started: float,
    now: float,
    controls: Sequence[Control] = (),
) -> Judgement:
    """Judge all that was seen since the activation; ``final`` is False while the host must be watched further.

    ``before`` is the host's own window before its activation, ``untouched`` hosts without the release in the same
    time; None: there is none. ``controls`` are those of them that were asked before the activation, too. ``started``
    and ``now`` are on the clock of the looks. Notes what it has judged in ``after`` (``row``, ``judged``, ``tested``),
    so that a long soak costs as much a look as a short one.
    """
    soak, elapsed = rules.soak, now - started
    interim = after.looked >= soak.passes
    sight = Sight(
        before,
        after,
        untouched,
        after.latest,
        started,
        now,
        rules.alpha,
        final=False,
        interim=interim,
        controls=controls,
        shift_alpha=rules.shift_alpha,
    )
    fatal = _look_on(sight, expected, rules)
    if fatal is not None:
        return fatal
    found = [(criterion, *criteria.evaluate(criterion, sight)) for criterion in rules.since]
    breach = _broken(found, sight)
    if breach is not None:
        return _end(breach, found, sight)
    waiting = [finding for criterion, finding, _ in found if _holds_back(criterion, finding, rules, elapsed)]
    if after.row >= soak.passes and elapsed >= soak.minimum_s and not waiting:
        return _last_word(sight, expected, rules)
    if elapsed < soak.deadline_s:
        reason = f"{after.row} of {soak.passes} passes in a row"
        if after.row >= soak.passes:
            reason += f"; {waiting[0].reason}" if waiting else f"; {elapsed:.0f} of {soak.minimum_s:g} s"
        return Judgement(verdict=Verdict.NO_DATA, reason=reason, final=False)
    return _overdue(sight, expected, rules, found, waiting)


_Found = tuple[Criterion, Finding, Condition]


def _look_on(sight: Sight, expected: Expectation, rules: Rules) -> Judgement | None:
    """Bring ``row`` up to date with looks that were not judged yet; the judgement of one that ends the soak."""
    after = sight.after
    fresh = min(len(after.looks), after.looked - after.judged)
    for look in after.looks[len(after.looks) - fresh :]:
        judgement, _ = _whole_look(look, sight, expected, rules)
        after.judged += 1
        if judgement.final:
            return judgement
        after.row = after.row + 1 if judgement.verdict is Verdict.PASS else 0
    return None


def _whole_look(look: Look, sight: Sight, expected: Expectation, rules: Rules) -> tuple[Judgement, list[_Found]]:
    """A look's health and the criteria that rest on it; with the last tests, where ``sight`` is final."""
    health = judge_look(look, expected)
    if health.verdict is not Verdict.PASS or not rules.by_look:
        return health, []
    seen = sight if sight.look is look else replace(sight, look=look)
    found = [_settled(criterion, *criteria.evaluate(criterion, seen), look, rules) for criterion in rules.by_look]
    worst = _broken(found, sight)
    if worst is not None:
        return worst, found
    for criterion, finding, _ in found:
        if finding.standing is Standing.NO_DATA:
            reason = f"{criterion.name}: {finding.reason}"
            return Judgement(verdict=Verdict.NO_DATA, reason=reason, final=False), found
    return health, found


def _settled(criterion: Criterion, finding: Finding, condition: Condition, look: Look, rules: Rules) -> _Found:
    """What is left out is skipped, not unknown."""
    if finding.standing is Standing.NO_DATA:
        lost = condition.query is not None and bool(look.outage) and rules.ignore_outage
        if lost or criterion.unknown == "skip":
            finding = msgspec.structs.replace(finding, standing=Standing.SKIPPED)
    return criterion, finding, condition


def _holds_back(criterion: Criterion, finding: Finding, rules: Rules, elapsed: float) -> bool:
    """Whether a passing host must be watched further for want of this."""
    if finding.standing is not Standing.NO_DATA:
        return False
    if criterion.unknown == "no_data":
        return True
    return finding.comes and rules.asks and elapsed < PATIENCE * rules.soak.deadline_s


def _broken(found: list[_Found], sight: Sight) -> Judgement | None:
    """What breached criteria say together: the release's fault first, then the environment's."""
    broken = [each for each in found if each[1].standing is Standing.BREACH]
    if not broken:
        return None
    explained = {criterion.name: board.explanation(criterion, sight) for criterion, _, _ in broken}
    blamed = [each for each in broken if explained[each[0].name] is None]
    reason = "; ".join(f"{criterion.name}: {finding.reason}" for criterion, finding, _ in blamed or broken)
    if blamed:
        return Judgement(verdict=Verdict.FAIL, reason=reason, final=False)
    why = " and ".join(dict.fromkeys(each for each in explained.values() if each is not None))
    return Judgement(verdict=Verdict.ENVIRONMENT, reason=f"{why} explains it: {reason}", final=False)


def _end(judgement: Judgement, found: list[_Found], sight: Sight) -> Judgement:
    """The judgement as the last one, with every criterion listed."""
    listed = tuple(_result(*each, sight) for each in found)
    return msgspec.structs.replace(judgement, final=True, criteria=listed)


def _result(criterion: Criterion, finding: Finding, condition: Condition, sight: Sight) -> CriterionResult:
    standing = finding.standing
    if standing is Standing.BREACH and board.explanation(criterion, sight) is not None:
        standing = Standing.ENVIRONMENT
    elif standing is Standing.NO_DATA and criterion.unknown == "skip":
        standing = Standing.SKIPPED
    return criteria.result(criterion, finding, condition, standing)


def _last_word(sight: Sight, expected: Expectation, rules: Rules) -> Judgement:
    """The last test of every comparison; the host passes if none is breached."""
    after, look, last = sight.after, sight.look, replace(sight, final=True)
    since = [(criterion, *criteria.evaluate(criterion, last)) for criterion in rules.since]
    # A criterion may rest on a look and on a test: that was its last, too.
    health, by_look = (_HEALTHY, []) if look is None else _whole_look(look, last, expected, rules)
    found = [*by_look, *since]
    verdict = _broken(found, sight)
    if verdict is None and health.verdict is not Verdict.PASS:
        verdict = health
    if verdict is None:
        answers = f"{after.asked} answer{'s' if after.asked != 1 else ''} right"
        reason = f"{after.row} passes in a row: {health.reason}; {answers}"
        verdict = Judgement(verdict=Verdict.PASS, reason=reason, final=True)
    return _end(verdict, found, sight)


def _overdue(
    sight: Sight, expected: Expectation, rules: Rules, since: list[_Found], waiting: list[Finding]
) -> Judgement:
    """The deadline has passed: the last look decides. A deadline that stretches is none."""
    after, soak = sight.after, rules.soak
    within = f"within {soak.deadline_s:g} s"
    if sight.look is None:
        return Judgement(verdict=Verdict.NO_DATA, reason="never looked at before the deadline", final=True)
    last, by_look = _whole_look(sight.look, sight, expected, rules)
    if last.verdict is not Verdict.PASS:
        last = msgspec.structs.replace(last, reason=f"{last.reason} (for {soak.deadline_s:g} s)")
    elif after.row < soak.passes:
        reason = f"only {after.row} of {soak.passes} passes in a row {within}"
        last = Judgement(verdict=Verdict.FAIL, reason=reason, final=True)
    else:
        reason = f"{waiting[0].reason} {within}" if waiting else f"not watched for {soak.minimum_s:g} s {within}"
        last = Judgement(verdict=Verdict.NO_DATA, reason=reason, final=True)
    return _end(last, [*by_look, *since], sight)
