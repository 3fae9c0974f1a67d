"""Is anything in a bundle known to be vulnerable? A dated answer, and never silence that looks like a yes.

``clean`` is said only where every part was looked up in a source that is not out of date. Whatever stands in the way of
that (no source, an archive that was not opened, an old database) makes it ``unknown``, with the reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.proof import advisories
from hedgerow.models.proof.component import PYPI, Component, normalized
from hedgerow.models.proof.contents import Contents

FILE_NAME: Final = "vulnerabilities.json"
MAX_AGE: Final = timedelta(days=30)
"""An older answer, or an answer from an older database, vouches for nothing."""
_PIP_AUDIT: Final = "pip-audit"
_PIP_AUDIT_SECONDS: Final = 300
_FOUND: Final = 1  # pip-audit's exit code where it found something


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An advisory about a part. ``accepted`` is why a person let it pass."""

    component: str
    version: str
    role: str
    id: str
    aliases: tuple[str, ...] = ()
    summary: str = ""
    severity: str | None = None
    fixed: tuple[str, ...] = ()
    accepted: str | None = None


class Report(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``vulnerabilities.json``. Dates are ISO 8601; ``unknowns`` says what stands between this and ``clean``."""

    schema: Literal[1]
    checked: date
    source: str
    status: Literal["clean", "vulnerable", "unknown"]
    examined: tuple[str, ...]
    findings: tuple[Finding, ...]
    unknowns: tuple[str, ...]

    @property
    def open(self) -> tuple[Finding, ...]:
        """Findings that nobody accepted."""
        return tuple(each for each in self.findings if each.accepted is None)


def check(
    contents: Contents,
    *,
    today: date,
    databases: Sequence[Path] = (),
    accepted: Mapping[str, str] | None = None,
) -> Report:
    """Look every package up: in ``databases`` if given, else by ``pip-audit`` if it is installed, else not at all.

    ``accepted`` maps an advisory's identifier, or an alias of it, to the reason why it does not count.

    Raises:
        UsageError: ``databases`` cannot be read, or something is accepted that was not found.
    """
    packages = contents.packages()
    unknowns = list(contents.unknowns)
    findings: list[Finding] = []
    if databases:
        known = advisories.load(databases, {found for each in packages if (found := advisories.package_of(each))})
        source = f"OSV, {known.count} advisories, newest of {known.newest}"
        if today - known.newest > MAX_AGE:
            unknowns.append(f"the advisories end on {known.newest}, more than {MAX_AGE.days} days ago")
        packages, missed = _split(packages, known.ecosystems, "the advisories have nothing of")
        unknowns += missed
        findings = [_finding(each, match) for each in packages for match in known.matches(each)]
    elif not packages:
        source = "none needed: no part has a package index"
    elif shutil.which(_PIP_AUDIT) is not None:
        packages, missed = _split(packages, {PYPI}, "pip-audit knows nothing of")
        unknowns += missed
        source, findings, missed = _pip_audit(packages)
        unknowns += missed
    else:
        source = "none"
        unknowns.append("nothing was looked up: no advisories were given, and pip-audit is not installed")
    findings = _accept(findings, accepted or {})
    vulnerable = any(each.accepted is None for each in findings)
    return Report(
        schema=1,
        checked=today,
        source=source,
        status="vulnerable" if vulnerable else ("unknown" if unknowns else "clean"),
        examined=tuple(f"{each.name} {each.version}" for each in packages) if source != "none" else (),
        findings=tuple(findings),
        unknowns=tuple(unknowns),
    )


def encode(report: Report) -> bytes:
    return msgspec.json.format(msgspec.json.encode(report, order="sorted"), indent=2) + b"\n"


def decode(data: bytes, *, where: str) -> Report:
    """Read ``vulnerabilities.json``.

    Raises:
        PublisherError: it is none.
    """
    try:
        return msgspec.json.decode(data, type=Report)
    except msgspec.DecodeError as error:
        raise PublisherError(
            f"no vulnerability report: {error}", where=where, next_step="hedgerow model prove BUNDLE writes it anew"
        ) from error


def _split(
    packages: tuple[Component, ...], ecosystems: Container[str], why: str
) -> tuple[tuple[Component, ...], list[str]]:
    """Those of ``ecosystems``, and a sentence about the others of each archive and ecosystem."""
    others = Counter((each.ecosystem, each.within) for each in packages if each.ecosystem not in ecosystems)
    missed = []
    for (ecosystem, within), count in sorted(others.items(), key=str):
        reason = f"{why} {ecosystem}" if ecosystem is not None else "nobody's advisories speak of its distribution"
        missed.append(f"{count} packages{f' in {within}' if within else ''} were not looked up: {reason}")
    return tuple(each for each in packages if each.ecosystem in ecosystems), missed


def _finding(component: Component, match: advisories.Match) -> Finding:
    return Finding(
        component.name, component.version or "", component.role, match.id, match.aliases, match.summary,
        match.severity, match.fixed,
    )  # fmt: skip


def _accept(findings: list[Finding], accepted: Mapping[str, str]) -> list[Finding]:
    known = {name for each in findings for name in (each.id, *each.aliases)}
    stale = sorted(set(accepted) - known)
    if stale:
        raise UsageError(
            f"{stale[0]} is accepted but was not found: a waiver that waives nothing hides the next one",
            next_step=f"leave out --accept {stale[0]}",
        )
    found = []
    for each in findings:
        why = next((accepted[name] for name in (each.id, *each.aliases) if name in accepted), None)
        found.append(msgspec.structs.replace(each, accepted=why))
    return found


def _pip_audit(packages: tuple[Component, ...]) -> tuple[str, list[Finding], list[str]]:
    """Ask ``pip-audit``, which asks PyPI's advisories over the network; what it could not say is the third answer."""
    by_name: dict[str, dict[str, list[Component]]] = {}
    for each in packages:
        by_name.setdefault(normalized(each.name), {}).setdefault(each.version or "", []).append(each)
    findings: list[Finding] = []
    missed: list[str] = []
    # A list of requirements has a package once: where two versions of one are inside, it is asked twice.
    for turn in range(max(map(len, by_name.values()), default=0)):
        asked = {
            name: found for name, versions in by_name.items() for found in list(versions.values())[turn : turn + 1]
        }
        try:
            answers = _ask_pip_audit([f"{name}=={found[0].version}" for name, found in asked.items()])
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
            missed.append(f"pip-audit failed: {error}")
            continue
        for name, found in asked.items():
            answer = answers.get(name, {"skip_reason": "it said nothing about it"})
            if "vulns" not in answer:
                missed.append(f"{found[0].name} {found[0].version}: {answer.get('skip_reason', 'no answer')}")
            matches = [_match(each) for each in answer.get("vulns", [])]
            findings += [_finding(component, match) for component in found for match in matches]
    return _PIP_AUDIT, findings, missed


def _ask_pip_audit(requirements: list[str]) -> dict[str, dict[str, Any]]:
    """Its answers by normalized name.

    Raises:
        ValueError: it failed, in its words; KeyError, TypeError: its answer has another form.
    """
    with tempfile.TemporaryDirectory(prefix="audit.") as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("".join(f"{each}\n" for each in requirements), encoding="utf-8")
        command = [_PIP_AUDIT, "--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        done = subprocess.run(
            [*command, "--requirement", str(listed)], capture_output=True, check=False, timeout=_PIP_AUDIT_SECONDS
        )
    # It exits with 1 where it failed, too; then it has written no answer.
    if done.returncode not in {0, _FOUND} or not done.stdout.strip():
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise ValueError(lines[-1] if lines else done.returncode)
    return {normalized(each["name"]): each for each in json.loads(done.stdout)["dependencies"]}


def _match(told: dict[str, Any]) -> advisories.Match:
    aliases, fixed = tuple(sorted(told.get("aliases", []))), tuple(told.get("fix_versions", []))
    return advisories.Match(told["id"], aliases, told.get("description", "")[:200], None, fixed)
