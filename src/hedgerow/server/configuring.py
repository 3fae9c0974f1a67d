"""Hold a model to the configuration beside it, and take from it what is obeyed: batching, names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hedgerow.server import modelconfig
from hedgerow.server.batching import Batching
from hedgerow.server.errors import Unusable

if TYPE_CHECKING:
    from hedgerow.server.backends import Backend, TensorSpec
    from hedgerow.server.modelconfig import ConfigTensor, ModelConfig

_MICRO = 1e-6


def applied(config: ModelConfig, backend: Backend, folder: Path) -> tuple[Batching | None, Mapping[str, Sequence[str]]]:
    """How its requests are batched (None: as the server does), and the labels of its outputs' classes.

    Raises:
        Unusable: ``load_failed``: the model has other tensors than its configuration says.
    """
    batched = config.max_batch_size > 0
    for side, declared in (("input", config.input), ("output", config.output)):
        specs: Sequence[TensorSpec] = getattr(backend, f"{side}s", ())
        _compare(side, declared, specs, batched=batched)
    batching = None
    if config.dynamic_batching is not None:
        batching = Batching(config.max_batch_size, config.dynamic_batching.max_queue_delay_microseconds * _MICRO)
    labels = {each.name: _labels(folder / each.label_filename) for each in config.output if each.label_filename}
    return batching, labels


def _compare(side: str, declared: Sequence[ConfigTensor], specs: Sequence[TensorSpec], *, batched: bool) -> None:
    """What is not declared is the model's own."""
    if batched and not all(spec.shape and spec.shape[0] == -1 for spec in specs):
        raise Unusable("load_failed", f"max_batch_size needs a free first dimension of every {side}")
    own = {each.name: each for each in modelconfig.tensors(specs, batched=batched)}
    for each in declared:
        if each.name not in own:
            raise Unusable("load_failed", f"the model has no {side} '{each.name}'; it has: {', '.join(own)}")
        found = own[each.name]
        if each.data_type != found.data_type:
            raise Unusable("load_failed", f"{side} '{each.name}' is {found.data_type}, not {each.data_type}")
        fits = len(each.dims) == len(found.dims) and all(
            -1 in {one, other} or one == other for one, other in zip(each.dims, found.dims, strict=True)
        )
        if found.dims and not fits:
            raise Unusable("load_failed", f"{side} '{each.name}' has dims {found.dims}, not {each.dims}")


def _labels(path: Path) -> Sequence[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Unusable("load_failed", f"label_filename {path.name} cannot be read: {error}") from error
