"""``hedgerow registry publish``: stage, approve and release in one, for whoever has all the keys at hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from tuf.api.metadata import TargetFile

from hedgerow.commands.registry_releases import proven, show_before_signing
from hedgerow.commands.registry_stages import note_option, stage_options, sure
from hedgerow.output import err, out, print_json
from hedgerow.registry import bundle as bundles
from hedgerow.registry.authority import publishing
from hedgerow.registry.authority.session import Session
from hedgerow.registry.manifest import Manifest
from hedgerow.registry.packing.publish import packer


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--yes", is_flag=True, help="Approve what is shown without asking.")
@note_option
@stage_options
def publish(*, session: Session, bundle: Path, yes: bool, note: str, as_json: bool) -> None:
    """Stage, approve and release the bundle in folder BUNDLE, with the keys of both roles.

    Where builder and approver are different people, each types their own command: stage, approve, release.
    """

    def asked(manifest: Manifest, files: Mapping[str, TargetFile]) -> None:
        show_before_signing(manifest, files)
        sure(f"build, approve and release {manifest.reference} in {session.settings.stage}?", yes=yes)

    with _progress(f"verifying {bundle.name}", bundles.load(bundle).manifest.size) as advance:
        done = publishing.publish(
            session, bundle, packer=packer, prover=proven, asked=asked, on_bytes=advance, note=note
        )
    word = done.built
    if as_json:
        print_json(
            {
                "changed": done.changed,
                "bundle": word.reference,
                "kind": word.kind,
                "stage": session.settings.stage,
                "sha256": word.sha256,
                "new_bytes": word.new_bytes,
                "events": msgspec.to_builtins(done.settled.events),
            }
        )
        return
    text = f"released, {word.new_bytes / 1e6:.1f} MB new" if done.changed else "is released already"
    out.print(f"{word.reference} {text} (stage {session.settings.stage}, manifest {word.sha256[:12]})", soft_wrap=True)


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal while a bundle is read, nothing elsewhere; gone before somebody is asked."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(text, total=total)
        left = total

        def advance(count: int) -> None:
            nonlocal left
            left -= count
            bars.advance(task, count)
            if left <= 0:
                bars.stop()

        yield advance
