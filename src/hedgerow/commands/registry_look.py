"""``hedgerow registry``: verify, list, show. They look at a stage as its devices do, and sign nothing."""

from __future__ import annotations

from datetime import timedelta
from itertools import groupby
from typing import Any

import click
import msgspec

from hedgerow.commands.registry_stages import kind_option, look_options
from hedgerow.errors import PublisherError
from hedgerow.output import out, print_json, print_table
from hedgerow.registry.authority import status as stages
from hedgerow.registry.authority.releases import Release
from hedgerow.registry.authority.session import Session
from hedgerow.registry.reference import Reference
from hedgerow.registry.verify import trusted
from hedgerow.registry.verify import verify as verify_store

_SOON = timedelta(days=2)


@click.command()
@look_options
def verify(*, session: Session, as_json: bool) -> int:
    """Walk the whole registry as a device would: signatures, then every byte."""
    found: dict[str, list[Any]] = {}
    for kind, releases in groupby(stages.status(session).releases, key=lambda each: each.kind):
        judged = verify_store(session.store, [_reference(each) for each in releases], kind=kind)
        found |= {str(each): errors for each, errors in judged.items()}
    if as_json:
        print_json({each: [error.as_dict() for error in errors] for each, errors in found.items()})
    else:
        rows = [
            (each, "ok" if not errors else "\n".join(str(error) for error in errors)) for each, errors in found.items()
        ]
        print_table(_title(session), ("bundle", "verdict"), rows)
    return int(PublisherError.exit_code) if any(found.values()) else 0


@click.command("list")
@look_options
def list_bundles(*, session: Session, as_json: bool) -> None:
    """Show what is released, and until when the metadata holds."""
    now = stages.status(session)
    rows = [(each, trusted(session.store, _reference(each), kind=each.kind)[0]) for each in now.releases]
    expiries = {each.role: each.expires for each in now.roles if each.expires is not None}
    if as_json:
        listed = [
            {"bundle": of.reference, "kind": each.kind, "format": of.format, "bytes": of.size, "license": of.license}
            for each, of in rows
        ]
        print_json({"stage": session.settings.stage, "bundles": listed, "expires": expiries})
        return
    print_table(
        _title(session),
        ("bundle", "kind", "format", "MB", "license"),
        [(of.reference, each.kind, of.format, f"{of.size / 1e6:.1f}", of.license) for each, of in rows],
    )
    first = {role: at for role, at in expiries.items() if role in {"root", "targets", "snapshot", "timestamp"}}
    ends = [f"{role} {_until(at - session.now())}" for role, at in first.items()]
    spoken = [at for role, at in expiries.items() if role not in first]
    ends += [f"builders and approvers {_until(min(spoken) - session.now())}"] if spoken else []
    out.print("metadata ends: " + ", ".join(ends), soft_wrap=True)


@click.command()
@click.argument("bundle")
@kind_option
@look_options
def show(*, session: Session, bundle: str, kind: str, as_json: bool) -> None:  # noqa: ARG001 - a manifest is JSON either way
    """Show the verified manifest of NAME@VERSION as JSON."""
    manifest: Any = msgspec.to_builtins(trusted(session.store, Reference.parse(bundle), kind=kind)[0])
    print_json(manifest)


def _reference(release: Release) -> Reference:
    return Reference(release.name, release.version)


def _title(session: Session) -> str:
    return f"registry of fleet {session.settings.fleet}, stage {session.settings.stage}"


def _until(span: timedelta) -> str:
    if span < timedelta(0):
        return "has ended"
    return f"in {span.days} d" if span > _SOON else f"in {span.total_seconds() / 3600:.0f} h"
