"""``hedgerow rollout plan``, ``start`` and ``stage``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import plan_tables, plan_text, policy, prepare, store
from hedgerow.rollout import start as starting
from hedgerow.rollout.plan import Plan

policy_option = click.option(
    "--policy",
    "policy_file",
    type=click.Path(path_type=Path),
    help="Waves, soak and budgets (YAML); without it the inventory's rollout_policy, else the careful defaults.",
)
limit_option = click.option("-l", "--limit", help="Narrow the plan to hosts of this Ansible pattern.")


model_option = click.option(
    "--model", metavar="NAME@VERSION", help="Of what is no model: what hosts serve, where no rollout knows."
)


@click.command()
@click.argument("bundle", metavar="NAME@VERSION", required=False)
@inventory_option
@model_option
@policy_option
@limit_option
@click.option("--policy-schema", is_flag=True, help="Print the JSON Schema of a policy and stop.")
@json_option
def plan(
    *,
    bundle: str | None,
    path: Path,
    model: str | None,
    policy_file: Path | None,
    limit: str | None,
    policy_schema: bool,
    as_json: bool,
) -> None:
    """Show who would get NAME@VERSION, in which order and in which waves. Touches no host.

    It is a model, or an application of the inventory's. Instead of it: runtime (this tree's), or configuration
    (inference_runtime_server in the inventory).
    """
    if policy_schema:
        print_json(policy.schema())
        return
    if bundle is None:
        raise click.UsageError("say which bundle: hedgerow rollout plan assistant@1.1.0")
    found = inventories.load(path)
    inside = set(found.hosts if limit is None else inventories.load(path, limit=limit).hosts)
    made = prepare.plan(
        found.fleet,
        wish=prepare.Wish.of(
            bundle, model=model, hosts={host.name: host.vars for host in found.pis}, stage=found.registry_stage
        ),
        policy=found.vars.get("rollout_policy") if policy_file is None else str(policy_file),
        targets=[prepare.target(host.name, host.vars, limited=host.name not in inside) for host in found.pis],
    )
    if as_json:
        print_json({"counts": made.counts(), **msgspec.to_builtins(made)})
        return
    _print_plan(made)


@click.command()
@click.argument("bundle", metavar="NAME@VERSION")
@inventory_option
@model_option
@policy_option
@limit_option
@click.option("--check", is_flag=True, help="Plan only.")
@click.option("--stage-ahead", is_flag=True, help="Every host fetches it before the first wave starts.")
def start(
    *,
    bundle: str,
    path: Path,
    model: str | None,
    policy_file: Path | None,
    limit: str | None,
    check: bool,
    stage_ahead: bool,
) -> int:
    """Release NAME@VERSION; go on with it if it was cut off. Instead of it: runtime or configuration, as for plan.

    Exit code 4: it ended with hosts missing; the same command goes on.
    """
    rollouts = store.folder(inventories.load(path).fleet)
    before = store.sizes(rollouts)
    ahead: starting.Ahead = "yes" if stage_ahead else "no"
    code = starting.start(path, bundle, policy=policy_file, limit=limit, check=check, ahead=ahead, model=model)
    return int(starting.exit_code(code, rollouts, before))


@click.command()
@click.argument("bundle", metavar="NAME@VERSION")
@inventory_option
@model_option
@policy_option
@limit_option
def stage(*, bundle: str, path: Path, model: str | None, policy_file: Path | None, limit: str | None) -> int:
    """Have every host fetch NAME@VERSION and change nothing that is served; start or resume releases it then.

    It waits for the policy's download windows. Cut off, the same command goes on.
    """
    rollouts = store.folder(inventories.load(path).fleet)
    before = store.sizes(rollouts)
    code = starting.start(path, bundle, policy=policy_file, limit=limit, check=False, ahead="only", model=model)
    return int(starting.exit_code(code, rollouts, before))


def _print_plan(made: Plan) -> None:
    """Waves and strata as tables, everything else a line each."""

    def line(text: str) -> None:
        out.print(text, markup=False, highlight=False, soft_wrap=True)

    line(plan_text.headline(made))
    print_table(None, plan_tables.WAVE_COLUMNS, plan_tables.wave_rows(made))
    if len(made.strata) > 1:
        line(f"spread over {', '.join(made.policy.stratify)}")
        print_table(None, plan_tables.strata_columns(made), plan_tables.strata_rows(made))
    for remark in plan_text.remarks(made):
        line(remark)
