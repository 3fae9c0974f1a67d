"""``hedgerow emulate``: build, boot, alter and remove emulated Pi hosts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import click

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.emulator import checks
from hedgerow.emulator import values as live
from hedgerow.emulator.fleet import HostStatus, Power
from hedgerow.emulator.hosts import EmulatedHosts, remove_all
from hedgerow.emulator.vm import checks as vm_checks
from hedgerow.emulator.vm.host import BOOTED
from hedgerow.errors import ExitCode, UsageError
from hedgerow.output import json_option, print_json, print_table, step

F = TypeVar("F", bound=Callable[..., Any])


def inventory_option(function: F) -> F:
    return click.option(
        "-i",
        "--inventory",
        type=click.Path(path_type=Path),
        default=lambda: paths.repository_root() / "inventory" / "emulated",
        show_default="inventory/emulated",
        help="The fleet's inventory.",
    )(function)


limit_option = click.option("--limit", metavar="PATTERN", help="Only these hosts (an Ansible pattern).")


@click.group()
def emulate() -> None:
    """Emulated Raspberry Pi 5 hosts on this machine.

    \b
      hedgerow emulate check             what this machine lacks
      hedgerow emulate up                boot the fleet of inventory/emulated
      hedgerow emulate set pi-orchard-1 temperature_c=84 throttled=0x50005
      hedgerow emulate power pi-orchard-2 off
      hedgerow emulate down              leave nothing behind
    """  # noqa: D301 - click's mark for a paragraph as it stands


@emulate.command()
@click.option("--vm", is_flag=True, help="What virtual machines need, instead of what containers need.")
@json_option
def check(*, vm: bool, as_json: bool) -> int:
    """Tell what this machine lacks to emulate hosts, why, and what to type."""
    rows = vm_checks.check() if vm else checks.check()
    missing = [row for row in rows if row.essential and not row.ok]
    packages = vm_checks.missing_packages(rows) if vm else checks.missing_packages(rows)
    if as_json:
        print_json({"ok": not missing, "install": packages, "requirements": [asdict(row) for row in rows]})
    else:
        verdicts = {True: "ok", False: "missing"}
        print_table(
            None,
            ["requirement", "kind", "verdict", "found"],
            [(row.name, row.kind, verdicts[row.ok] if row.essential or row.ok else "note", row.found) for row in rows],
        )
        for row in rows:
            if not row.ok:
                click.echo(f"{row.name}: {row.why}" + (f"; type: {row.fix}" if row.fix else ""))
        if packages:
            click.echo(f"all at once: apt-get install {' '.join(packages)}")
    return int(ExitCode.FAILED if missing else ExitCode.OK)


@emulate.command()
@inventory_option
@json_option
def image(*, inventory: Path, as_json: bool) -> None:
    """Build the Debian images once; later runs find them in the cache."""
    changed, tags = _fleet(inventory).build_images()
    if as_json:
        print_json({"changed": changed, "images": tags})
    else:
        click.echo("\n".join(tags))


@emulate.command()
@inventory_option
@limit_option
@click.option("--recreate", is_flag=True, help="Replace hosts whose image or settings changed; their disks are lost.")
@json_option
def up(*, inventory: Path, limit: str | None, recreate: bool, as_json: bool) -> None:
    """Boot hosts and wait until systemd runs and SSH answers; hosts that run are left alone."""
    fleet = _fleet(inventory)
    started = time.monotonic()
    hosts = fleet.up(_limited(fleet, inventory, limit), recreate=recreate)
    seconds = round(time.monotonic() - started, 1)
    if as_json:
        changed = any(host.changed for host in hosts)
        print_json({"changed": changed, "hosts": [asdict(host) for host in hosts], "seconds": seconds})
    else:
        _table(hosts, f"fleet {fleet.name}: {len(hosts)} hosts up in {seconds} s")
        port = inventories.load(inventory).hosts[hosts[0].host].port
        login = f"ssh -i {fleet.first_contact_key} -p {port} pi@{hosts[0].address}"
        click.echo(f"first contact: {login}", err=True)


@emulate.command()
@inventory_option
@click.option("--all", "every", is_flag=True, help="Every fleet that was started here, not only the inventory's.")
@click.option("--purge-images", is_flag=True, help="Remove the cached images, too.")
@json_option
def down(*, inventory: Path, every: bool, purge_images: bool, as_json: bool) -> None:
    """Remove the fleet's containers, network and state."""
    remove = remove_all if every else _fleet(inventory).down
    removed = remove(purge_images=purge_images)
    if as_json:
        print_json({"changed": bool(removed), "removed": removed})
    else:
        click.echo("\n".join(f"removed {name}" for name in removed) or "nothing to remove")


@emulate.command()
@inventory_option
@limit_option
@json_option
def status(*, inventory: Path, limit: str | None, as_json: bool) -> None:
    """Show what each host is now."""
    fleet = _fleet(inventory)
    hosts = fleet.status(_limited(fleet, inventory, limit))
    if as_json:
        print_json({"hosts": [asdict(host) for host in hosts]})
    else:
        _table(hosts, f"fleet {fleet.name}")


@emulate.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@inventory_option
@click.argument("host")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(*, inventory: Path, host: str, command: tuple[str, ...]) -> int:
    """Run a program as root in a host: hedgerow emulate exec HOST -- CMD ARG ...

    The exit code is the program's.
    """
    argv = command[1:] if command[0] == "--" else command
    return _fleet(inventory).attach(host, argv, tty=sys.stdin.isatty() and sys.stdout.isatty())


@emulate.command()
@inventory_option
@click.argument("host")
@click.argument("state", type=click.Choice(["on", "off", "cycle"]))
@json_option
def power(*, inventory: Path, host: str, state: Power, as_json: bool) -> None:
    """Cut or give a host's power. Off is hard, as a pulled plug; the disk is kept."""
    result = _fleet(inventory).power(host, state)
    if as_json:
        print_json(asdict(result))
    else:
        _table([result], None)


@emulate.command()
@inventory_option
@click.argument("host")
@click.argument("name")
def snapshot(*, inventory: Path, host: str, name: str) -> None:
    """Keep a running virtual machine under NAME: memory, devices and disks. Containers have none."""
    _fleet(inventory).snapshot(host, name)


@emulate.command()
@inventory_option
@click.argument("host")
@click.argument("name", default=BOOTED)
@json_option
def restore(*, inventory: Path, host: str, name: str, as_json: bool) -> None:
    """Bring a virtual machine back to a snapshot in seconds; NAME is `booted` unless given (made by `up`)."""
    result = _fleet(inventory).restore(host, name)
    if as_json:
        print_json(asdict(result))
    else:
        _table([result], None)


@emulate.command("set", epilog="Keys: " + ", ".join(live.KEYS))
@inventory_option
@click.argument("host")
@click.argument("settings", nargs=-1, required=True, metavar="KEY=VALUE...")
@json_option
def set_(*, inventory: Path, host: str, settings: tuple[str, ...], as_json: bool) -> None:
    """Change live values of a host's board, seen by the guest at once."""
    pairs: dict[str, object] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise UsageError(f"{setting!r} is not KEY=VALUE", next_step=f"keys: {', '.join(live.KEYS)}")
        pairs[key] = value
    _show_values(host, _fleet(inventory).set_values(host, **pairs), as_json=as_json, only=set(pairs))


@emulate.command()
@inventory_option
@click.argument("host")
@json_option
def get(*, inventory: Path, host: str, as_json: bool) -> None:
    """Show the live values of a host's board."""
    _show_values(host, _fleet(inventory).values(host), as_json=as_json)


def _fleet(inventory: Path) -> EmulatedHosts:
    return EmulatedHosts(inventories.load(inventory), say=step)


def _limited(fleet: EmulatedHosts, inventory: Path, limit: str | None) -> list[str] | None:
    if limit is None:
        return None
    chosen = [name for name in inventories.load(inventory, limit=limit).hosts if name in fleet.hosts]
    if not chosen:
        raise UsageError(f"--limit {limit} matches no emulated host", next_step=f"hosts: {', '.join(fleet.hosts)}")
    return chosen


def _table(hosts: list[HostStatus], title: str | None) -> None:
    print_table(
        title,
        ["host", "address", "hat", "state", "ssh"],
        [
            (
                host.host,
                host.address,
                host.hat,
                f"{host.state}, outdated" if host.outdated else host.state,
                "yes" if host.ssh else "no",
            )
            for host in hosts
        ],
    )


def _show_values(host: str, values: live.Values, *, as_json: bool, only: set[str] | None = None) -> None:
    if as_json:
        print_json(values)
        return
    print_table(
        host,
        ["key", "value", "allowed", "stands for"],
        [
            (key, "none" if value is None else value, live.KEYS[key].form, live.KEYS[key].help)
            for key, value in values.items()
            if only is None or key in only
        ],
    )
