"""``hedgerow model``: build bundles from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hedgerow.errors import UsageError
from hedgerow.output import err, json_option, print_json, print_table


@click.group()
def model() -> None:
    """Build model bundles from checkpoints."""


@model.command("import")
@click.argument("source", required=False)
@click.option("--gguf", type=click.Path(path_type=Path), help="Any GGUF checkpoint of the llama architecture.")
@click.option("--name", default="assistant", show_default=True, help="Name of the bundle.")
@click.option("--version", default="1.0.0", show_default=True, help="Semantic version of the bundle.")
@click.option(
    "--quality",
    default="fast",
    show_default=True,
    metavar="fast|faithful",
    help="fast: 4-bit, for speed. faithful: nearly the checkpoint's own answers, about a fifth slower.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Copy the bundle here (default: only the cache).")
@click.option("--license", "license_id", metavar="SPDX-ID", help="License of the --gguf checkpoint.")
@click.option("--license-file", type=click.Path(path_type=Path), help="License text to put into the bundle.")
@json_option
def import_(  # noqa: PLR0917 -- click passes them by name
    source: str | None,
    gguf: Path | None,
    name: str,
    version: str,
    quality: str,
    output: Path | None,
    license_id: str | None,
    license_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Import SOURCE (smollm2), or a GGUF file, as an ONNX bundle for onnxruntime-genai.

    \b
    Examples:
      hedgerow model import smollm2
      hedgerow model import --gguf tuned.gguf --name assistant --version 1.1.0

    The bundle lands in var/cache/bundles, named by a hash of all that went into it; a second run answers from there.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    if (source is None) == (gguf is None):
        raise UsageError(
            "name a known model or give --gguf FILE, one of the two", next_step="run: hedgerow model import smollm2"
        )
    from hedgerow.models import importer  # onnx and gguf cost half a second, --help should not

    if output is not None:
        output = output.absolute()
    with _progress() as bars:
        report = _Reporter(bars)
        if gguf is not None:
            request = importer.request_for_file(
                gguf, name=name, version=version, quality=quality, license_id=license_id, license_file=license_file
            )
            place = importer.import_gguf(request, progress=report)
        else:
            place = importer.import_recipe(str(source), name=name, version=version, quality=quality, progress=report)
    if output is not None:
        place = importer.export(place, output)
    _show(place, as_json=as_json)


class _Reporter:
    """One bar a step, made when the step is first heard of."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, step: str, done: int, total: int) -> None:
        if step not in self._tasks:
            self._tasks[step] = self._bars.add_task(step, total=total)
        self._bars.update(self._tasks[step], completed=done)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def _show(place: Path, *, as_json: bool) -> None:
    from hedgerow.registry import bundle  # as above

    loaded = bundle.load(place)
    manifest = loaded.manifest
    if as_json:
        facts: dict[str, Any] = {"path": str(place), "name": manifest.name, "version": manifest.version}
        facts |= {"format": manifest.format, "sha256": loaded.sha256, "size": manifest.size}
        facts |= {"files": len(manifest.files), "golden": [golden.expect for golden in _texts(manifest.golden)]}
        print_json(facts)
        return
    rows: list[tuple[str, Any]] = [
        ("bundle", manifest.reference),
        ("folder", place),
        ("identity", loaded.sha256),
        ("size", f"{manifest.size / 1e6:.1f} MB in {len(manifest.files)} files"),
        ("needs", f"{manifest.requires.memory_mb} MB of memory at full context"),
    ]
    rows += [(f"golden {number}", golden.expect) for number, golden in enumerate(_texts(manifest.golden), 1)]
    print_table(None, ("what", "value"), rows)


def _texts(golden: tuple[Any, ...]) -> list[Any]:
    return [answer for answer in golden if hasattr(answer, "expect")]


def _add_proving() -> None:
    """What comes after an import, each in a file of its own: quantize, validate, measure, prove."""
    from hedgerow.commands.model_bench import bench
    from hedgerow.commands.model_prove import prove
    from hedgerow.commands.model_quantize import quantize
    from hedgerow.commands.model_validate import validate

    for command in (quantize, validate, bench, prove):
        model.add_command(command)


_add_proving()
