"""``hedgerow model bench``: what a bundle takes on this machine."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hedgerow.errors import UsageError
from hedgerow.output import err, json_option, print_json, print_table, step

if TYPE_CHECKING:
    from hedgerow.models.measure import Measured
    from hedgerow.registry.manifest import Expectation

_CONDITIONS = ("full-power", "throttled", "cold-start")


@click.command("bench")
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--variant", help="This variant alone (default: each of them).")
@click.option(
    "--condition", "conditions", multiple=True, type=click.Choice(_CONDITIONS), help="This one alone; repeat it."
)
@click.option("--requests", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Measured requests.")
@click.option("--tokens", type=click.IntRange(2, 512), default=64, show_default=True, help="Longest answer, in tokens.")
@click.option("--threads", type=click.IntRange(1, 64), default=1, show_default=True, help="Threads of the model.")
@click.option("--write", is_flag=True, help="Put the figures into the bundle's manifest.")
@json_option
def bench(  # noqa: PLR0917 -- click passes them by name
    bundle: Path,
    variant: str | None,
    conditions: tuple[str, ...],
    requests: int,
    tokens: int,
    threads: int,
    *,
    write: bool,
    as_json: bool,
) -> None:
    """Time BUNDLE's first golden question on this machine: full power, throttled, cold start.

    \b
    Example:
      hedgerow model bench bundles/small --threads 4 --write

    Run it on a board like those that will serve the bundle: the figures go into the manifest with the machine that they
    are from. Throttled means a quota of processor time, where this machine can give one. Where others kept the
    processors busy nothing is written (exit code 3).
    """  # noqa: D301 -- click's mark for a paragraph as it stands
    from hedgerow.models import measure  # numpy, onnxruntime: --help must not pay for them

    chosen = tuple(each for each in measure.CONDITIONS if each in conditions) or measure.CONDITIONS
    plan = measure.Plan(chosen, requests=requests, max_tokens=tokens, threads=threads)
    known = measure.names(bundle)
    if variant is not None and variant not in known:
        raise UsageError(
            f"no variant is called {variant!r}; these are: {', '.join(each or 'none' for each in known)}",
            where=str(bundle),
            next_step="name one of them, or leave out --variant",
        )
    today = datetime.now(UTC).date()
    wanted = known if variant is None else [variant]
    found = [measure.measure(bundle, plan, today=today, variant=each, progress=step) for each in wanted]
    _show(found, as_json=as_json)
    if write:
        measure.write(bundle, found)


_FIGURES = {
    "p50_ms": "p50 ms",
    "p95_ms": "p95 ms",
    "ttft_p50_ms": "first token ms",
    "tokens_per_s": "tokens/s",
    "load_ms": "load ms",
    "peak_memory_mb": "peak MB",
}


def _show(found: list[Measured], *, as_json: bool) -> None:
    import msgspec

    if as_json:
        print_json([
            {"variant": each.variant, "expectations": msgspec.to_builtins(each.expectations), "remarks": each.remarks}
            for each in found
        ])  # fmt: skip
        return
    shown = [(each.variant, expectation) for each in found for expectation in each.expectations]
    used = {name: text for name, text in _FIGURES.items() if any(getattr(each, name) is not None for _, each in shown)}
    print_table(None, ("variant", "condition", *used.values()), [_row(name, each, used) for name, each in shown])
    if shown:
        machine = shown[0][1].machine
        step(f"on {machine.model}, {machine.processor}, {machine.memory_mb} MB")
    for each in found:
        for remark in each.remarks:
            err.print(f"[yellow]remark:[/yellow] {remark}", highlight=False)


def _row(variant: str | None, each: Expectation, used: dict[str, str]) -> tuple[Any, ...]:
    return (variant, each.condition, *(getattr(each, name) for name in used))
