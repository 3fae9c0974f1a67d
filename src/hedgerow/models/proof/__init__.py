"""What goes with a bundle so that others can judge it: bill of materials, provenance, license, known vulnerabilities.

``prove`` writes them into a bundle; ``check`` holds a bundle to them, and a publisher calls it before it signs. Both
verify the bundle's files first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import msgspec

from hedgerow.errors import PublisherError, RefusedError
from hedgerow.models import amend
from hedgerow.models.proof import contents, licenses, provenance, sbom, vulnerabilities
from hedgerow.registry import bundle, manifest
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import Manifest, Proof

__all__ = ["Checked", "check", "prove"]


@dataclass(frozen=True)
class Checked:
    """A bundle whose proofs hold. ``remarks`` are sentences about what they do not say."""

    bundle: Bundle
    license: str
    components: int
    vulnerabilities: vulnerabilities.Report
    remarks: tuple[str, ...]


def prove(
    folder: Path, *, today: date, advisories: Sequence[Path] = (), accepted: Mapping[str, str] | None = None
) -> Checked:
    """Write bill of materials, provenance and vulnerability report into the bundle in ``folder``, then check it.

    Nothing is written where a rule refuses. The same bundle, day and advisories give the same bytes.

    Raises:
        UsageError: no bundle, or advisories that cannot be used.
        PublisherError: a file is not what the manifest says.
        RefusedError: the license, a pickle, or a known vulnerability; the message names the rule.
    """
    before = bundle.verify_files(folder)
    document = before.manifest
    _license(before)
    parts = contents.of_bundle(folder, document)
    report = vulnerabilities.check(parts, today=today, databases=advisories, accepted=accepted)
    _refuse_vulnerable(report, where=str(folder))
    kept = [each for each in document.proofs if each.kind not in {"provenance", "vulnerabilities"}]
    old = contents.own_proofs(document) - {each.path for each in kept}
    files = {
        sbom.FILE_NAME: sbom.encode(sbom.build(document, parts)),
        provenance.FILE_NAME: provenance.encode(provenance.build(document, parts)),
        vulnerabilities.FILE_NAME: vulnerabilities.encode(report),
    }

    def name(changed: Manifest) -> Manifest:
        proofs = (
            *kept,
            Proof("provenance", provenance.FILE_NAME, provenance.MEDIA_TYPE),
            Proof("vulnerabilities", vulnerabilities.FILE_NAME, date=today.isoformat()),
        )
        return msgspec.structs.replace(changed, schema=manifest.NEWEST, sbom=sbom.FILE_NAME, proofs=proofs)

    amend.add_files(folder, files, name, drop=old)
    return check(folder, today=today)


def check(folder: Path, *, today: date) -> Checked:
    """Hold a bundle to its proofs: what a publisher asks before it signs. Needs no network and no advisories.

    Raises:
        UsageError: no bundle.
        PublisherError: a file is not what the manifest says, or a proof is no valid document or speaks of other bytes.
        RefusedError: a proof is missing, the license is no SPDX expression, or the vulnerability report names an open
            finding; the message names the rule.
    """
    whole = bundle.verify_files(folder)
    document = whole.manifest
    license_ = _license(whole)
    parts = contents.of_bundle(folder, document)
    files = {each.path: each.sha256 for each in document.files if each.path not in contents.own_proofs(document)}
    bill = sbom.validate(_read(whole, document.sbom, "sbom"), where=str(document.sbom))
    wheels = {path for path in files if path.lower().endswith(".whl")}
    _same("sbom", sbom.file_hashes(bill), {p: h for p, h in files.items() if p not in wheels}, folder)
    told = contents.proof_of(document, "provenance")
    statement = provenance.validate(_read(whole, told.path if told else None, "provenance"), where=str(folder))
    _same("provenance", provenance.subjects(statement), files, folder)
    found = contents.proof_of(document, "vulnerabilities")
    data = _read(whole, found.path if found else None, "vulnerabilities")
    report = vulnerabilities.decode(data, where=str(folder))
    _refuse_vulnerable(report, where=str(folder))
    return Checked(whole, license_, len(parts.components), report, tuple(_remarks(report, today)))


def _license(whole: Bundle) -> str:
    document = whole.manifest
    return licenses.check(document.license, has_text=document.license_file is not None, where=str(whole.directory))


def _read(whole: Bundle, path: str | None, what: str) -> bytes:
    if path is None:
        raise RefusedError(
            f"rule proofs-are-there: {whole.manifest.reference} has no {what}",
            where=str(whole.directory),
            next_step=f"hedgerow model prove {whole.directory}",
        )
    return (whole.directory / path).read_bytes()


def _same(what: str, told: Mapping[str, Any], files: Mapping[str, str], folder: Path) -> None:
    """A proof of other bytes is worse than none."""
    for path in sorted(set(told) | set(files)):
        if told.get(path) != files.get(path):
            raise PublisherError(
                f"the {what} speaks of other bytes: {path} is {str(told.get(path))[:12]} there and "
                f"{str(files.get(path))[:12]} in the manifest",
                where=str(folder),
                next_step=f"hedgerow model prove {folder}",
            )


def _refuse_vulnerable(report: vulnerabilities.Report, *, where: str) -> None:
    if report.open:
        first = report.open[0]
        fixed = f", fixed in {', '.join(first.fixed)}" if first.fixed else ""
        more = f" and {len(report.open) - 1} more" if len(report.open) > 1 else ""
        raise RefusedError(
            f"rule no-known-vulnerability: {first.component} {first.version} has {first.id} ({first.summary}){fixed}"
            f"{more}, checked {report.checked}",
            where=where,
            next_step=f"build with a fixed version, or say why it does not count: --accept {first.id}=REASON",
        )


def _remarks(report: vulnerabilities.Report, today: date) -> list[str]:
    found = [f"vulnerabilities unknown: {each}" for each in report.unknowns]
    if today - report.checked > vulnerabilities.MAX_AGE:
        found.append(
            f"vulnerabilities were checked on {report.checked}, more than {vulnerabilities.MAX_AGE.days} days ago"
        )
    found += [f"{each.id} in {each.component} {each.version} is accepted: {each.accepted}" for each in report.findings]
    return found
