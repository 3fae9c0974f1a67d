"""``hedgerow registry``: stage, approve, release, promote, withdraw."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import click
import msgspec
from tuf.api.metadata import TargetFile

from hedgerow.commands.inventory import inventory_option
from hedgerow.commands.registry_stages import (
    kind_option,
    note_option,
    open_stage,
    passphrase_option,
    stage_option,
    stage_options,
    sure,
    tell,
    tell_waiting,
    wanted,
)
from hedgerow.errors import ExitCode
from hedgerow.output import err, json_option, out, print_json
from hedgerow.registry.authority import releasing, staging
from hedgerow.registry.authority.session import Session
from hedgerow.registry.authority.staging import Word
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.packing.publish import packer


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@stage_options
def stage(*, session: Session, bundle: Path, as_json: bool) -> int:
    """Verify the bundle in folder BUNDLE, bring its contents, and sign as its builder. Devices do not see it yet."""
    word = staging.stage(session, bundle, packer=packer, prover=proven)
    return _tell_word(word, session, as_json=as_json, verb="built")


@click.command()
@click.argument("bundle")
@kind_option
@click.option("--yes", is_flag=True, help="Sign what is shown without asking.")
@stage_options
def approve(*, session: Session, bundle: str, kind: str, yes: bool, as_json: bool) -> int:
    """Show what NAME@VERSION is, and sign as its approver."""
    named = wanted(kind, bundle)
    manifest, files = staging.read_staged(session, kind, named.name, named.version)
    show_before_signing(manifest, files)
    sure(f"approve {named.reference} for {session.settings.stage}?", yes=yes)
    word = staging.approve(session, kind, named.name, named.version)
    return _tell_word(word, session, as_json=as_json, verb="approved")


@click.command()
@click.argument("bundle", required=False)
@kind_option
@note_option
@stage_options
def release(*, session: Session, bundle: str | None, kind: str, note: str, as_json: bool) -> int:
    """Publish all that is signed. With NAME@VERSION: fail unless that is released then. Needs the online keys alone."""
    done = releasing.release(session, None if bundle is None else wanted(kind, bundle), note=note)
    return tell(done, session, as_json=as_json, concerns=())


@click.command()
@click.argument("bundle")
@kind_option
@inventory_option
@click.option("--from", "source", required=True, metavar="STAGE", help="Where it is released.")
@stage_option
@click.option("--key", "only", multiple=True, metavar="NAME", help="Sign with this key alone. Repeatable.")
@passphrase_option
@json_option
def promote(
    *,
    bundle: str,
    kind: str,
    path: Path,
    source: str,
    stage: str | None,
    only: tuple[str, ...],
    passphrase_files: tuple[str, ...],
    as_json: bool,
) -> int:
    """Copy the release NAME@VERSION to another stage, by hash, and sign there as its builder. Approve it there next."""
    target = open_stage(path, stage, only=only, passphrase_files=passphrase_files)
    word = releasing.promote(open_stage(path, source), target, wanted(kind, bundle))
    return _tell_word(word, target, as_json=as_json, verb=f"copied from {source} and built")


@click.command()
@click.argument("bundle")
@kind_option
@note_option
@stage_options
def withdraw(*, session: Session, bundle: str, kind: str, note: str, as_json: bool) -> int:
    """Take back the approval of NAME@VERSION. Who serves it goes on; nobody gets it anew."""
    return tell(releasing.withdraw(session, wanted(kind, bundle), note=note), session, as_json=as_json)


def _tell_word(word: Word, session: Session, *, as_json: bool, verb: str) -> int:
    if as_json:
        print_json(msgspec.to_builtins(word))
    else:
        news = f"{verb} by {word.role}, {word.new_bytes / 1e6:.1f} MB new" if word.changed else f"is {verb} already"
        out.print(f"{word.reference} {news} (manifest {word.sha256[:12]})", soft_wrap=True)
        tell_waiting(word.waiting, session)
    return int(ExitCode.PARTIAL if word.waiting else ExitCode.OK)


def show_before_signing(manifest: Manifest, files: Mapping[str, TargetFile]) -> None:
    """What an approver reads before the question."""
    for line in _summary(manifest, files):
        err.print(line, highlight=False, markup=False, soft_wrap=True)


def proven(folder: Path, today: date) -> None:
    """Hold a bundle to its proofs, and say what they leave open."""
    from hedgerow.models import proof  # what reads models costs a second, and few bundles need it

    for remark in proof.check(folder, today=today).remarks:
        err.print(remark, highlight=False, markup=False, soft_wrap=True)


def _summary(manifest: Manifest, files: Mapping[str, TargetFile]) -> list[str]:
    sources = ", ".join(source.name for source in manifest.provenance.sources)
    lines = [
        f"{manifest.reference}, {manifest.kind}, {manifest.format}, {manifest.size / 1e6:.1f} MB, {manifest.license}",
        f"built by {manifest.provenance.builder} from {sources}",
        f"{len(manifest.files)} files, {len(manifest.golden)} golden inputs, needs {manifest.requires.memory_mb} MB",
    ]
    return lines + [f"signs {path} sha256 {file.hashes['sha256']}" for path, file in sorted(files.items())]
