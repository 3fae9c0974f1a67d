"""``hedgerow rollout simulate``: what a policy would come to on a fleet, and what it says to a recorded journal."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from hedgerow import inventory as inventories
from hedgerow.errors import UsageError
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout import kinds, prepare
from hedgerow.rollout import plan as plans
from hedgerow.rollout import release as releases
from hedgerow.rollout.journal import FILE, Journal
from hedgerow.rollout.plan import Kind, Plan, Release
from hedgerow.rollout.policy import Policy
from hedgerow.rollout.release_restarting import RUNTIME_BYTES
from hedgerow.rollout.simulate import fleet, outcome
from hedgerow.rollout.simulate.flaw import KINDS, Flaw
from hedgerow.rollout.simulate.outcome import Result
from hedgerow.rollout.simulate.recorded import differences
from hedgerow.rollout.simulate.run import FORKS, Run

MOST_HOSTS = 100_000
CONFIGURATION_BYTES = 300
QUESTIONS = 12
"""Golden inputs of a bundle that nobody named."""


@click.command(epilog="Releases: " + "; ".join(f"{name}: {what}" for name, what in KINDS.items()) + ".")
@click.argument("bundle", metavar="[NAME@VERSION]", required=False)
@click.option("-i", "--inventory", "path", type=click.Path(path_type=Path), help="Simulate the hosts of this one.")
@click.option("--hosts", type=click.IntRange(1, MOST_HOSTS), help="Simulate that many hosts of a made-up fleet.")
@click.option("--policy", "policy_file", type=click.Path(path_type=Path), help="Policy (YAML); else the careful one.")
@click.option("--model", "model_file", type=click.Path(path_type=Path), help="What devices and links are like (YAML).")
@click.option("--release", "flaw", default="good", show_default=True, help="What is wrong with the release; see below.")
@click.option("--seed", default=0, show_default=True, help="The same seed gives the same run.")
@click.option(
    "--runs",
    "--seeds",
    "runs",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Seeds to run, spread.",
)
@click.option("--forks", type=click.IntRange(1), default=FORKS, show_default=True, help="Hosts at one time.")
@click.option("--size-mb", type=float, default=90.0, show_default=True, help="Of a bundle that is not named.")
@click.option("--replay", type=click.Path(path_type=Path, exists=True), help="Ask the policy about this journal.")
@json_option
def simulate(
    *,
    bundle: str | None,
    path: Path | None,
    hosts: int | None,
    policy_file: Path | None,
    model_file: Path | None,
    flaw: str,
    seed: int,
    runs: int,
    forks: int,
    size_mb: float,
    replay: Path | None,
    as_json: bool,
) -> None:
    """Say how a rollout would go: how long, how many bytes, and how many devices a bad release would hurt.

    The plan, every decision and every verdict are the real ones; devices, links and times are computed. NAME@VERSION
    takes size and limits from the inventory's registry. Instead of it: runtime or configuration, drained and restarted,
    or application:NAME@VERSION, beside the model that is served.
    """
    if replay is not None:
        _replay(replay, None if policy_file is None else prepare.read_policy(str(policy_file)), as_json=as_json)
        return
    if (path is None) == (hosts is None):
        raise click.UsageError("say over what: --hosts 1000, or -i INVENTORY")
    if bundle is not None and path is None and not kinds.is_kind(bundle):
        raise click.UsageError("NAME@VERSION is looked up in an inventory's registry: add -i INVENTORY")
    model = _model(model_file)
    policy, release = _policy(policy_file, path), _release(bundle, path, size_mb)
    one = partial(_one, policy, release, Flaw.parse(flaw), model, path, hosts, forks)
    numbers = [str(seed + number) for number in range(runs)]
    results = [one(number) for number in numbers] if runs == 1 else _many(one, numbers)
    if as_json:
        print_json(
            {
                "release": flaw,
                "kind": release.kind,
                "seed": seed,
                "model": msgspec.to_builtins(model),
                **outcome.document(results),
            }
        )
        return
    _show(results, flaw if release.kind == "model" else f"{flaw} ({release.kind})")


def _many(one: partial[Result], seeds: list[str]) -> list[Result]:
    with ProcessPoolExecutor() as pool:
        return list(pool.map(one, seeds))


def _one(  # noqa: PLR0917 - a partial's, to be sent to another process
    policy: Policy,
    release: Release,
    flaw: Flaw,
    model: fleet.Model,
    path: Path | None,
    hosts: int | None,
    forks: int,
    seed: str,
) -> Result:
    devices = (
        fleet.synthetic(hosts or 0, model, seed) if path is None else fleet.of_targets(_targets(path), model, seed)
    )
    plan: Plan = plans.make([device.target for device in devices], policy, release)
    return Run(plan, devices, flaw, model=model, seed=seed, forks=forks).run()


def _targets(path: Path) -> list[plans.Target]:
    found = inventories.load(path)
    targets = [prepare.target(host.name, host.vars, limited=False) for host in found.pis]
    return [
        target if target.site is not None else msgspec.structs.replace(target, site=host.site)
        for target, host in zip(targets, found.pis, strict=True)
    ]


def _policy(policy_file: Path | None, path: Path | None) -> Policy:
    if policy_file is not None:
        return prepare.read_policy(str(policy_file))
    return prepare.read_policy(None if path is None else inventories.load(path).vars.get("rollout_policy"))


def _release(bundle: str | None, path: Path | None, size_mb: float) -> Release:
    kind: Kind = "model" if bundle is None or not kinds.is_kind(bundle) else kinds.parse(bundle)[0]
    if bundle is not None and path is not None and kind == "model":
        found = inventories.load(path)
        return releases.read(found.fleet, bundle, stage=found.registry_stage)
    question = GoldenText(messages=(Message("user", "?"),), expect="!")
    simulated = Release(
        bundle="simulated@1",
        sha256="0" * 64,
        size_bytes=round(size_mb * 1e6),
        probe=question,
        probes=[question] * QUESTIONS,
    )
    if kind == "model":
        return simulated
    # Its questions, and the hash that hosts must have, are those of a model that they serve all the while.
    size = {"runtime": RUNTIME_BYTES, "application": simulated.size_bytes}.get(kind, CONFIGURATION_BYTES)
    named = "application:simulated@1.0.0" if kind == "application" else f"{kind}:simulated"
    return msgspec.structs.replace(
        simulated, bundle=named, kind=kind, size_bytes=size, model="simulated@1", model_sha256="0" * 64
    )


def _model(file: Path | None) -> fleet.Model:
    if file is None:
        return fleet.Model()
    try:
        return msgspec.convert(yaml.safe_load(file.read_text(encoding="utf-8")) or {}, fleet.Model)
    except (OSError, yaml.YAMLError, msgspec.ValidationError) as error:
        fields = ", ".join(fleet.Model.__struct_fields__)
        raise UsageError(f"the model is wrong: {error}", where=str(file), next_step=f"keys: {fields}") from error


def _replay(path: Path, policy: Policy | None, *, as_json: bool) -> None:
    journal = Journal(path if path.is_dir() else path.parent)
    if path.is_file() and path.name != FILE:
        raise UsageError(f"a journal is called {FILE}", where=str(path))
    found = differences(journal.events(), policy)
    if as_json:
        print_json({"journal": str(path), "differences": msgspec.to_builtins(found)})
    elif not found:
        out.print("the policy decides as it was decided then", markup=False)
    else:
        rows = [(each.line, each.at, each.recorded, each.policy) for each in found]
        print_table(f"{len(found)} decision(s) would differ", ("line", "at", "recorded", "the policy"), rows)


def _show(results: list[Result], flaw: str) -> None:
    if len(results) == 1:
        rows: list[tuple[Any, ...]] = list(_lines(results[0]))
        print_table(f"a release that is {flaw}, on {results[0].hosts} host(s)", ("figure", "value"), rows)
        return
    phases = ", ".join(f"{number} {phase}" for phase, number in sorted(outcome.phases(results).items()))
    rows = [(name, *(f"{value:,.1f}" for value in each.values())) for name, each in outcome.spread(results).items()]
    print_table(f"{flaw}, {len(results)} seeds: {phases}", ("figure", "median", "95th percentile", "most"), rows)


def _lines(result: Result) -> list[tuple[str, str]]:
    lines = [
        ("ended", result.phase.replace("_", " ")),
        ("after", _span(result.duration_s)),
        ("waves", f"{result.waves_opened} of {result.waves} opened"),
        ("hosts", ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in sorted(result.counts.items()))),
        ("served it at any time", f"{result.touched} host(s)"),
        ("hurt", f"{result.hurt} host(s), {_span(result.hurt_longest_s)} at longest"),
        ("still hurt at the end", f"{result.still_hurt} host(s)"),
        ("fetched", f"{result.fetched / 1e9:.2f} GB over {len(result.bytes)} site link(s){_busiest(result)}"),
    ]
    if result.stopped is not None and result.stopped_at_s is not None:
        lines.insert(
            1, ("stopped", f"in wave {result.stopped_in_wave}, after {_span(result.stopped_at_s)}: {result.stopped}")
        )
    if result.stopped_by is not None:
        lines.insert(2, ("stopped by", result.stopped_by))
    lines += [(f"waited, {code.replace('_', ' ')}", _span(seconds)) for code, seconds in result.waited_s.items()]
    return lines


def _busiest(result: Result) -> str:
    """The site that fetched most; ``--json`` has them all."""
    if not result.bytes:
        return ""
    site = max(result.bytes, key=result.bytes.__getitem__)
    return f", {result.bytes[site] / 1e9:.2f} GB of it by {site}"


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.1f} s"
