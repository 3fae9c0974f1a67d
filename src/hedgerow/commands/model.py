"""``hedgerow model``: build bundles from checkpoints."""

from __future__ import annotations

import click


@click.group()
def model() -> None:
    """Build model bundles from checkpoints."""


def _add_building() -> None:
    """Where a bundle comes from: a checkpoint, or something that is no model."""
    from hedgerow.commands.model_attach import attach
    from hedgerow.commands.model_import import import_
    from hedgerow.commands.model_import_pack import pack_adapter, pack_application, pack_runtime

    for command in (import_, pack_runtime, pack_adapter, attach, pack_application):
        model.add_command(command)


_add_building()


def _add_proving() -> None:
    """What comes after an import, each in a file of its own: quantize, validate, measure, prove."""
    from hedgerow.commands.model_bench import bench
    from hedgerow.commands.model_prove import prove
    from hedgerow.commands.model_quantize import quantize
    from hedgerow.commands.model_validate import validate

    for command in (quantize, validate, bench, prove):
        model.add_command(command)


_add_proving()
