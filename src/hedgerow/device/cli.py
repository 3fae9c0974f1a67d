"""``hedgerow-device``: the one command that changes what a device serves, whoever asks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import __version__
from hedgerow.cli import run
from hedgerow.device import cli_agent, cli_store, staging
from hedgerow.device import config as configs
from hedgerow.device.activation import Outcome
from hedgerow.device.assembled import activation_of, bundle_home, identity, slot_home
from hedgerow.device.change import RESTARTING, Change, Kind
from hedgerow.device.cli_options import config_option, json_option, show
from hedgerow.device.config import DeviceConfig
from hedgerow.device.control import ControlSocket
from hedgerow.device.identity import cli as cli_identity
from hedgerow.device.restarting import is_whole
from hedgerow.device.variant import is_of
from hedgerow.errors import DeviceError, ExitCode, HedgerowError, PublisherError, UsageError
from hedgerow.gateway.cli import renewal
from hedgerow.registry import bundle as bundles


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hedgerow-device")
def cli() -> None:
    """Stage, activate, confirm and revert what this device serves and serves with, drain and watch it.

    \b
    CHANGE is a model or an application of this device, NAME@VERSION,
    or one of runtime:VERSION and configuration:VERSION, which the
    server takes up by a restart.

    \b
    Exit codes: 0 done, 1 failed and nothing changed, 2 wrong use,
    3 refused by policy.
    """  # noqa: D301 - click's mark for a paragraph as it stands


for command in (
    cli_agent.watch,
    cli_agent.events,
    cli_agent.drain,
    cli_agent.undrain,
    cli_store.cache,
    cli_identity.identity,
    renewal,
):
    cli.add_command(command)


@cli.command()
@click.argument("change")
@click.option("--registry-url", help="Another registry than the configured one.")
@click.option("--here", is_flag=True, help="Fetch nothing: fail unless every byte of it is on this device.")
@cli_store.variant_option
@cli_store.fetch_options
@config_option
@json_option
def stage(
    *,
    change: str,
    registry_url: str | None,
    here: bool,
    variant: str | None,
    plan: bool,
    in_window: bool,
    path: Path,
    as_json: bool,
) -> None:
    """Fetch and verify CHANGE; what is served does not change.

    A model or an application comes in deltas: what this device has of it, in whatever version, is not fetched again. A
    configuration is read from standard input. A runtime has to be installed already: no registry has it.
    """
    config = configs.load(path)
    wanted = Change.parse(change, config.applications)
    cli_store.check_options(wanted, plan=plan, in_window=in_window, here=here)
    if plan:
        cli_store.show_plan(config, wanted, registry_url, variant=variant, as_json=as_json)
        return
    if here and not _is_whole(config, wanted, variant):
        raise DeviceError(
            f"not every byte of {wanted} is on this device",
            where=str(bundle_home(config, wanted) if wanted.kind in cli_store.FETCHED else slot_home(config, wanted)),
            next_step=f"fetch it: hedgerow-device stage {wanted}",
        )
    value: dict[str, Any] = {"changed": False, "change": str(wanted), "model": None, "previous": None, "new_bytes": 0}
    lines = [f"{wanted} is on this device"]
    if wanted.kind in cli_store.FETCHED:
        if not here:
            from hedgerow.device.store import view  # slow to import, and most commands never fetch

            staged = cli_store.fetch(config, wanted, registry_url, variant=variant, in_window=in_window)
            value |= view.staged_json(staged) | {"change": str(wanted)}
            lines = view.staged_lines(staged)
        value["model"] = _shown(config, wanted.name, wanted.version) if wanted.kind == "model" else None
    elif not here:
        value["new_bytes"] = _place(config, wanted)
        value["changed"] = value["new_bytes"] > 0
    show(value, "\n".join(lines), as_json=as_json)


@cli.command()
@click.argument("change")
@click.option(
    "--confirm-within", type=click.IntRange(min=1), metavar="SECONDS", help="Revert unless confirmed by then."
)
@click.option("--registry-url", help="Another registry than the configured one.")
@cli_store.variant_option
@config_option
@json_option
def activate(
    *,
    change: str,
    confirm_within: int | None,
    registry_url: str | None,
    variant: str | None,
    path: Path,
    as_json: bool,
) -> None:
    """Serve CHANGE: a model is fetched if needed, loaded beside, asked its golden inputs, and switched to.

    A runtime or a configuration, which must be staged, is tried beside the one in service; then the server restarts. An
    application is fetched if needed, placed, and started in place of its version before; the server goes on.
    """
    config = configs.load(path)
    wanted = Change.parse(change, config.applications)
    activation = activation_of(config)
    activation.check_free(wanted)
    if wanted.kind in cli_store.FETCHED and not _is_whole(config, wanted, variant):
        cli_store.fetch(config, wanted, registry_url, variant=variant)
    seconds = config.confirm_within_s if confirm_within is None else confirm_within
    _print_outcome(config, activation.activate(wanted, confirm_within_s=seconds), as_json=as_json)


@cli.command()
@click.argument("change")
@config_option
@json_option
def confirm(*, change: str, path: Path, as_json: bool) -> None:
    """Keep CHANGE: its deadline ends."""
    config = configs.load(path)
    _print_outcome(config, activation_of(config).confirm(Change.parse(change, config.applications)), as_json=as_json)


@cli.command()
@click.option("--if-overdue", is_flag=True, help="Only where nobody confirmed in time.")
@click.option("--reason", default="asked for", show_default=True, help="Why, for the event log.")
@click.option(
    "--kind",
    type=click.Choice(["model", *RESTARTING, "application"]),
    help="Of what; else what is unconfirmed, or the model.",
)
@click.option("--name", metavar="NAME", help="Of an application: which.")
@config_option
@json_option
def revert(*, if_overdue: bool, reason: str, kind: Kind | None, name: str | None, path: Path, as_json: bool) -> None:
    """Serve, or run, the version before."""
    config = configs.load(path)
    if (kind == "application") != (name is not None):
        raise UsageError(
            "--kind application and --name NAME belong together",
            next_step=f"hedgerow-device revert --kind application --name {name or 'NAME'}",
        )
    activation = activation_of(config)
    if if_overdue:
        outcome = activation.revert_if_overdue(config.serving_model)
    else:
        outcome = activation.revert(name or config.serving_model, reason=reason, kind=kind)
    if outcome.changed or not if_overdue or as_json:
        _print_outcome(config, outcome, as_json=as_json)


@cli.command()
@config_option
@json_option
def report(*, path: Path, as_json: bool) -> int:
    """Print the health report; a server that is down has one, too."""
    config = configs.load(path)
    try:
        health = ControlSocket(config.control_socket).report()
    except DeviceError:
        health = _report_without_server(config)
    if as_json:
        click.echo(msgspec.json.encode(health))
    else:
        model = health["model"]
        click.echo(
            f"{health['host']}: {health['status']}, {model['name'] + '@' + model['version'] if model else 'no model'}"
        )
        for reason in health["reasons"]:
            click.echo(f"  {reason['severity']}: {reason['text']}")
    return int(ExitCode.FAILED if health["status"] == "failing" else ExitCode.OK)


@cli.command()
@config_option
@click.option("--vision", is_flag=True, help="Tell what `hedgerow vision run` counts on 127.0.0.1:9102, too.")
def exporter(*, path: Path, vision: bool) -> None:
    """Serve the board's and the HAT's metrics over mutual TLS."""
    from hedgerow.device.exporter import serve

    serve(configs.load(path), vision=vision)


def _is_whole(config: DeviceConfig, change: Change, variant: str | None) -> bool:
    """Whether the version is on this device, every byte of it, and the ``variant`` that was named.

    Then it was vouched for when it came, and no registry is needed: a version never changes.
    """
    if change.kind not in cli_store.FETCHED:
        return is_whole(slot_home(config, change), change)
    try:
        bundle = bundles.verify_files(bundle_home(config, change) / change.version)
    except (UsageError, PublisherError):
        return False
    return is_of(bundle.manifest, variant)


def _place(config: DeviceConfig, change: Change) -> int:
    """Have on this device what no registry has; the bytes that are new."""
    if change.kind == "configuration":
        return staging.configuration(config.configuration_dir, change.version, sys.stdin.buffer, identity(config))
    staging.require_runtime(config.runtime_dir, change.version)
    return 0


def _report_without_server(config: DeviceConfig) -> dict[str, Any]:
    from datetime import UTC, datetime

    from hedgerow.device import application_state, hardware, health, heartbeat, links

    beat = heartbeat.read()
    pending = links.read_pending(config.activation_dir)
    observed = health.Observation(
        host=config.host,
        serial=config.serial,
        # A server that is down would start with what the links name, whatever runs this command.
        runtime=links.target(config.runtime_dir, links.CURRENT) or __version__,
        configuration=links.target(config.configuration_dir, links.CURRENT),
        serving=health.Serving(window_s=0),
        hardware=hardware.read(disk_paths=(str(config.models_dir),)),
        server_down=True,
        confirm_deadline=None if pending is None else pending.deadline,
        agent=None if beat is None else health.AgentState(beat.at, beat.last_answer, beat.failures),
        applications=application_state.read(),
    )
    built: dict[str, Any] = msgspec.to_builtins(health.build(observed, datetime.now(UTC)), str_keys=True)
    return built


def _shown(config: DeviceConfig, name: str, version: str | None) -> dict[str, str | None] | None:
    """A version as JSON shows it; ``sha256`` is the bundle's identity, None if its manifest cannot be read."""
    if version is None:
        return None
    try:
        sha256 = bundles.load(config.models_dir / name / version).sha256
    except HedgerowError:
        sha256 = None
    return {"name": name, "version": version, "sha256": sha256}


def _print_outcome(config: DeviceConfig, outcome: Outcome, *, as_json: bool) -> None:
    now, before = outcome.change, outcome.change_before
    of_model = outcome.kind == "model"
    value = {
        "changed": outcome.changed,
        "change": None if now is None else str(now),
        "before": None if before is None else str(before),
        "model": _shown(config, outcome.name, outcome.version) if of_model else None,
        "previous": _shown(config, outcome.name, outcome.previous) if of_model else None,
        "deadline": None if outcome.deadline is None else outcome.deadline.isoformat(),
        "load_s": outcome.load_s,
        "note": outcome.note,
    }
    text = f"no version of {outcome.name} is active" if now is None else f"{now} is active"
    if outcome.deadline is not None:
        text += f"; it reverts unless confirmed by {outcome.deadline:%H:%M:%S} UTC"
    show(value, text if outcome.note is None else f"{text} ({outcome.note})", as_json=as_json)


def main() -> None:
    sys.exit(run(cli, "hedgerow-device"))


if __name__ == "__main__":
    main()
