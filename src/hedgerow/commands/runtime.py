"""``hedgerow runtime``: the wheelhouse that devices install."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from hedgerow import output
from hedgerow.paths import repository_root
from hedgerow.runtime import extras, wheelhouse
from hedgerow.runtime.target import GLIBC_MINOR, OLDEST_GLIBC_MINOR, Target


@click.group()
def runtime() -> None:
    """Build the wheelhouse that devices install."""


@runtime.command()
@click.option(
    "-i",
    "--inventory",
    type=click.Path(exists=True, path_type=Path),
    help="Build what the hosts of this inventory need (default: inventory/emulated, unless --arch is given).",
)
@click.option("--python", type=click.Choice(list(GLIBC_MINOR)), help="The device's Python.")
@click.option(
    "--arch", type=click.Choice(list(OLDEST_GLIBC_MINOR)), help="The device's architecture; real boards: aarch64."
)
@click.option(
    "--extra",
    "added",
    multiple=True,
    type=click.Choice(list(extras.EXTRAS)),
    help="An extra beside device; repeatable (default: inference_runtime_extras of the inventory's hosts).",
)
@output.json_option
def build(
    inventory: Path | None, python: str | None, arch: str | None, added: tuple[str, ...], *, as_json: bool
) -> None:
    """Download, verify and pack all wheels of the device lock, of the extras', and Hedgerow's own.

    Cached by content: an unchanged tree builds nothing. `playbooks/site.yml`
    builds what it lacks by itself; this shows it beforehand.
    """
    built = []
    for target, chosen in _wanted(inventory, python, arch, extras.chosen(added, where="--extra")):
        if not as_json:
            output.step(f"runtime {wheelhouse.describe(target, extras=chosen)[0]} for {_named(target, chosen)}")
        built.append(wheelhouse.build(target, extras=chosen))
    if as_json:
        output.print_json(
            {
                "changed": any(fresh for _, fresh in built),
                "wheelhouses": [msgspec.to_builtins(house) | {"built": fresh} for house, fresh in built],
            }
        )
        return
    output.print_table(
        None,
        ["version", "python", "architecture", "extras", "wheels", "MiB", ""],
        [_row(house, fresh=fresh) for house, fresh in built],
    )


def _row(house: wheelhouse.Wheelhouse, *, fresh: bool) -> list[object]:
    size = f"{house.size / 2**20:.1f}"
    described = [house.version, house.python, house.architecture, ", ".join(house.extras), house.wheels]
    return [*described, size, "built" if fresh else "cached"]


def _named(target: Target, chosen: Sequence[str]) -> str:
    return " with ".join(filter(None, (target.name, ", ".join(chosen))))


def _wanted(
    inventory: Path | None, python: str | None, arch: str | None, added: tuple[str, ...]
) -> list[tuple[Target, tuple[str, ...]]]:
    """What was asked for; else what the inventory's Pis run. Containers share this machine's architecture."""
    if python is not None and arch is not None:
        return [(Target(python, arch), added)]
    from hedgerow.inventory import load

    fleet = load(inventory or repository_root() / "inventory" / "emulated")
    wanted = {
        (arch or host.architecture or platform.machine(), added or extras.of_host(host.name, host.vars))
        for host in fleet.pis
    }
    return [
        (Target(python or fleet.release.runtime.python, architecture), chosen)
        for architecture, chosen in sorted(wanted or {(arch or "aarch64", added)})
    ]
