"""``hedgerow registry``: init, publish, refresh, verify, list, show; the commands of stages are modules beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.commands import registry_keys, registry_offline, registry_releases, registry_store
from hedgerow.commands.inventory import inventory_option
from hedgerow.commands.registry_keys import init_options, init_stage, refresh_stage
from hedgerow.commands.registry_stages import passphrase_option
from hedgerow.errors import PublisherError
from hedgerow.output import err, json_option, out, print_json, print_table
from hedgerow.registry import bundle as bundles
from hedgerow.registry.publish import Registry
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.registry.verify import verify as verify_store


@click.group()
def registry() -> None:
    """Sign, publish and verify bundles.

    The embedded default is a folder on the controller; playbooks/publish.yml brings it to the gateways.
    """


@registry.command()
@init_options
@inventory_option
@json_option
def init(*, path: Path, as_json: bool, stage: str | None, **options: Any) -> int:
    """Make signing keys and first metadata; does nothing where they are there."""
    fleet = inventories.load(path).fleet
    if stage is not None:
        return init_stage(fleet, stage, as_json=as_json, **options)
    changed = Registry.of_fleet(fleet).init()
    folder = paths.fleet_dir(fleet)
    if as_json:
        print_json({"changed": changed, "registry": folder / "registry", "signing": folder / "signing"})
    else:
        out.print(f"{'made' if changed else 'there already is'} the registry of fleet {fleet}", soft_wrap=True)
        if changed:
            out.print(f"its keys sign releases; keep a copy offline: {folder / 'signing'}", soft_wrap=True)
    return 0


@registry.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@inventory_option
@json_option
def publish(*, bundle: Path, path: Path, as_json: bool) -> None:
    """Verify the bundle in folder BUNDLE, sign it and make it available."""
    target = Registry.of_fleet(inventories.load(path).fleet)
    with _progress(f"verifying {bundle.name}", bundles.load(bundle).manifest.size) as advance:
        done = target.publish(bundle, on_bytes=advance)
    if as_json:
        print_json(
            {
                "changed": done.changed,
                "bundle": str(done.reference),
                "sha256": done.sha256,
                "new_bytes": done.new_bytes,
            }
        )
    else:
        text = f"published, {done.new_bytes / 1e6:.1f} MB new" if done.changed else "is published already"
        out.print(f"{done.reference} {text} (manifest {done.sha256[:12]})", soft_wrap=True)


@registry.command()
@click.option("--stage", help="Of this stage (default: of the registry without stages).")
@passphrase_option
@inventory_option
@json_option
def refresh(*, path: Path, as_json: bool, stage: str | None, passphrase_files: tuple[str, ...]) -> int:
    """Sign anew what expires soon. Run it daily: devices refuse metadata that has expired."""
    if stage is not None:
        return refresh_stage(path, stage, passphrase_files=passphrase_files, as_json=as_json)
    target = Registry.of_fleet(inventories.load(path).fleet)
    changed = target.refresh()
    if as_json:
        print_json({"changed": bool(changed), "roles": changed, "expires": target.expiries()})
    else:
        out.print(f"signed anew: {', '.join(changed)}" if changed else "nothing expires soon")
    return 0


@registry.command()
@inventory_option
@json_option
def verify(*, path: Path, as_json: bool) -> int:
    """Walk the whole registry as a device would: signatures, then every byte."""
    fleet = inventories.load(path).fleet
    store = paths.fleet_dir(fleet) / "registry"
    found = verify_store(store, Registry.of_fleet(fleet).references())
    if as_json:
        print_json({str(each): [error.as_dict() for error in errors] for each, errors in found.items()})
    else:
        rows = [
            (each, "ok" if not errors else "\n".join(str(error) for error in errors)) for each, errors in found.items()
        ]
        print_table(f"registry of fleet {fleet}", ("bundle", "verdict"), rows)
    return int(PublisherError.exit_code) if any(found.values()) else 0


@registry.command("list")
@inventory_option
@json_option
def list_bundles(*, path: Path, as_json: bool) -> None:
    """Show what is published, and until when the metadata holds."""
    fleet = inventories.load(path).fleet
    target = Registry.of_fleet(fleet)
    store = paths.fleet_dir(fleet) / "registry"
    rows = [(each, *trusted(store, each)) for each in target.references()]
    expiries = target.expiries()
    if as_json:
        listed = [
            {"bundle": str(each), "format": m.format, "bytes": m.size, "license": m.license} for each, m, _ in rows
        ]
        print_json({"bundles": listed, "expires": expiries})
        return
    print_table(
        f"registry of fleet {fleet}",
        ("bundle", "format", "MB", "license"),
        [(each, m.format, f"{m.size / 1e6:.1f}", m.license) for each, m, _ in rows],
    )
    now = datetime.now(UTC)
    out.print("metadata ends: " + ", ".join(f"{role} {_until(at - now)}" for role, at in expiries.items()))


@registry.command()
@click.argument("bundle")
@inventory_option
@json_option
def show(*, bundle: str, path: Path, as_json: bool) -> None:  # noqa: ARG001 - a manifest is JSON either way
    """Show the verified manifest of NAME@VERSION as JSON."""
    store = paths.fleet_dir(inventories.load(path).fleet) / "registry"
    manifest: Any = msgspec.to_builtins(trusted(store, Reference.parse(bundle))[0])
    print_json(manifest)


for _command in (
    registry_store.gc,
    registry_store.push,
    registry_store.export,
    registry_keys.add_key,
    registry_keys.delegate,
    registry_releases.stage,
    registry_releases.approve,
    registry_releases.release,
    registry_releases.promote,
    registry_releases.withdraw,
    registry_keys.rotate,
    registry_keys.revoke,
    registry_keys.renew,
    registry_keys.discard,
    registry_offline.request,
    registry_offline.sign,
    registry_offline.import_,
    registry_offline.log_,
    registry_offline.ceremony,
):
    registry.add_command(_command)


def _until(span: timedelta) -> str:
    if span < timedelta(0):
        return "has ended"
    return f"in {span.days} d" if span > timedelta(days=2) else f"in {span.total_seconds() / 3600:.0f} h"


class _progress:  # noqa: N801 - used as a function
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self, text: str, total: int) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
        self._progress = Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
        self._task = self._progress.add_task(text, total=total)

    def __enter__(self) -> Any:
        self._progress.start()
        return lambda count: self._progress.advance(self._task, count)

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
