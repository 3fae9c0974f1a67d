"""``hedgerow backup``: create, verify, restore, list, key."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from hedgerow import atomic, audit, paths, secretfile
from hedgerow import inventory as inventories
from hedgerow.audit.events import BackedUp
from hedgerow.audit.log import timestamp
from hedgerow.backup import create as creating
from hedgerow.backup import reading
from hedgerow.backup import restore as restoring
from hedgerow.backup.age_keys import Identity, Opener, Passphrase, Recipient, Wrapper
from hedgerow.backup.manifest import Manifest
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import RefusedError, UsageError
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.rollout import lease

_MIN_PASSPHRASE = 12
_FILE = click.Path(path_type=Path, dir_okay=False)


@click.group()
def backup() -> None:
    """Keep a fleet's keys, journals and metadata in one encrypted file, and get them back.

    The file is a gzipped tar in age's format: age -d FILE | tar xz opens it without Hedgerow.
    """


def _open_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--identity", "identities", type=_FILE, multiple=True, help="A file with an age private key."),
        click.option("--passphrase-file", type=_FILE, help="A file whose first line is the passphrase, mode 0600."),
    ):
        command = option(command)
    return command


@backup.command()
@inventory_option
@click.option("-o", "--output", type=_FILE, required=True, help="The file to write; it must not be there yet.")
@click.option(
    "--recipient", "recipients", multiple=True, metavar="age1…", help="Who can open it, by public key. Repeatable."
)
@click.option("--passphrase-file", type=_FILE, help="Encrypt with the first line of this file instead, mode 0600.")
@click.option("--with-blobs", is_flag=True, help="Take the large files of bundles as well.")
@json_option
def create(
    *, path: Path, output: Path, recipients: tuple[str, ...], passphrase_file: Path | None, with_blobs: bool,
    as_json: bool,
) -> None:  # fmt: skip
    """Write a backup of the inventory's fleet, and of the inventory, as they are now.

    Nobody signs while it is made. Passphrases that are not in the fleet's folder, the vault password and keys on
    tokens are not in it; the command names them.
    """
    wrappers = _wrappers(recipients, passphrase_file)
    fleet = inventories.load(path).fleet
    folder = paths.fleet_dir(fleet)
    audit.collect(folder, by=lease.whoami())
    made = creating.create(fleet, folder, path, output, wrappers, by=lease.whoami(), with_blobs=with_blobs)
    audit.record(
        folder,
        BackedUp(at=timestamp(), by=lease.whoami(), what="created", file=output.name, sha256=made.sha256,
                 files=len(made.manifest.items)),
    )  # fmt: skip
    if as_json:
        print_json(
            {"changed": True, "file": output, "bytes": made.size, "sha256": made.sha256, **_facts(made.manifest)}
        )
        return
    _say(f"{output}: {len(made.manifest.items)} files, {made.size / 1e6:.1f} MB, sha256 {made.sha256}")
    _tell(made.manifest)
    _say(f"next: hedgerow backup verify {output}, and a copy of it at another place")


@backup.command()
@click.argument("file", type=_FILE)
@_open_options
@json_option
def verify(*, file: Path, identities: tuple[Path, ...], passphrase_file: Path | None, as_json: bool) -> None:
    """Read FILE to its end and hold every file in it to its hash. Nothing is written."""
    manifest = reading.verify(file, _openers(identities, passphrase_file))
    if as_json:
        print_json({"whole": True, **_facts(manifest)})
        return
    _say(f"{file}: whole; fleet {manifest.fleet} as of {manifest.at[:19]} UTC, made by {manifest.by}")
    print_table(None, ("what", "files", "MB"), [(name, n, f"{size / 1e6:.2f}") for name, (n, size) in _parts(manifest)])
    _tell(manifest)


@backup.command()
@click.argument("file", type=_FILE)
@click.option("--to", "target", type=click.Path(path_type=Path, file_okay=False), help="Another var/ than this one's.")
@click.option(
    "--inventory-to", type=click.Path(path_type=Path, file_okay=False),
    help="Where the inventory goes (default: restored-inventory in the fleet's folder).",
)  # fmt: skip
@click.option("--replace", is_flag=True, help="Move aside the fleet that is here, if it is not newer than the backup.")
@_open_options
@json_option
def restore(
    *, file: Path, target: Path | None, inventory_to: Path | None, replace: bool, identities: tuple[Path, ...],
    passphrase_file: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Bring the fleet of FILE back onto this controller, whole or not at all.

    A fleet that is here is refused, with --replace as well if its logs know of more than the backup.
    """
    openers = _openers(identities, passphrase_file)
    done = restoring.restore(
        file, openers, target or paths.var_dir(), inventory_to, by=lease.whoami(), sha256=_sha256(file), replace=replace
    )
    if as_json:
        print_json({"changed": True, "fleet_dir": done.fleet_dir, "inventory": done.inventory, "aside": done.aside,
                    **_facts(done.manifest)})  # fmt: skip
        return
    _say(f"fleet {done.manifest.fleet} as of {done.manifest.at[:19]} UTC: {done.fleet_dir}")
    _say(f"inventory: {done.inventory}")
    if done.aside is not None:
        _say(f"what was here before: {done.aside}")
    _tell(done.manifest)
    _say("next: docs/backup.md, After a restore")


@backup.command("list")
@inventory_option
@json_option
def list_(*, path: Path, as_json: bool) -> None:
    """List the backups that the audit log knows of: when, by whom, how to tell that a file is the one."""
    log = audit.of_fleet(paths.fleet_dir(inventories.load(path).fleet))
    found = [each.value for each in log.entries() if isinstance(each.value, BackedUp)]
    if as_json:
        print_json([{"at": e.at, "by": e.by, "what": e.what, "file": e.file, "files": e.files, "sha256": e.sha256}
                    for e in found])  # fmt: skip
        return
    rows = [(e.at[:19].replace("T", " "), e.what, e.file, e.files, e.by, e.sha256[:16]) for e in found]
    print_table(None, ("when (UTC)", "what", "file", "files", "by", "sha256"), rows)


@backup.command()
@click.option(
    "-o", "--output", type=_FILE, required=True, help="The file for the private key; it must not be there yet."
)
@json_option
def key(*, output: Path, as_json: bool) -> None:
    """Make a key pair for backups: the private key into a file to keep offline, the recipient onto the screen."""
    if output.exists():
        raise RefusedError("a key overwrites nothing", where=str(output), next_step="name another file")
    made = Identity.generate()
    atomic.write_text(output, f"# public key: {made.recipient}\n{made.text}\n", mode=0o600)
    if as_json:
        print_json({"changed": True, "recipient": made.recipient, "identity": output})
    else:
        _say(f"recipient: {made.recipient}")
        _say(f"keep {output} offline: whoever has it opens every backup for this recipient")


def _wrappers(recipients: tuple[str, ...], passphrase_file: Path | None) -> list[Wrapper]:
    if bool(recipients) == (passphrase_file is not None):
        raise UsageError(
            "a backup holds the fleet's keys: it is encrypted for recipients, or with a passphrase",
            where="--recipient, --passphrase-file",
            next_step="hedgerow backup key --output FILE makes a key pair; then --recipient age1…",
        )
    if passphrase_file is None:
        return [Recipient(text) for text in recipients]
    secret = _passphrase(passphrase_file)
    if len(secret) < _MIN_PASSPHRASE:
        raise UsageError(f"a passphrase has {_MIN_PASSPHRASE} characters or more", where=str(passphrase_file))
    return [Passphrase(secret)]


def _openers(identities: tuple[Path, ...], passphrase_file: Path | None) -> list[Opener]:
    openers: list[Opener] = [each for path in identities for each in _identities(path)]
    if passphrase_file is not None:
        openers.append(Passphrase(_passphrase(passphrase_file)))
    if not openers:
        raise UsageError("a backup is encrypted", next_step="--identity FILE, or --passphrase-file FILE")
    return openers


def _passphrase(path: Path) -> str:
    text = _secret(path).partition("\n")[0].rstrip("\r")
    if not text:
        raise UsageError("the file with the passphrase is empty", where=str(path))
    return text


def _identities(path: Path) -> list[Identity]:
    lines = [line.strip() for line in _secret(path).splitlines()]
    found = [Identity(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise UsageError("there is no age private key in this file", where=str(path))
    return found


def _secret(path: Path) -> str:
    try:
        with path.open("rb") as file:
            secretfile.refuse_public(file, path)
            return file.read().decode()
    except OSError as error:
        raise UsageError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise UsageError("this is no text", where=str(path)) from error


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"the backup cannot be read: {error.strerror}", where=str(path)) from error


def _parts(manifest: Manifest) -> list[tuple[str, tuple[int, int]]]:
    """Files and bytes by the first folder that says what they are."""
    found: dict[str, tuple[int, int]] = {}
    for item in manifest.items:
        words = item.path.split("/")
        name = words[1] if words[0] == "fleet" and len(words) > 2 else words[0]  # noqa: PLR2004 - fleet, folder, file
        count, size = found.get(name, (0, 0))
        found[name] = (count + 1, size + item.size)
    return sorted(found.items())


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "fleet": manifest.fleet,
        "at": manifest.at,
        "files": len(manifest.items),
        "left_out": {"files": len(manifest.left_out), "bytes": sum(each.size for each in manifest.left_out)},
        "apart": manifest.apart,
        "audit_head": manifest.audit_head,
    }


def _tell(manifest: Manifest) -> None:
    for text in manifest.apart:
        _say(f"not in it, and needed: {text}")
    if manifest.left_out:
        size = sum(each.size for each in manifest.left_out) / 1e6
        _say(f"not in it: {len(manifest.left_out)} files of bundles, {size:.0f} MB, which gateways have (--with-blobs)")


def _say(text: str) -> None:
    out.print(text, markup=False, highlight=False, soft_wrap=True)
