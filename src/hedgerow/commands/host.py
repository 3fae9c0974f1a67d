"""``hedgerow host``: one host, explained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import explain as explanations
from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.device import hat_chain
from hedgerow.errors import ExitCode, HedgerowError, UsageError
from hedgerow.inventory import Host, Inventory, files
from hedgerow.inventory.problem import brief, did_you_mean
from hedgerow.lifecycle import adoption, look
from hedgerow.output import json_option, out, print_json, print_table


@click.group()
def host() -> None:
    """One host, explained."""


@host.command()
@click.argument("name", metavar="HOST")
@inventory_option
@click.option("--offline", is_flag=True, help="Only what the inventory says; do not log in.")
@json_option
def explain(*, name: str, path: Path, offline: bool, as_json: bool) -> None:
    """Say why a host is as it is.

    What the inventory says and in which file, what the host reports, and where the two differ, in plain words.
    """
    fleet = inventories.load(path)
    target = _named(fleet, name, path)
    origins = explanations.origins(target, files.read(path))
    reported: dict[str, Any] | None = None
    problem: str | None = "not asked" if offline else None
    if not offline:
        try:
            reported = explanations.ask(fleet, target)
        except HedgerowError as error:
            problem = error.what
    differences = explanations.differences(target, fleet.release, reported) if reported else []
    if as_json:
        print_json(
            {
                "host": name,
                "fleet": fleet.fleet,
                "groups": target.groups,
                "inventory": [msgspec.to_builtins(origin) for origin in origins],
                "reported": reported,
                "problem": problem,
                "differences": differences,
            }
        )
        return
    out.print(f"{name}: {_in_a_sentence(target)} of fleet {fleet.fleet}", highlight=False, soft_wrap=True)
    print_table("what the inventory says", ("key", "value", "from"), map(_row, origins))
    if reported is None:
        out.print(f"the host reports nothing: {problem}", highlight=False, soft_wrap=True)
        return
    print_table("what the host reports", ("what", "value"), _report(reported))
    if not differences:
        out.print("the host is what the inventory says", highlight=False)
    for difference in differences:
        out.print(f"differs: {difference}", markup=False, highlight=False, soft_wrap=True)


@host.command()
@click.argument("name", metavar="HOST")
@inventory_option
@click.option("--accept-new-host-key", is_flag=True, help="Pin the key it shows, where nobody could tell which it has.")
@json_option
def survey(*, name: str, path: Path, accept_new_host_key: bool, as_json: bool) -> int:
    """Look at a Pi that already runs something: what adopting it would block on, break or change.

    Changes nothing on it. Exit code 0: nothing blocks; 3: something does. playbooks/adopt.yml goes on from here.
    """
    fleet = inventories.load(path)
    target = _named(fleet, name, path)
    found = look.look(fleet, target, accept_new=accept_new_host_key)
    blocked = adoption.blocks(found)
    if as_json:
        print_json({"host": name, "blocks": blocked, "findings": [msgspec.to_builtins(one) for one in found]})
    else:
        rows = [(str(one.weight), one.area, one.what, one.then) for one in found]
        print_table(f"adopting {name}", ("", "about", "what is there", "then"), rows)
    return ExitCode.REFUSED if blocked else ExitCode.OK


def _named(fleet: Inventory, name: str, path: Path) -> Host:
    target = fleet.hosts.get(name)
    if target is None:
        raise UsageError(
            f"no host {name}", where=str(path), next_step=did_you_mean(name, fleet.hosts) or ", ".join(fleet.hosts)
        )
    return target


def _in_a_sentence(target: Host) -> str:
    part = "a gateway" if target.is_gateway else "a Pi that serves"
    hat = "no HAT" if target.hat == "none" else target.hat
    return f"{part} at site {target.site}, {hat}, {target.cooling} cooling, {target.storage}"


def _row(origin: explanations.Origin) -> tuple[str, str, str]:
    place = origin.place or "not in a YAML file"
    return origin.key, brief(origin.value), place + "".join(f"\ninstead of {one}" for one in origin.overrides)


def _chain(reported: dict[str, Any]) -> str:
    text: str = hat_chain.prove(reported["hardware"], reported.get("npu"))["text"]
    return text


def _report(reported: dict[str, Any]) -> list[tuple[str, Any]]:
    hardware, state = reported["hardware"], reported["state"]
    hat, throttled = hardware["hat"], hardware["throttled"]
    models = {name: links["current"] for name, links in state["models"].items()}
    return [
        ("board", f"{hardware['board']['model']}, {hardware['board']['memory_mb']} MB"),
        ("serial", hardware["board"]["serial"]),
        ("HAT", hat["kind"] if hat["kind"] == "none" else f"{hat['kind']}: {_chain(reported)}"),
        ("HAT driver, library, firmware", _listed(hat, "driver_version_loaded", "library_version", "firmware_version")),
        ("system", state["os"].get("pretty_name")),
        ("kernel", hardware["kernel"]["release"]),
        ("bootloader", hardware["eeprom"]["bootloader_version"]),
        ("temperature", None if hardware["thermal"]["soc_c"] is None else f"{hardware['thermal']['soc_c']} °C"),
        ("throttled", None if throttled is None else ", ".join(explanations.trouble(hardware)) or "no"),
        ("runtime", state["runtime"]["current"]),
        ("models", ", ".join(f"{name} {version}" for name, version in models.items()) or None),
        ("reboot required", "yes" if state["reboot_required"] else "no"),
    ]


def _listed(values: dict[str, Any], *keys: str) -> str | None:
    return ", ".join(str(values[key] or "unknown") for key in keys) if any(values[key] for key in keys) else None
