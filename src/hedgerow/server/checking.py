"""Hold a tensor request to what the model declares; the runtime's own words name less."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest

if TYPE_CHECKING:
    from hedgerow.server.backends import Arrays
    from hedgerow.server.models import Served


def check(model: Served, inputs: Arrays, outputs: Sequence[str]) -> None:
    """Names, data types and shapes.

    Raises:
        BadRequest: one is not as the model declares; names it.
    """
    specs = model.inputs
    for name, array in inputs.items():
        if name not in specs:
            raise BadRequest(f"the model has no input '{name}'; it has: {', '.join(specs)}", field=name)
        spec, got = specs[name], tensors.datatype_of(array)
        if got != spec.datatype:
            raise BadRequest(f"input '{name}' is {spec.datatype}, not {got}", field=name)
        if not _fits(array.shape, spec.shape):
            raise BadRequest(f"input '{name}' has shape {list(spec.shape)}, not {list(array.shape)}", field=name)
    for name in specs:
        if name not in inputs:
            raise BadRequest(f"input '{name}' is missing", field=name)
    for name in outputs:
        if outputs.count(name) > 1:
            raise BadRequest(f"output '{name}' is asked for twice", field=name)
        if name not in model.outputs:
            raise BadRequest(f"the model has no output '{name}'; it has: {', '.join(model.outputs)}", field=name)


def check_batch(model: Served, inputs: Arrays) -> None:
    """Rows, where the model's configuration says how many there may be.

    Raises:
        BadRequest: there are more, or the inputs differ in them.
    """
    most = 0 if model.config is None else model.config.max_batch_size
    if not most:
        return
    rows = {name: array.shape[0] for name, array in inputs.items()}
    if len(set(rows.values())) > 1:
        raise BadRequest(f"the inputs have batches of different sizes: {rows}")
    if max(rows.values(), default=0) > most:
        raise BadRequest(f"the batch has {max(rows.values())} rows; model '{model.name}' takes {most}")


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    # A model that declares no shape gives an empty one, as for a scalar: the runtime will tell.
    if not declared:
        return True
    if len(shape) != len(declared):
        return False
    for size, want in zip(shape, declared, strict=True):  # noqa: SIM110 - a generator takes three times as long
        if want not in (size, -1):
            return False
    return True
