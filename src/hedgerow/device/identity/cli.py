"""``hedgerow-device identity``: what this device is certified as, and its renewal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from hedgerow.device import config as configs
from hedgerow.device import events as log
from hedgerow.device.cli_options import config_option, json_option, show
from hedgerow.device.config import DeviceConfig
from hedgerow.errors import DeviceError, HedgerowError, PartialError, RefusedError, UsageError

# Names the board whose memory may be written; without it no key is burnt, whatever is typed.
BURN_VARIABLE = "HEDGEROW_BURN_OTP"


@click.group()
def identity() -> None:
    """Show and renew this device's key and certificate."""


@identity.command("show")
@config_option
@json_option
def show_(*, path: Path, as_json: bool) -> None:
    """Print what is certified, until when, when it is renewed, and what time it is thought to be."""
    from hedgerow.identity import enrol

    device = _device(configs.load(path))
    found = enrol.status(str(device.folder))
    due, certificate, floor = device.due, device.certificate, device.time.floor
    value = {
        "subject": None if certificate is None else certificate.subject.rfc4514_string(),
        "serial_number": None if certificate is None else f"{certificate.serial_number:x}",
        "expires": None if certificate is None else certificate.not_valid_after_utc,
        "renewed_from": None if due is None else due.at,
        "due": None if due is None else due.reason,
        "key": found["key_kind"],
        "layout": found["layout"],
        "faults": found["faults"],
        "clock": device.time.clock,
        "clock_synced": device.time.synced,
        "clock_behind_s": device.time.behind.total_seconds(),
        "floor": None if floor is None else {"time": floor.time, "proven_by": floor.proven_by},
        "lists": [
            {"issuer": each.issuer.rfc4514_string(), "next_update": each.next_update_utc, "revoked": len(each)}
            for each in device.lists
        ],
    }
    lines = [f"{name.replace('_', ' ')}: {value[name]}" for name in value if name not in {"faults", "lists", "floor"}]
    lines += [f"fault: {each['path']}: {each['what']}" for each in found["faults"]]
    show(value, "\n".join(lines), as_json=as_json)


@identity.command()
@click.option("--if-due", is_flag=True, help="Only in the last third of its life; then fetch the revocation list, too.")
@click.option("--new-key", is_flag=True, help="Make another key, and put both in place in one step.")
@config_option
@json_option
def renew(*, if_due: bool, new_key: bool, path: Path, as_json: bool) -> None:
    """Have the gateway renew the certificate; the old one stays until the gateway has answered the new one.

    hedgerow-renew.timer runs it with --if-due.
    """
    config = configs.load(path)
    device = _device(config)
    try:
        outcome = device.renew(force=not if_due, new_key=new_key)
    except HedgerowError as error:
        _log(config, "certificate not renewed", error.what)
        raise
    if outcome.reason is not None:
        _log(config, "certificate renewed", outcome.reason)
    listed = _refresh(device, config, renewed=outcome.reason is not None) if if_due else None
    value = {
        "changed": outcome.reason is not None,
        "reason": outcome.reason,
        "expires": outcome.expires,
        "renewed_from": outcome.due_at,
        "new_key": outcome.new_key,
        "notes": outcome.notes,
        "untold": outcome.untold,
        "list": listed,
    }
    text = f"renewed, valid until {outcome.expires:%Y-%m-%d %H:%M} UTC: {outcome.reason}"
    if outcome.reason is None:
        text = f"not due before {outcome.due_at:%Y-%m-%d %H:%M} UTC"
    show(value, "\n".join([text, *outcome.notes]), as_json=as_json)
    if outcome.untold:
        raise PartialError(
            f"renewed, but {', '.join(outcome.untold)} did not take the new certificate",
            where="systemd",
            next_step=f"systemctl status {outcome.untold[0]}; then systemctl restart {outcome.untold[0]}",
        )


@identity.command("fetch-revocations")
@config_option
@json_option
def fetch_revocations(*, path: Path, as_json: bool) -> None:
    """Fetch the list of revoked certificates from the gateway, and keep it if it is worth more than the present one."""
    found = _device(configs.load(path)).refresh_list()
    value = {"changed": found is not None and found.changed, "numbers": {} if found is None else found.numbers}
    text = "the gateway has no list" if found is None else f"{len(found.numbers)} lists, changed: {found.changed}"
    show(value, text, as_json=as_json)


@identity.command()
@click.option("--burn", is_flag=True, help="Burn a key into a board that has none. There is no way back.")
@config_option
@json_option
def anchor(*, burn: bool, path: Path, as_json: bool) -> None:
    """Look at the board's own key in one-time programmable memory, which can vouch for keys in files.

    Burning one asks for the environment variable HEDGEROW_BURN_OTP with the board's serial, and for its words at a
    terminal.
    """
    from hedgerow.identity.keys_device import otp
    from hedgerow.identity.keys_device.tool import EnrolError

    serial = configs.load(path).serial
    try:
        found = otp.burn(serial, _typed(serial, otp.confirmation(serial))) if burn else otp.look()
    except EnrolError as fault:
        raise DeviceError(fault.what, where=fault.where, next_step=fault.next_step) from fault
    value = {"changed": burn, "public_key": found.public_key, "blank": found.blank, "exposed": found.exposed}
    text = "no key has been burnt" if found.blank else (found.public_key or "").rstrip()
    if found.exposed:
        text += "\nroot can read the key itself: lock_device_private_key=1 in config.txt locks it at every start"
    show(value, text, as_json=as_json)


def _typed(serial: str, words: str) -> str:
    """What a person typed at a terminal, once the variable names this board."""
    if os.environ.get(BURN_VARIABLE) != serial:
        raise RefusedError(
            "a key is burnt for ever, so the board has to be named first; nothing was burnt",
            where=f"rule: {BURN_VARIABLE} names the board",
            next_step=f"sudo {BURN_VARIABLE}={serial} hedgerow-device identity anchor --burn",
        )
    if not sys.stdin.isatty():
        raise RefusedError(
            "the confirmation is typed by a person; nothing was burnt",
            where="rule: standard input is a terminal",
            next_step="log in to the board with ssh -t and run it there",
        )
    typed: str = click.prompt(f"Type these words to go on: {words}\n", default="", show_default=False, err=True)
    return typed


def _device(config: DeviceConfig) -> Any:
    # Slow to import, and other commands need none of it.
    from hedgerow.device import hardware
    from hedgerow.device.identity.renewal import Device

    return Device(config, datetime.now(UTC), synced=hardware.read_clock())


def _refresh(device: Any, config: DeviceConfig, *, renewed: bool) -> dict[str, Any] | None:
    try:
        found = device.refresh_list()
    except UsageError:
        raise
    except HedgerowError as error:
        _log(config, "revocation list not fetched", error.what)
        certificate = "renewed" if renewed else "not due"
        raise PartialError(
            f"the certificate is {certificate}, but the revocation list was not fetched: {error.what}",
            where=error.where,
            next_step=error.next_step,
        ) from error
    return None if found is None else {"changed": found.changed, "numbers": found.numbers}


def _log(config: DeviceConfig, event: str, reason: str | None) -> None:
    with suppress(OSError):  # a line is not worth the command
        log.append(config.activation_dir, log.Event(datetime.now(UTC), event, config.serving_model, reason))
