"""``hedgerow-device watch``, ``events``, ``drain`` and ``undrain``."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click

from hedgerow.device import config as configs
from hedgerow.device import events as log
from hedgerow.device.cli_options import config_option, json_option, show
from hedgerow.device.config import DeviceConfig
from hedgerow.device.control import ControlSocket, Status
from hedgerow.errors import ExitCode, UsageError

# The server's own bound of a drain (hedgerow.server.drain), which a device without a server does not import.
_MAXIMUM_S = 3600
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_POLL_S = 0.1


@click.command()
@config_option
def watch(*, path: Path) -> None:
    """Watch the model in service, and take back an unconfirmed one that fails (hedgerow-agent.service)."""
    from hedgerow.device import agent

    agent.watch(configs.load(path))


@click.command()
@click.option("--since", metavar="WHEN", help="From then on: 30m, 12h, 7d, or a time such as 2026-11-21T08:00.")
@config_option
@json_option
def events(*, since: str | None, path: Path, as_json: bool) -> None:
    """Print what changed on this device, oldest first."""
    config = configs.load(path)
    start = None if since is None else _time(since)
    found = log.read(config.activation_dir, since=start)
    lines = [f"{line['at']}  {line['event']}  {line['model']}  {line.get('reason') or ''}".rstrip() for line in found]
    show(found, "\n".join(lines) or "nothing", as_json=as_json)


@click.command()
@click.option(
    "--within",
    type=click.IntRange(1, _MAXIMUM_S),
    metavar="SECONDS",
    default=300,
    show_default=True,
    help="Requests are taken again by then, whoever forgets to say so.",
)
@click.option(
    "--wait",
    type=click.IntRange(0, _MAXIMUM_S),
    metavar="SECONDS",
    default=30,
    show_default=True,
    help="How long to wait for requests that run.",
)
@config_option
@json_option
def drain(*, within: int, wait: int, path: Path, as_json: bool) -> int:
    """Take no new requests; those that run end. Ends with 1 where some still run.

    Swapping a model needs none of this: it is for what restarts the server or the device.
    """
    config = configs.load(path)
    control = ControlSocket(config.control_socket)
    changed = control.status().drained_until is None
    status = control.drain(within_s=within)
    deadline = time.monotonic() + min(wait, within)
    while status.inflight and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        status = control.status()
    if changed:
        _log(config, "drained", f"for {within} s at the most")
    _show(status, changed=changed, as_json=as_json)
    return int(ExitCode.FAILED if status.inflight else ExitCode.OK)


@click.command()
@config_option
@json_option
def undrain(*, path: Path, as_json: bool) -> None:
    """Take requests again."""
    config = configs.load(path)
    control = ControlSocket(config.control_socket)
    changed = control.status().drained_until is not None
    status = control.undrain()
    if changed:
        _log(config, "undrained", None)
    _show(status, changed=changed, as_json=as_json)


def _show(status: Status, *, changed: bool, as_json: bool) -> None:
    until = status.drained_until
    value = {"changed": changed, "drained_until": until, "inflight": status.inflight}
    text = "requests are taken"
    if until is not None:
        text = f"drained until {until:%H:%M:%S} UTC at the latest; {status.inflight} requests still run"
    show(value, text, as_json=as_json)


def _log(config: DeviceConfig, event: str, reason: str | None) -> None:
    with suppress(OSError):  # a line is not worth the command
        log.append(config.activation_dir, log.Event(datetime.now(UTC), event, config.serving_model, reason))


def _time(text: str) -> datetime:
    """A time, or so long ago. One without a zone is UTC.

    Raises:
        UsageError: neither.
    """
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if ago is not None:
        return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(
            f"--since {text!r} is no time", next_step="write it like 30m, 12h, 7d or 2026-11-21T08:00"
        ) from error
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
