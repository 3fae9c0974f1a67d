"""Is anything in a bundle known to be vulnerable? A dated answer, and never silence that looks like a yes.

``clean`` is said only where every part was looked up in a source that is not out of date. Whatever stands in the way of
that (no source, an archive that was not opened, an old database) makes it ``unknown``, with the reason.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Final, Literal

import msgspec

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models.proof import advisories
from hedgerow.models.proof.contents import Component, Contents, normalized

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
    contents: Contents, *, today: date, database: Path | None = None, accepted: Mapping[str, str] | None = None
) -> Report:
    """Look every package up: in ``database`` if given, else by ``pip-audit`` if it is installed, else not at all.

    ``accepted`` maps an advisory's identifier, or an alias of it, to the reason why it does not count.

    Raises:
        UsageError: ``database`` cannot be read, or something is accepted that was not found.
    """
    packages = contents.packages()
    unknowns = [f"{path} was not looked into" for path in contents.opaque]
    findings: list[Finding] = []
    if database is not None:
        known = advisories.load(database, {each.package for each in packages if each.package})
        source = f"OSV, {known.count} advisories, newest of {known.newest}"
        if today - known.newest > MAX_AGE:
            unknowns.append(f"the advisories end on {known.newest}, more than {MAX_AGE.days} days ago")
        findings = [_finding(each, match) for each in packages for match in known.matches(each)]
    elif not packages:
        source = "none needed: no part has a package index"
    elif shutil.which(_PIP_AUDIT) is not None:
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
    by_name = {normalized(each.name): each for each in packages}
    with tempfile.TemporaryDirectory(prefix="audit.") as folder:
        listed = Path(folder, "requirements.txt")
        listed.write_text("".join(f"{each.package}=={each.version}\n" for each in packages), encoding="utf-8")
        command = [_PIP_AUDIT, "--format", "json", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        try:
            done = subprocess.run(
                [*command, "--requirement", str(listed)],
                capture_output=True,
                check=False,
                timeout=_PIP_AUDIT_SECONDS,
            )
            # It exits with 1 where it failed, too; then it has written no answer.
            if done.returncode not in {0, _FOUND} or not done.stdout.strip():
                lines = done.stderr.decode(errors="replace").strip().splitlines()
                return _PIP_AUDIT, [], [f"pip-audit failed: {lines[-1] if lines else done.returncode}"]
            answers = {normalized(each["name"]): each for each in json.loads(done.stdout)["dependencies"]}
        except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
            return _PIP_AUDIT, [], [f"pip-audit failed: {error}"]
    findings = []
    missed = []
    for name, component in by_name.items():
        answer = answers.get(name, {"skip_reason": "it said nothing about it"})
        if "vulns" not in answer:
            missed.append(f"{component.name} {component.version}: {answer.get('skip_reason', 'no answer')}")
        for each in answer.get("vulns", []):
            match = advisories.Match(
                each["id"], tuple(sorted(each.get("aliases", []))), each.get("description", "")[:200], None,
                tuple(each.get("fix_versions", [])),
            )  # fmt: skip
            findings.append(_finding(component, match))
    return _PIP_AUDIT, findings, missed
