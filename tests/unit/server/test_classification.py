from __future__ import annotations

import numpy as np
import pytest

from hedgerow.server import classification, tensors
from hedgerow.server.errors import BadRequest
from hedgerow.server.inference import Wanted


@pytest.mark.parametrize(
    "array, count, best",
    [
        (np.array([[0.1, 0.7], [3, 2]], np.float32), 9, [["0.700000:1", "0.100000:0"], ["3.000000:0", "2.000000:1"]]),
        (np.array([[0.1, 0.7, 0.2]], np.float32), 2, [["0.700000:1", "0.200000:2"]]),
        (np.array([5, 9, 7], np.int64), 9, ["9:1", "7:2", "5:0"]),
        (np.array([1.0, np.nan, 2.0], np.float64), 3, ["2.000000:2", "1.000000:0", "nan:1"]),
        (np.array([1, 1, 1], np.uint8), 2, ["1:0", "1:1"]),
        (np.zeros((0, 3), np.float32), 2, []),
        (np.array(4.0, np.float32), 1, ["4.000000:0"]),
        (tensors.from_json(b"[1, 2]", "BF16", [1, 2], name="x"), 1, [["2.000000:1"]]),
    ],
)
def test_the_best_come_first(array, count: int, best) -> None:
    found = classification.best(array, count, name="y")
    assert tensors.datatype_of(found) == "BYTES"
    decoded = np.vectorize(bytes.decode, otypes=[object])(found) if found.size else found
    assert decoded.tolist() == best


def test_only_what_is_asked_for_becomes_classes() -> None:
    results = {"a": np.array([1.0]), "b": np.array([2.0])}
    found = classification.applied(results, [Wanted("a", 1), Wanted("b")])
    assert (found["a"].tolist(), found["b"].tolist()) == ([b"1.000000:0"], [2.0])
    assert classification.applied(results, [Wanted("a")]) is results


@pytest.mark.parametrize("array", [np.array([True]), np.array([b"x"], dtype=object)])
def test_what_has_no_order_has_no_classes(array) -> None:
    with pytest.raises(BadRequest, match=r"output 'y' is (BOOL|BYTES), which has no classes"):
        classification.best(array, 1, name="y")
