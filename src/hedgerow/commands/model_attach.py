"""``hedgerow model attach``: a version of a model with adapters in it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from hedgerow.commands.model_import_show import show
from hedgerow.output import json_option

_PATH: Final = click.Path(path_type=Path)


@click.command("attach")
@click.argument("model", type=_PATH)
@click.argument("adapters", type=_PATH, nargs=-1, required=True)
@click.option("--version", required=True, help="Semantic version of the model with them.")
@click.option("--output", type=_PATH, required=True, help="New bundle's folder.")
@json_option
def attach(model: Path, adapters: tuple[Path, ...], version: str, output: Path, *, as_json: bool) -> None:
    """Make a version of MODEL, a bundle, that has ADAPTERS (of ``pack-adapter``) in it, to be released like any other.

    Clients ask for one as MODEL:ADAPTER. Devices fetch nothing but what they do not have. One that MODEL has already is
    replaced by the one of the same name.

    \b
    Example:
      hedgerow model attach bundles/assistant-1.0.0 bundles/tone-1.0.0 --version 1.1.0 --output bundles/assistant-1.1.0
    """  # noqa: D301 - click's mark for a paragraph as it stands
    from hedgerow.models import attach as attaching

    show(attaching.attach(model, adapters, output.absolute(), version=version).directory, as_json=as_json)
