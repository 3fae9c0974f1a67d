"""How ``stage`` and ``activate`` fetch a model or an application; ``hedgerow-device cache``: the store of models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hedgerow.device import config as configs
from hedgerow.device import hardware
from hedgerow.device.change import Change, Kind
from hedgerow.device.cli_options import config_option, json_option, show
from hedgerow.device.config import DeviceConfig
from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry.reference import Reference

if TYPE_CHECKING:
    from hedgerow.device.store.terms import Device, Staged
    from hedgerow.registry.client.trusted import Trusted
    from hedgerow.registry.source import HttpsSource

_MB = 1 << 20
FETCHED: tuple[Kind, ...] = ("model", "application")
"""Kinds that a registry has; others are brought."""


def fetch_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give ``stage`` its options for fetching: ``plan`` and ``in_window``."""
    in_window = click.option("--in-window", is_flag=True, help="Fetch inside of the device's download window alone.")
    plan = click.option("--plan", is_flag=True, help="Fetch nothing: print what would come, and from where.")
    return plan(in_window(command))


variant_option = click.option(
    "--variant", metavar="NAME", help="Of a bundle with several; else the best for this board's HAT and memory."
)


def check_options(change: Change, *, plan: bool, in_window: bool, here: bool) -> None:
    """Refuse options that say nothing together.

    Raises:
        UsageError: names them.
    """
    given = [name for name, is_given in (("--plan", plan), ("--in-window", in_window), ("--here", here)) if is_given]
    if len(given) > 1:
        raise UsageError(f"{' and '.join(given)} exclude each other", next_step="hedgerow-device stage --help")
    if change.kind not in FETCHED and (plan or in_window):
        raise UsageError(
            f"{given[0]} is for models and applications, which a registry has",
            next_step=f"hedgerow-device stage {change}, without it",
        )


def fetch(
    config: DeviceConfig,
    change: Change,
    registry_url: str | None,
    *,
    variant: str | None = None,
    in_window: bool = False,
) -> Staged:
    """Have a bundle on this device, in deltas. ``in_window``: only while the download window is open.

    Raises:
        RefusedError, PublisherError, NetworkError, PartialError, DeviceError: as ``store.stage.stage``.
    """
    from hedgerow.device.store import stage

    registry, source = _registry(config, registry_url)
    reference = Reference(change.name, change.version)
    return stage.stage(registry, source, reference, _device_for(config, change, variant), at_once=not in_window)


def show_plan(
    config: DeviceConfig, change: Change, registry_url: str | None, *, variant: str | None, as_json: bool
) -> None:
    """Print how a bundle would come; nothing of it is fetched.

    Raises:
        RefusedError, PublisherError, NetworkError, DeviceError: as ``store.stage.look``.
    """
    from hedgerow.device.store import stage, view

    registry, source = _registry(config, registry_url)
    made = stage.look(registry, source, Reference(change.name, change.version), _device_for(config, change, variant))
    show(view.plan_json(made), "" if as_json else view.plan_text(made), as_json=as_json)


def _registry(config: DeviceConfig, registry_url: str | None) -> tuple[Trusted, HttpsSource]:
    # Slow to import, and most commands never fetch.
    from hedgerow.registry.client.trusted import Trusted
    from hedgerow.registry.source import HttpsSource, TlsFiles

    tls = TlsFiles(config.tls.certificate, config.tls.key, config.tls.ca)
    source = HttpsSource(registry_url or config.registry_url, tls, server_name=config.registry_name)
    return Trusted(source, config.trust_dir, synced=hardware.read_clock()), source


@click.group()
def cache() -> None:
    """See, pin and remove the versions that this device keeps."""


@cache.command("list")
@config_option
@json_option
def list_(*, path: Path, as_json: bool) -> None:
    """Print what is here, the latest used first, and why it is kept."""
    from hedgerow.device.store import collect, view, written

    device = device_of(configs.load(path))
    with device.places.still():
        holdings = collect.survey(device.places)
    count = written.read(device.layout.written)
    value = {
        "holdings": [view.holding_json(each) for each in holdings],
        "bytes": sum(each.bytes for each in holdings),
        "written": count.bytes,
        "written_by": count.by,
    }
    show(value, view.holdings_text(holdings, count.bytes), as_json=as_json)


@cache.command()
@click.argument("reference")
@click.option("--reason", default="asked for", show_default=True, help="Why, for whoever wonders later.")
@config_option
@json_option
def pin(*, reference: str, reason: str, path: Path, as_json: bool) -> None:
    """Keep NAME@VERSION, whatever the budget says."""
    from hedgerow.device.store import records
    from hedgerow.device.store.stage import only_one

    wanted = Reference.parse(reference)
    layout = device_of(configs.load(path)).layout
    with only_one(layout):
        if wanted not in set(layout.versions()):
            raise UsageError(
                f"{wanted} is not on this device", where=str(layout.models_dir), next_step="hedgerow-device cache list"
            )
        pins = records.read_pins(layout)
        changed = pins.get(wanted) != reason
        if changed:
            records.write_pins(layout, pins | {wanted: reason})
    show({"changed": changed, "pinned": str(wanted), "reason": reason}, f"{wanted} is pinned", as_json=as_json)


@cache.command()
@click.argument("reference")
@config_option
@json_option
def unpin(*, reference: str, path: Path, as_json: bool) -> None:
    """Let NAME@VERSION go when room is needed."""
    from hedgerow.device.store import records
    from hedgerow.device.store.stage import only_one

    wanted = Reference.parse(reference)
    layout = device_of(configs.load(path)).layout
    with only_one(layout):
        pins = records.read_pins(layout)
        changed = pins.pop(wanted, None) is not None
        if changed:
            records.write_pins(layout, pins)
    text = f"{wanted} is no longer pinned" if changed else f"{wanted} was not pinned"
    show({"changed": changed, "unpinned": str(wanted)}, text, as_json=as_json)


@cache.command()
@click.option("--budget-mb", type=click.IntRange(min=0), help="Another budget than the configured one.")
@click.option("--dry-run", is_flag=True, help="Only tell what would go.")
@config_option
@json_option
def collect(*, budget_mb: int | None, dry_run: bool, path: Path, as_json: bool) -> None:
    """Remove debris, and the longest unused versions beyond the budget; never what is active, pinned or a way back."""
    from hedgerow.device.store import collect as collecting
    from hedgerow.device.store import disk, view
    from hedgerow.device.store.stage import only_one

    device = device_of(configs.load(path))
    budget = device.config.budget_mb if budget_mb is None else budget_mb
    with disk.naming(device.layout.models_dir), only_one(device.layout):
        done = collecting.collect(device.places, budget=None if budget is None else budget * _MB, dry_run=dry_run)
    value = {
        "changed": bool(done.removed) and not dry_run,
        "removed": [view.holding_json(each) for each in done.removed],
        "left": done.left,
        "over": done.over,
    }
    show(value, view.collected_text(done, dry_run=dry_run), as_json=as_json)


def _device_for(config: DeviceConfig, change: Change, variant: str | None) -> Device:
    """The store that ``change`` comes to; an application's has its own, and takes what this device can start alone."""
    if change.kind != "application":
        return device_of(config, variant)
    from hedgerow.device.application import require_application
    from hedgerow.device.store.keep import Places
    from hedgerow.device.store.layout import Layout
    from hedgerow.device.store.terms import Device
    from hedgerow.device.variant import picker

    if change.name not in config.applications:
        raise RefusedError(
            f"this device runs no application {change.name} (rule: named-applications)",
            where="applications in device.yml",
            next_step=f"name it in the inventory, applications: [{change.name}]; then playbooks/site.yml for this host",
        )
    places = Places(
        Layout(config.applications_dir),
        config.activation_dir,
        config.configuration_dir,
        kind="application",
        links_dir=config.application_dir,
    )
    return Device(
        places,
        config.store,
        reserve_mb=config.reserve_mb,
        pick=picker(variant),
        accepts=lambda manifest: require_application(manifest, change, where=f"the registry's {change}"),
    )


def device_of(config: DeviceConfig, variant: str | None = None) -> Device:
    """The store that a device's configuration describes; ``variant`` is what it takes of a bundle that has it."""
    from hedgerow.device.store.keep import Places
    from hedgerow.device.store.layout import Layout
    from hedgerow.device.store.terms import Device
    from hedgerow.device.variant import picker

    places = Places(Layout(config.models_dir), config.activation_dir, config.configuration_dir)
    return Device(places, config.store, reserve_mb=config.reserve_mb, pick=picker(variant))
