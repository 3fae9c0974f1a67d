"""What the commands of a CA with two tiers share: passphrases, where a key is, and who asks."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from hedgerow import inventory as inventories
from hedgerow import paths
from hedgerow.commands.inventory import inventory_option
from hedgerow.identity import keyfile
from hedgerow.identity.authority.root import KeyPlace
from hedgerow.output import json_option
from hedgerow.passphrases import Passphrases

Command = Callable[..., Any]


@dataclass(frozen=True)
class Fleet:
    """The fleet that an inventory names: where the controller keeps it, and its sites."""

    name: str
    directory: Path
    sites: frozenset[str]

    @property
    def ca(self) -> Path:
        return self.directory / "ca"


def fleet_of(inventory: Path) -> Fleet:
    """Read the fleet from an inventory."""
    found = inventories.load(inventory)
    return Fleet(found.fleet, paths.fleet_dir(found.fleet), frozenset(host.site for host in found.hosts.values()))


passphrase_option = click.option(
    "--passphrase-file",
    "passphrase_files",
    multiple=True,
    metavar="[CA=]FILE",
    help="The passphrase or PIN of a CA's key (root, fleet or a site's name), or that of all. Repeatable. "
    "Else the file that HEDGEROW_CA_PASSPHRASE_FILE names; else it is asked for at a terminal.",
)


def key_options(command: Command) -> Command:
    """Where a new CA's key is to be."""
    for option in (
        click.option(
            "--key",
            "uri",
            metavar="URI",
            help="Where its key is to be: pem:PATH (a file, on a removable medium for a root), or "
            "hsm:NUMBER?label=TOKEN (a P-256 key that a PKCS#11 token has). Default: an encrypted file beside "
            "the certificate.",
        ),
        click.option("--pkcs11-module", "module", metavar="PATH", help="The token's library; default: PYKCS11LIB."),
    ):
        command = option(command)
    return command


def place(uri: str | None, module: str | None) -> KeyPlace:
    """``key_options`` as the CA takes them; a relative path of a file is from here."""
    if uri is not None and uri.startswith("pem:"):
        uri = f"pem:{Path(uri.removeprefix('pem:')).resolve()}"
    return KeyPlace(uri, module)


def fleet_options(command: Command) -> Command:
    """Inventory, passphrases and JSON; the command gets ``fleet``, ``secrets`` and ``as_json``."""

    @inventory_option
    @passphrase_option
    @json_option
    @functools.wraps(command)
    def wrapped(*, path: Path, passphrase_files: tuple[str, ...], as_json: bool, **options: Any) -> Any:
        return command(fleet=fleet_of(path), secrets=passphrases(passphrase_files), as_json=as_json, **options)

    return wrapped


def passphrases(files: tuple[str, ...]) -> Passphrases:
    """Passphrases from files, from the environment's file, and from whoever sits at the terminal."""
    named = os.environ.get(keyfile.PASSPHRASE_FILE)
    found: dict[str | None, Path] = {None: Path(named)} if named else {}
    for text in files:
        name, separator, file = text.partition("=")
        found[name if separator else None] = Path(file if separator else text)
    return Passphrases(found, _ask if sys.stdin.isatty() else None)


def _ask(text: str) -> str:
    answer: str = click.prompt(text, hide_input=True, err=True)
    return answer
