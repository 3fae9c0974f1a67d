"""The classification extension: an output as its best classes instead of its values.

Source: Triton, "Classification Extension": a BYTES tensor of ``value:index``, best first. All but the first dimension
of an output are one row of scores; an output of one dimension is one row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hedgerow.server import tensors
from hedgerow.server.errors import BadRequest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hedgerow.server.backends import Arrays
    from hedgerow.server.inference import Wanted


def applied(results: Arrays, wanted: Sequence[Wanted], labels: Mapping[str, Sequence[str]] | None = None) -> Arrays:
    """The results, with those of which classes are wanted replaced by them. ``labels`` of outputs whose classes have.

    Raises:
        BadRequest: an output has no order (BYTES, BOOL).
    """
    classes = {each.name: each.classes for each in wanted if each.classes}
    if not classes:
        return results
    return {
        name: best(array, classes[name], name=name, labels=(labels or {}).get(name, ())) if name in classes else array
        for name, array in results.items()
    }


def best(array: NDArray[np.generic], count: int, *, name: str, labels: Sequence[str] = ()) -> NDArray[np.generic]:
    """The ``count`` best of each row as ``value:index``, or with its label behind; fewer where a row has fewer.

    Raises:
        BadRequest: the values have no order.
    """
    if tensors.datatype_of(array) in {"BYTES", "BOOL"}:
        raise BadRequest(f"output '{name}' is {tensors.datatype_of(array)}, which has no classes", field=name)
    scores = tensors.widened(array) if array.dtype == tensors.BF16 else array
    rows = scores.reshape((scores.shape[0], math.prod(scores.shape[1:])) if scores.ndim > 1 else (1, scores.size))
    # Stable, and what is not a number last, so that equal scores keep their order.
    order = np.argsort(-rows.astype(np.float64), axis=1, kind="stable")[:, :count]
    texts = np.empty(order.shape, dtype=np.object_)
    for row, indices in enumerate(order):
        texts[row] = [f"{_shown(rows[row, index])}:{index}{_label(labels, index)}".encode() for index in indices]
    return texts if array.ndim > 1 else texts[0]


def _label(labels: Sequence[str], index: int) -> str:
    return f":{labels[index]}" if index < len(labels) else ""


def _shown(value: np.generic) -> str:
    """As Triton's std::to_string writes it: six decimals for fractions."""
    return f"{value:f}" if isinstance(value, np.floating) else str(value)
