"""``hedgerow model prove``: bill of materials, provenance, license and known vulnerabilities of a bundle."""

from __future__ import annotations

import os
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.errors import UsageError
from hedgerow.output import err, json_option, print_json, print_table

if TYPE_CHECKING:
    from hedgerow.models.proof import Checked


@click.command("prove")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--advisories",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="OSV advisories: a folder, or an ecosystem's all.zip; repeat it.",
)
@click.option("--accept", multiple=True, metavar="ID=REASON", help="An advisory that does not count here; repeat it.")
@click.option("--check", "only_check", is_flag=True, help="Write nothing; hold the bundle to the proofs it has.")
@json_option
def prove(
    bundle: Path, advisories: tuple[Path, ...], accept: tuple[str, ...], *, only_check: bool, as_json: bool
) -> None:
    """Write what others need to judge BUNDLE into it: a CycloneDX bill of materials, in-toto provenance, and a dated
    vulnerability report.

    \b
    Examples:
      hedgerow model prove bundles/assistant --advisories osv/PyPI/all.zip
      hedgerow model prove bundles/gate --advisories osv/PyPI/all.zip --advisories osv/Debian/all.zip
      hedgerow model prove bundles/assistant --check

    Without --advisories, pip-audit is asked if it is installed; without both, the report says that nothing was looked
    up. A known vulnerability refuses the bundle (exit code 3).
    """  # noqa: D205, D301 -- one sentence over two lines; click's mark for a paragraph as it stands
    from hedgerow.models import proof  # jsonschema and more: --help must not pay for them

    today = _today()
    if only_check:
        if advisories or accept:
            raise UsageError("--check looks nothing up", next_step="leave out --check to write a new report")
        checked = proof.check(bundle, today=today)
    else:
        checked = proof.prove(bundle, today=today, advisories=advisories, accepted=_accepted(accept))
    _show(checked, as_json=as_json)


def _today() -> date:
    """Today in UTC, or SOURCE_DATE_EPOCH's day (reproducible-builds.org) for who builds the same bytes again."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    if epoch is None:
        return datetime.now(UTC).date()
    try:
        return datetime.fromtimestamp(int(epoch), UTC).date()
    except (ValueError, OverflowError, OSError) as error:
        raise UsageError(
            f"SOURCE_DATE_EPOCH={epoch!r} is no time", next_step="export SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)"
        ) from error


def _accepted(accept: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for each in accept:
        name, _, why = each.partition("=")
        if not name.strip() or not why.strip():
            raise UsageError(
                f"--accept {each!r} gives no reason", next_step="--accept CVE-2026-1=WHY-IT-DOES-NOT-COUNT"
            )
        found[name.strip()] = why.strip()
    return found


def _show(checked: Checked, *, as_json: bool) -> None:
    document, report = checked.bundle.manifest, checked.vulnerabilities
    if as_json:
        print_json({
            "reference": document.reference,
            "sha256": checked.bundle.sha256,
            "license": checked.license,
            "components": checked.components,
            "vulnerabilities": report.status,
            "checked": report.checked.isoformat(),
            "source": report.source,
            "remarks": list(checked.remarks),
        })  # fmt: skip
        return
    rows = [
        ("bundle", document.reference),
        ("identity", checked.bundle.sha256),
        ("license", checked.license),
        ("bill of materials", f"{document.sbom}, {checked.components} components"),
        ("vulnerabilities", f"{report.status} on {report.checked}, source: {report.source}"),
    ]
    print_table(None, ("what", "value"), rows)
    for remark in checked.remarks:
        err.print(f"[yellow]remark:[/yellow] {remark}", highlight=False)
