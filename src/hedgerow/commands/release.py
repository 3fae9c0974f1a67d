"""``hedgerow release``: judge a version lock before a host is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import UsageError
from hedgerow.inventory import FleetRelease, Inventory
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.registry import bundle as bundles
from hedgerow.registry.authority.session import store_of_stage
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.release import Combination, Finding, Rule, check, gather, pages, refuse, solver
from hedgerow.release.rules import RULES
from hedgerow.runtime import extras, wheelhouse
from hedgerow.runtime.target import Target

_BOARD_ARCHITECTURE = "aarch64"


@click.group()
def release() -> None:
    """Judge a version lock."""


@release.command(name="check")
@inventory_option
@click.option("--lock", type=click.Path(path_type=Path), help="Another lock instead of the inventory's: a YAML file.")
@click.option("--bundle", help="Hold a bundle to the lock, too: its folder, or NAME@VERSION of the registry.")
@click.option(
    "--wheels", type=click.Path(exists=True, path_type=Path), help="Wheels of the runtime: folder or archive."
)
@json_option
def check_(*, path: Path, lock: Path | None, bundle: str | None, wheels: Path | None, as_json: bool) -> None:
    """Say whether the lock can work on the fleet's boards.

    Driver, library, firmware, kernel, page size, headers, bootloader, Mender,
    archives, suite, HATs and a bundle are held to what is known of them. What is
    broken, or known to nobody, is refused with the rule (exit code 3);
    `fleet_release.allow` takes rules that are called opt-in or unverified.

    `playbooks/site.yml` and `upgrade.yml` ask the same before they touch a host.
    """
    fleet = inventories.load(path)
    wanted = fleet.release if lock is None else read_lock(lock)
    of = gather.combination(
        wanted,
        fleet.hosts,
        folder=path if path.is_dir() else path.parent,
        bundle=None if bundle is None else _manifest(fleet, bundle),
        odd_binaries=_odd_binaries(wanted, fleet, wheels),
    )
    findings = check(of)
    if as_json:
        print_json(_as_dict(of, findings))
    else:
        _show(of, findings)
    refuse(
        findings,
        name=wanted.name,
        where=str(lock or path),
        next_step=f"change fleet_release, then: hedgerow release check -i {path}",
    )


@release.command()
@json_option
def rules(*, as_json: bool) -> None:
    """List every rule: what it says, where that is known from, what breaking it means."""
    if as_json:
        print_json([_rule(rule) for rule in RULES])
        return
    rows = [(rule.id, str(rule.status), rule.says, rule.source) for rule in RULES]
    print_table(None, ("rule", "status", "says", "source"), rows)


def read_lock(file: Path) -> FleetRelease:
    """A lock from a YAML file that has ``fleet_release``, as in ``group_vars/all/release.yml``.

    Raises:
        UsageError: no such file, no YAML, no lock in it, or a wrong one.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UsageError(f"the lock cannot be read: {' '.join(str(error).split())}", where=str(file)) from error
    if not isinstance(document, dict) or "fleet_release" not in document:
        raise UsageError(
            "there is no fleet_release in it", where=str(file), next_step="a file like group_vars/all/release.yml"
        )
    return gather.lock(document["fleet_release"], where=str(file))


def _manifest(fleet: Inventory, bundle: str) -> Manifest:
    if "@" in bundle:
        return trusted(store_of_stage(fleet.fleet, fleet.registry_stage), Reference.parse(bundle))[0]
    return bundles.load(Path(bundle)).manifest


def _odd_binaries(wanted: FleetRelease, fleet: Inventory, wheels: Path | None) -> dict[str, int] | None:
    """Of the wheels that were named, else of the boards' runtimes where all were built already."""
    if wheels is not None:
        return pages.odd(wheels)
    target = Target(wanted.runtime.python, _BOARD_ARCHITECTURE)
    found: dict[str, int] = {}
    for added in {extras.of_host(host.name, host.vars) for host in fleet.pis} or {()}:
        archives = sorted(wheelhouse.describe(target, extras=added)[1].glob("*.tar"))
        if not archives:
            return None
        found |= pages.odd(archives[0])
    return found


def _show(of: Combination, findings: list[Finding]) -> None:
    broken = {finding.rule.id: finding for finding in reversed(findings)}
    rows = [
        (rule.id, str(rule.status), _not_asked(of, rule) or _verdict(broken.get(rule.id)), rule.source)
        for rule in RULES
        if rule.id in broken or rule.status.value == "forbidden"
    ]
    print_table(f"version lock {of.release.name} for {len(of.hosts)} hosts", ("rule", "status", "", "source"), rows)
    for finding in findings:
        if not finding.refused:
            out.print(
                f"allowed: {finding.what} ({finding.rule.id}: {finding.reason})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    for name in solver.idle_allowances(of, findings):
        out.print(f"allow.{name} allows nothing any more: remove it", markup=False, highlight=False)


def _not_asked(of: Combination, rule: Rule) -> str | None:
    """Why a rule had nothing to judge: no ok without a look."""
    if rule.id == "binary-pages" and of.odd_binaries is None:
        return "not asked: boards' wheels were not all built (hedgerow runtime build --arch aarch64, with the same -i)"
    if rule.id.startswith(("bundle-", "hef-")) and of.bundle is None:
        return "not asked: name a bundle"
    if rule.id in {"archive-key", "mender-archive"} and not of.sources:
        return "not asked: no archive of the fleet's own"
    return None


def _verdict(finding: Finding | None) -> str:
    if finding is None:
        return "ok"
    return f"refused: {finding.what}" if finding.refused else "allowed"


def _as_dict(of: Combination, findings: list[Finding]) -> dict[str, Any]:
    return {
        "release": msgspec.to_builtins(of.release),
        "hosts": sorted(of.hosts),
        "refused": any(finding.refused for finding in findings),
        "findings": [
            _rule(finding.rule) | {"what": finding.what, "refused": finding.refused, "reason": finding.reason}
            for finding in findings
        ],
        "not_asked": {rule.id: why for rule in RULES if (why := _not_asked(of, rule)) is not None},
        "idle_allowances": solver.idle_allowances(of, findings),
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {"rule": rule.id, "status": str(rule.status), "says": rule.says, "source": rule.source}
