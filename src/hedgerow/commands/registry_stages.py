"""What the commands of a stage share: their options, how a stage is opened, how its news are told."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow import inventory as inventories
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode, UsageError
from hedgerow.output import err, json_option, out, print_json
from hedgerow.registry import trust_names as names
from hedgerow.registry.authority import settings
from hedgerow.registry.authority.keys import Passphrases
from hedgerow.registry.authority.releasing import Wanted
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.settling import Settled, Waiting
from hedgerow.registry.reference import Reference

Command = Callable[..., Any]

stage_option = click.option(
    "--stage", help="The stage: dev, stage, production … (default: the inventory's registry_stage)."
)
kind_option = click.option(
    "--kind", type=click.Choice(list(names.KINDS)), default="model", show_default=True, help="What the bundle is."
)
passphrase_option = click.option(
    "--passphrase-file",
    "passphrase_files",
    multiple=True,
    metavar="[KEY=]FILE",
    help="A key's passphrase or PIN, or that of all keys; else it is asked for at a terminal. Repeatable.",
)
note_option = click.option("--note", default="", help="Why; stands in the log.")


def stage_options(command: Command) -> Command:
    """The options of a command that signs: inventory, stage, keys, passphrases, JSON."""

    @inventory_option
    @stage_option
    @click.option("--key", "only", multiple=True, metavar="NAME", help="Sign with this key alone. Repeatable.")
    @passphrase_option
    @json_option
    @functools.wraps(command)
    def wrapped(
        *,
        path: Path,
        stage: str | None,
        only: tuple[str, ...],
        passphrase_files: tuple[str, ...],
        as_json: bool,
        **options: Any,
    ) -> Any:
        session = open_stage(path, stage, only=only, passphrase_files=passphrase_files)
        return command(session=session, as_json=as_json, **options)

    return wrapped


def look_options(command: Command) -> Command:
    """The options of a command that only looks: inventory, stage, JSON."""

    @inventory_option
    @stage_option
    @json_option
    @functools.wraps(command)
    def wrapped(*, path: Path, stage: str | None, as_json: bool, **options: Any) -> Any:
        return command(session=open_stage(path, stage), as_json=as_json, **options)

    return wrapped


def open_stage(
    path: Path, stage: str | None, *, only: tuple[str, ...] = (), passphrase_files: tuple[str, ...] = ()
) -> Session:
    """Open a stage of the inventory's fleet, its devices' own where none is named."""
    folder = settings.folder(*named_stage(path, stage))
    return Session.open(folder, passphrases=passphrases(passphrase_files), only=only)


def named_stage(path: Path, stage: str | None) -> tuple[str, str]:
    """The inventory's fleet, and the stage that was asked for."""
    found = inventories.load(path)
    return found.fleet, found.registry_stage if stage is None else stage


def passphrases(files: tuple[str, ...]) -> Passphrases:
    """Passphrases from files, and from whoever sits at the terminal."""
    found: dict[str | None, Path] = {}
    for text in files:
        name, separator, file = text.partition("=")
        found[name if separator else None] = Path(file if separator else text)
    terminal = sys.stdin.isatty()
    return Passphrases(found, _ask if terminal else None)


def wanted(kind: str, bundle: str) -> Wanted:
    """The bundle that a command names."""
    reference = Reference.parse(bundle)
    return Wanted(kind, reference.name, reference.version)


def tell(done: Settled, session: Session, *, as_json: bool, concerns: tuple[str, ...] | None = None) -> int:
    """Print what a step did. Exit code 4 where one of the roles that it ``concerns`` (None: any) lacks signatures."""
    lacking = [each for each in done.waiting if each.missing and (concerns is None or each.role in concerns)]
    if as_json:
        print_json({"changed": bool(done.written), **msgspec.to_builtins(done)})
    else:
        for event in done.events:
            out.print(f"{event.what}: {event.subject} {'; '.join(event.changes)}".rstrip(), soft_wrap=True)
        out.print(f"published: {', '.join(done.written)}" if done.written else "nothing to publish", soft_wrap=True)
        tell_waiting(done.waiting, session)
    return int(ExitCode.PARTIAL if lacking else ExitCode.OK)


def tell_waiting(waiting: tuple[Waiting, ...], session: Session) -> None:
    """Say whose signatures are missing, and how to get them."""
    for each in waiting:
        if each.missing:
            err.print(
                f"{each.role} {each.version} lacks {each.missing} signature(s) of {', '.join(each.by)}; "
                f"next: hedgerow registry request {each.role} --stage {session.settings.stage} --output FILE",
                soft_wrap=True,
                highlight=False,
            )


def sure(question: str, *, yes: bool) -> None:
    """Ask whoever is at the terminal; without one, ``--yes`` must have said it.

    Raises:
        UsageError: nobody said yes.
    """
    if yes:
        return
    if not sys.stdin.isatty() or not click.confirm(question, err=True):
        raise UsageError("nobody said yes; nothing was signed", next_step="look at what is shown, then add --yes")


def _ask(text: str) -> str:
    answer: str = click.prompt(text, hide_input=True, err=True)
    return answer
