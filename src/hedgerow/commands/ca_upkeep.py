"""``hedgerow ca crl``, ``hedgerow ca log`` and ``hedgerow ca rotate``: what a CA needs while it is in use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from hedgerow.chainlog import ChainLog, Head
from hedgerow.commands.ca_options import Fleet, fleet_of, fleet_options, key_options, place
from hedgerow.commands.inventory import inventory_option
from hedgerow.errors import ExitCode, UsageError
from hedgerow.identity import issued, revocations
from hedgerow.identity.authority import crl as crls
from hedgerow.identity.authority import generations, keys, lists, rotation
from hedgerow.identity.authority.generations import Generation
from hedgerow.output import json_option, out, print_json, print_table
from hedgerow.passphrases import Passphrases


@click.command()
@click.option("--force", is_flag=True, help="Write every list anew whose key is here.")
@fleet_options
def crl(*, fleet: Fleet, secrets: Passphrases, force: bool, as_json: bool) -> int:
    """Bring the revocation lists of every CA up to date, and write ca/crl.pem, which gateways serve.

    A list is written anew when somebody was revoked since, or half of its life is over (issuing CAs 7 days, a root
    180). Exit code 4: one lacks a revocation or has ended, and its key is not here.
    """
    folder = fleet.ca
    done = lists.refresh(folder, secrets, force=force)
    rows = [_list_facts(status) for status in done]
    if as_json:
        print_json({"changed": any(status.changed for status in done), "bundle": folder / lists.BUNDLE, "lists": rows})
    else:
        print_table(
            None,
            ("CA", "revoked", "until (UTC)", "number", "written", "to do"),
            [
                (
                    row["name"],
                    row["revoked"],
                    _minutes(row["next_update"]),
                    row["number"],
                    "now" if row["changed"] else "before",
                    row["problem"],
                )
                for row in rows
            ],
        )
    return ExitCode.PARTIAL if any(status.problem for status in done) else ExitCode.OK


@click.command()
@click.option("--verify", is_flag=True, help="Look at every line's hash, and at the end that the anchor names.")
@click.option(
    "--head", "heads", multiple=True, metavar="NUMBER:SHA256", help="A published end of ca/issued.jsonl to find in it."
)
@inventory_option
@json_option
def log(*, verify: bool, heads: tuple[str, ...], path: Path, as_json: bool) -> int:
    """Show the issuance logs and the ledger of revocations: how long, and their last line's hash.

    Publish the hash where nobody can change it; --head finds it again. Exit code 1: a log was changed.
    """
    folder = fleet_of(path).ca
    published = _heads(heads)
    chains: list[tuple[ChainLog[Any], tuple[Head, ...]]] = [
        (issued.chain(file), published if number == 0 else ()) for number, file in enumerate(issued.logs(folder))
    ]
    chains.append((revocations.chain(folder), ()))
    rows = [_log_facts(folder, chain, own, verify=verify or bool(own)) for chain, own in chains]
    if as_json:
        print_json(rows)
    else:
        print_table(
            None,
            ("log", "entries", "older lines", "head", "verdict"),
            [
                (
                    row["log"],
                    row["entries"],
                    row["unchained"],
                    row["head"],
                    "; ".join(row["problems"]) or row["verdict"],
                )
                for row in rows
            ],
        )
    return ExitCode.FAILED if any(row["problems"] for row in rows) else ExitCode.OK


@click.group()
def rotate() -> None:
    """From one CA to the next without cutting anybody off: begin, switch, finish."""


@rotate.command()
@click.option("--two-tier", is_flag=True, help="The next CA is a root with issuing CAs below it.")
@key_options
@click.option("--days", type=click.IntRange(1), help="Life of the next CA; default: 20 years a root, 10 a single tier.")
@fleet_options
def begin(
    *,
    fleet: Fleet,
    secrets: Passphrases,
    two_tier: bool,
    uri: str | None,
    module: str | None,
    days: int | None,
    as_json: bool,
) -> None:
    """Make the next CA beside the present one, and have both trusted. The present one goes on signing.

    Then bring the bundle to every host and client (playbooks/site.yml --tags device_identity) before: switch.
    """
    encrypted = (
        two_tier
        or uri is not None
        or keys.is_encrypted(generations.home(fleet.ca, generations.active(fleet.ca).number))
    )
    generation, changed = rotation.begin(
        fleet.directory, secrets if encrypted else None, two_tier=two_tier, place=place(uri, module), days=days
    )
    below = "hedgerow ca issuing add fleet --next; " if two_tier else ""
    _step(
        generation,
        changed,
        f"{below}bring ca.crt to everybody: ansible-playbook playbooks/site.yml --tags device_identity; "
        "then: hedgerow ca rotate switch --everybody-trusts-both",
        as_json=as_json,
    )


@rotate.command()
@click.option(
    "--everybody-trusts-both",
    "trusted",
    is_flag=True,
    help="You brought the bundle to every host and client; who lacks it refuses what the next CA signs.",
)
@inventory_option
@json_option
def switch(*, path: Path, trusted: bool, as_json: bool) -> None:
    """Let the next CA sign from now on. What the old one signed stays good and is renewed by and by."""
    if not trusted:
        raise UsageError(
            "who does not trust the next CA yet refuses every certificate that it signs",
            where="rule: trust before use",
            next_step="ansible-playbook playbooks/site.yml --tags device_identity, "
            "then: hedgerow ca rotate switch --everybody-trusts-both",
        )
    generation, changed = rotation.switch(fleet_of(path).directory)
    _step(
        generation,
        changed,
        "ansible-playbook playbooks/rotate_identity.yml renews everybody; hedgerow ca rotate status; "
        "then: hedgerow ca rotate finish",
        as_json=as_json,
    )


@rotate.command()
@click.option(
    "--force", is_flag=True, help="Although certificates of the old CA have life left: who has one is cut off."
)
@inventory_option
@json_option
def finish(*, path: Path, force: bool, as_json: bool) -> None:
    """Have the old CA trusted no longer. Refused while a certificate of it has life left."""
    generation, changed = rotation.finish(fleet_of(path).directory, force=force)
    _step(
        generation,
        changed,
        "bring ca.crt to everybody once more; then destroy the old key (hedgerow ca rotate status says where)",
        as_json=as_json,
    )


@rotate.command()
@inventory_option
@json_option
def abort(*, path: Path, as_json: bool) -> None:
    """Give up a next CA that signs nothing yet."""
    changed = rotation.abort(fleet_of(path).directory)
    if as_json:
        print_json({"changed": changed})
    else:
        out.print("the next CA is given up" if changed else "there is no next CA", highlight=False)


@rotate.command()
@inventory_option
@json_option
def status(*, path: Path, as_json: bool) -> None:
    """Show every CA that this fleet had, has and will have, and how many certificates of each have life left."""
    rows = rotation.status(fleet_of(path).directory)
    if as_json:
        print_json([{**dataclasses.asdict(row), "generation": msgspec.to_builtins(row.generation)} for row in rows])
        return
    print_table(
        None,
        ("generation", "state", "since (UTC)", "tiers", "issuing CAs", "alive", "the last ends (UTC)", "files"),
        [
            (
                row.generation.number,
                row.generation.state,
                _minutes(row.generation.since or None),
                row.tiers,
                ", ".join(row.issuing) or None,
                row.alive,
                None if row.last_ends is None else f"{row.last_ends:%Y-%m-%d %H:%M}",
                row.home,
            )
            for row in rows
        ],
    )


def _step(generation: Generation | None, changed: bool, following: str, *, as_json: bool) -> None:  # noqa: FBT001 - as click passes it
    if as_json:
        plain = None if generation is None else msgspec.to_builtins(generation)
        print_json({"changed": changed, "generation": plain, "next": following})
        return
    if generation is None:
        out.print("no rotation is under way", highlight=False)
        return
    done = "is now" if changed else "already is"
    out.print(f"generation {generation.number} of the CA {done} {generation.state}", highlight=False)
    out.print(f"  next: {following}", highlight=False, soft_wrap=True)


def _list_facts(status: lists.Status) -> dict[str, Any]:
    found = status.found
    return {
        "name": status.authority.name,
        "certificate_sha256": lists.fingerprint(status.authority),
        "changed": status.changed,
        "number": None if found is None else crls.number(found),
        "revoked": None if found is None else len(found),
        "next_update": None if status.next_update is None else status.next_update.isoformat(),
        "problem": status.problem,
    }


def _log_facts(folder: Path, chain: ChainLog[Any], heads: Iterable[Head], *, verify: bool) -> dict[str, Any]:
    name = str(chain.path.relative_to(folder.parent))
    if not verify:
        head = chain.head()
        return {
            "log": name,
            "entries": head.entries,
            "unchained": None,
            "head": str(head),
            "verdict": "not looked at: --verify",
            "problems": [],
        }
    verdict = chain.verify(*heads)
    return {
        "log": name,
        "entries": verdict.entries,
        "unchained": verdict.unchained,
        "head": str(verdict.head),
        "verdict": "whole",
        "problems": [f"line {each.line}: {each.what}" if each.line else each.what for each in verdict.problems],
    }


def _heads(texts: Iterable[str]) -> tuple[Head, ...]:
    try:
        return tuple(Head.parse(text) for text in texts)
    except ValueError as error:
        raise UsageError(str(error), where="--head", next_step="hedgerow ca log shows the present one") from error


def _minutes(moment: str | None) -> str | None:
    return None if moment is None else moment[:16].replace("T", " ")
