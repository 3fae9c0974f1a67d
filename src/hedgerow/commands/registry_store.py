"""``hedgerow registry gc``, ``push`` and ``export``: what is done with a registry's files, without signing anything."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from hedgerow.commands.inventory import inventory_option
from hedgerow.commands.registry_stages import named_stage, stage_option
from hedgerow.errors import PublisherError, UsageError
from hedgerow.output import err, json_option, out, print_json, print_table
from hedgerow.registry import blobs
from hedgerow.registry import bundle as bundles
from hedgerow.registry.bundle import Bundle
from hedgerow.registry.manifest import FILE_NAME
from hedgerow.registry.reference import Reference
from hedgerow.registry.store import ObjectStore
from hedgerow.registry.stores import open_store
from hedgerow.registry.verify import trusted

_HOUR_S = 3600.0
_SHOWN = 20
_AGAIN = "stage the bundle again from its folder: hedgerow registry stage FOLDER"


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Which registry: a stage's, or any store by its address."""

    @inventory_option
    @stage_option
    @click.option("--store", "address", help="A folder, or s3://BUCKET/PREFIX?endpoint=…; see docs/stores.md.")
    @functools.wraps(command)
    def wrapped(*, path: Path, stage: str | None, address: str | None, **options: Any) -> Any:
        return command(store=_open(path, stage, address), **options)

    return wrapped


@click.command()
@store_options
@click.option("--delete", is_flag=True, help="Remove what is listed; without this nothing changes.")
@click.option(
    "--grace-hours", type=click.FloatRange(min=0), default=24.0, show_default=True, help="Younger files stay."
)
@click.option("--withdrawn", is_flag=True, help="Also what releases alone lead to that were withdrawn.")
@json_option
def gc(*, store: ObjectStore, delete: bool, grace_hours: float, withdrawn: bool, as_json: bool) -> None:
    """Show, or remove, files that no signed metadata leads to.

    \b
    Examples:
      hedgerow registry gc
      hedgerow registry gc --store s3://models/meadow --delete
      hedgerow registry gc --withdrawn

    What a snapshot in force names stays, and what candidates name. A release that was withdrawn keeps its bytes, for
    it may be approved again, until --withdrawn gives them up; not within the life of a snapshot that has it.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.registry.stores import sweep  # tuf costs a quarter of a second, --help should not

    now, grace_s = datetime.now(UTC), grace_hours * _HOUR_S
    unfinished = 0
    if delete:
        found, unfinished = sweep.carry_out(store, now=now, grace_s=grace_s, withdrawn=withdrawn)
    else:
        found = sweep.plan(store, now=now, grace_s=grace_s, withdrawn=withdrawn)
    size = sum(entry.size for entry in found.remove)
    if as_json:
        print_json(
            {
                "removed": delete,
                "files": [{"path": each.path, "bytes": each.size, "age_s": each.age_s} for each in found.remove],
                "bytes": size,
                "young": len(found.young),
                "named": len(found.named),
                "unfinished": unfinished,
            }
        )
        return
    if found.remove:
        rows = [(each.path, f"{each.size / 1e6:.1f}", f"{each.age_s / _HOUR_S:.0f}") for each in found.remove[:_SHOWN]]
        print_table(f"nothing signed leads to these in {store.where}", ("file", "MB", "hours old"), rows)
        if len(found.remove) > _SHOWN:
            out.print(f"… and {len(found.remove) - _SHOWN} more (--json lists all)")
    verb = "removed" if delete else "would remove"
    out.print(
        f"{verb} {len(found.remove)} files, {size / 1e6:.1f} MB; {len(found.named)} are named, "
        f"{len(found.young)} are younger than {grace_hours:g} h",
        soft_wrap=True,
    )
    if unfinished:
        out.print(f"and {unfinished} uploads that were never finished")
    if found.remove and not delete:
        out.print("remove them: the same command with --delete")


@click.command()
@click.argument("target")
@store_options
@json_option
def push(*, target: str, store: ObjectStore, as_json: bool) -> None:
    """Bring the whole registry to the store TARGET: content first, the timestamp last.

    \b
    Examples:
      hedgerow registry push s3://models/meadow
      hedgerow registry push /media/usb/registry

    Run again, it goes on where it was cut off. A TARGET with newer metadata is refused.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.registry.stores import copying  # as above

    place = open_store(target)
    with _progress(f"copying to {place.where}", sum(entry.size for entry in store.entries(""))) as advance:
        done = copying.copy(store, place, on_bytes=advance)
    if as_json:
        print_json({"target": place.where, "files": done.files, "bytes": done.bytes, "kept": done.kept})
    else:
        out.print(
            f"{place.where} has the registry: {done.files} files sent, {done.bytes / 1e6:.1f} MB; "
            f"{done.kept} were there",
            soft_wrap=True,
        )


@click.command()
@click.argument("bundle")
@click.argument("repository", type=click.Path(path_type=Path, file_okay=False))
@inventory_option
@stage_option
@click.option("--number", default=1, show_default=True, help="Triton's number of this version.")
@click.option("--variant", help="Which build of a bundle that has several (default: the first in ONNX).")
@click.option(
    "--max-batch", type=click.IntRange(min=0), default=0, show_default=True, help="Triton may batch up to it."
)
@json_option
def export(
    *,
    bundle: str,
    repository: Path,
    path: Path,
    stage: str | None,
    number: int,
    variant: str | None,
    max_batch: int,
    as_json: bool,
) -> None:
    """Write BUNDLE (a folder, or NAME@VERSION of the stage's registry) into the Triton model repository REPOSITORY.

    \b
    Examples:
      hedgerow registry export detector@1.0.0 /srv/triton
      hedgerow registry export var/cache/bundles/… /srv/triton --number 2 --max-batch 8

    ONNX alone; its files are verified before and copied as they are.
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.registry import export as exporting

    with _verified(bundle, path, stage) as whole:
        place = exporting.triton(whole, repository, number=number, variant=variant, max_batch=max_batch)
        reference = whole.manifest.reference
    if as_json:
        print_json({"bundle": reference, "folder": str(place), "config": str(place.parent / exporting.CONFIG)})
    else:
        out.print(f"{reference} is version {number} of the model in {place.parent}", soft_wrap=True)


def _open(path: Path, stage: str | None, address: str | None) -> ObjectStore:
    if address is not None:
        if stage is not None:
            raise UsageError("--store and --stage both say which registry", next_step="give one of the two")
        return open_store(address)
    from hedgerow.registry.authority.session import store_of_stage  # as above

    return store_of_stage(*named_stage(path, stage))


@contextmanager
def _verified(bundle: str, path: Path, stage: str | None) -> Iterator[Bundle]:
    """The bundle with every byte checked: where it lies, or put together from the registry."""
    if Path(bundle).is_dir():
        yield bundles.verify_files(Path(bundle))
        return
    reference = Reference.parse(bundle)
    store = _open(path, stage, None)
    manifest, data = trusted(store, reference)
    with tempfile.TemporaryDirectory(prefix="hedgerow-export-") as scratch:
        folder = Path(scratch)
        (folder / FILE_NAME).write_bytes(data)
        for file in manifest.files:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            _bring(store, blobs.path(file.sha256), target)
        yield bundles.verify_files(folder)


def _bring(store: ObjectStore, path: str, target: Path) -> None:
    """A file of the store, as it is."""
    try:
        with store.open(path) as blocks, target.open("wb") as file:
            file.writelines(blocks)
    except FileNotFoundError as error:
        raise PublisherError(
            "a file of the bundle is not in the registry", where=f"{store.where}, {path}", next_step=_AGAIN
        ) from error


@contextmanager
def _progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bars:
        task = bars.add_task(text, total=total)
        yield lambda count: bars.advance(task, count)
