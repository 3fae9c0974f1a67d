"""``hedgerow demo``."""

from __future__ import annotations

import time
from pathlib import Path

import click

from hedgerow import output, paths
from hedgerow.demo import runner, steps


@click.command()
@click.option(
    "-i",
    "--inventory",
    type=click.Path(path_type=Path, exists=True),
    default=Path("inventory/emulated"),
    show_default=True,
    help="An inventory of emulated hosts.",
)
def demo(inventory: Path) -> None:
    """From nothing to three serving emulated Pis, every step named.

    Every step is idempotent: cut it off anywhere and run it again. A second run changes nothing.
    """
    root = paths.repository_root()
    started = time.monotonic()
    run = runner.Runner(cwd=root, log_dir=paths.var_dir() / "demo" / "logs")
    bundle_dir = paths.var_dir() / "demo" / f"{steps.BUNDLE_NAME}-{steps.BUNDLE_VERSION}"
    run.run(steps.build(inventory, bundle_dir))
    total = time.monotonic() - started
    runner.write_timings(paths.var_dir() / "demo" / "timings.json", run.timings, total)
    output.print_table("What to try next", ("command", "shows"), steps.what_next(inventory))
    output.step(f"done in {total:.0f} s")
