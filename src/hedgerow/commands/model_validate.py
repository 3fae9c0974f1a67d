"""``hedgerow model validate``: a new build against a reference, held to limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hedgerow.errors import PublisherError, UsageError
from hedgerow.output import json_option, print_json, print_table, step

if TYPE_CHECKING:
    from hedgerow.models.validate.report import Outcome


@click.command("validate")
@click.argument("new", type=click.Path(path_type=Path, exists=True))
@click.option("--against", type=click.Path(path_type=Path, exists=True), required=True, help="The reference build.")
@click.option("--probe", type=click.Path(path_type=Path, exists=True), required=True, help="Inputs, texts or prompts.")
@click.option("--thresholds", type=click.Path(path_type=Path, exists=True), required=True, help="Limits, as YAML.")
@click.option("--variant", help="Variant of NEW (default: its first).")
@click.option("--against-variant", help="Variant of the reference (default: its first).")
@click.option("--report", type=click.Path(path_type=Path), help="Folder for report.md, pictures and validation.json.")
@click.option("--attach", is_flag=True, help="Put validation.json into the bundle NEW.")
@json_option
def validate(  # noqa: PLR0917 -- click passes them by name
    new: Path,
    against: Path,
    probe: Path,
    thresholds: Path,
    variant: str | None,
    against_variant: str | None,
    report: Path | None,
    *,
    attach: bool,
    as_json: bool,
) -> None:
    """Compare NEW with a reference build on a probe; exit code 1 where a limit is missed.

    \b
    Example:
      hedgerow model validate bundles/small --against bundles/classifier \\
        --probe samples/ --thresholds limits.yml --report report/

    A build is a bundle, a folder with one ONNX model, or an .onnx file. A value that is not a number meets no limit,
    and a limit on what the probe cannot measure is missed.
    """  # noqa: D301 -- click's mark for a paragraph as it stands
    if attach and not new.is_dir():
        raise UsageError("--attach needs a bundle", where=str(new), next_step="leave it out, or name a bundle's folder")
    from hedgerow.models.validate import report as reports
    from hedgerow.models.validate import run  # numpy, onnxruntime: --help must not pay for them

    step(f"compare {new.name} with {against.name}")
    outcome = run.validate(new, against, probe, thresholds, variant=variant, reference_variant=against_variant)
    place = reports.write(outcome, report) if report is not None else None
    if attach and not outcome.missed:
        run.attach(new, outcome)
    if as_json:
        print_json(reports.as_data(outcome))
    else:
        _show(outcome, place)
    if outcome.missed:
        raise PublisherError(
            "; ".join(str(each) for each in outcome.missed),
            where=outcome.new,
            next_step="quantize with another scheme or calibration set, or change the limit and say why",
        )


def _show(outcome: Outcome, place: Path | None) -> None:
    limits = {each.metric: each for each in outcome.judgements}
    names = dict.fromkeys([*limits, *outcome.comparison.measured])
    rows = []
    for name in names:
        value, judged = outcome.comparison.measured.get(name), limits.get(name)
        shown = "not measured" if value is None else f"{value:.6g}"
        verdict = None if judged is None else ("met" if judged.met else "MISSED")
        rows.append((name, shown, judged.limit if judged is not None else None, verdict))
    print_table(f"{outcome.new} against {outcome.reference}", ("metric", "value", "limit", ""), rows)
    if place is not None:
        step(f"report: {place}")
