"""``hedgerow rollout lint``: is a policy right, and does it make sense?"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.errors import ExitCode, UsageError
from hedgerow.inventory.model import Inventory
from hedgerow.output import json_option, out, print_json
from hedgerow.rollout import lint as linting
from hedgerow.rollout import prepare
from hedgerow.rollout.lint import Finding, Fleet


@click.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option(
    "-i",
    "--inventory",
    "path",
    type=click.Path(path_type=Path),
    help="Hold it against this fleet as well; without FILE, its own rollout_policy.",
)
@json_option
def lint(*, file: Path | None, path: Path | None, as_json: bool) -> int:
    """Say what is wrong with the policy in FILE, and what in it nobody can have meant.

    Exit code 0: nothing, or warnings alone; 2: errors.
    """
    if file is None and path is None:
        raise click.UsageError("say which policy: hedgerow rollout lint FILE, or -i INVENTORY for that of a fleet")
    found = None if path is None else inventories.load(path)
    findings = _findings(file, found)
    errors = sum(each.severity == "error" for each in findings)
    where = str(file or path)
    if as_json:
        print_json({"policy": where, "errors": errors, "findings": msgspec.to_builtins(findings)})
    else:
        for each in findings:
            _say(f"{each.severity}: {each.key}: {each.what}\n  next: {each.next}")
        _say(f"{where}: {errors} error(s), {len(findings) - errors} warning(s)")
    return int(ExitCode.USAGE if errors else ExitCode.OK)


def _findings(file: Path | None, found: Inventory | None) -> list[Finding]:
    own = None if found is None else found.vars.get("rollout_policy")
    try:
        policy = prepare.read_policy(own if file is None else str(file))
    except UsageError as error:
        return [Finding("error", error.where or "", error.what, error.next_step or "")]
    return linting.findings(policy, datetime.now(UTC), None if found is None else _fleet(found))


def _fleet(found: Inventory) -> Fleet:
    targets = [prepare.target(host.name, host.vars, limited=False) for host in found.pis]
    return Fleet(targets, found.vars.get("rollout_approvers") or {})


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
