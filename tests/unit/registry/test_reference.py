from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import UsageError
from hedgerow.registry.reference import Reference, version_key


def test_parse():
    reference = Reference.parse("smollm2-135m.instruct@1.2.0-rc.1")
    assert (reference.name, reference.version) == ("smollm2-135m.instruct", "1.2.0-rc.1")
    assert str(reference) == "smollm2-135m.instruct@1.2.0-rc.1"
    assert Reference.of_target(reference.target) == reference


@pytest.mark.parametrize("text", ["", "a", "a@", "@1.0.0", "a@1.0", "A@1.0.0", "a@1.0.0@2.0.0", "../a@1.0.0", "a@../1"])
def test_what_is_no_reference_says_how_one_looks(text):
    with pytest.raises(UsageError, match="not NAME@VERSION") as caught:
        Reference.parse(text)
    assert "assistant@1.0.0" in caught.value.next_step


@pytest.mark.parametrize(
    "path", ["models/a/1.0.0/other.json", "runtimes/a/1.0.0/manifest.json", "models/a/x/manifest.json"]
)
def test_a_target_that_is_no_bundle(path):
    assert Reference.of_target(path) is None


def test_order_of_the_specification():
    """The example of Semantic Versioning 2.0.0, section 11, and numbers that text would sort wrongly."""
    ordered = ["1.0.0-alpha", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11"]
    ordered += ["1.0.0-rc.1", "1.0.0", "1.0.9", "1.0.10", "1.9.0", "1.10.0", "2.0.0-1", "2.0.0"]
    backwards = ordered[::-1]
    assert sorted(backwards, key=version_key) == ordered


numbers = st.integers(0, 30).map(str)


@given(st.lists(st.tuples(numbers, numbers, numbers).map(".".join), min_size=2))
def test_releases_sort_as_numbers(versions):
    assert sorted(versions, key=version_key) == sorted(
        versions, key=lambda text: [int(part) for part in text.split(".")]
    )
