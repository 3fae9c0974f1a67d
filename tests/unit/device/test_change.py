"""How a change is written, and that nothing is two things."""

from __future__ import annotations

import pytest

from hedgerow.device.change import Change, configuration_version
from hedgerow.errors import UsageError


@pytest.mark.parametrize(
    "text, change",
    [
        ("assistant@1.1.0", Change("model", "assistant", "1.1.0")),
        ("runtime@1.1.0", Change("model", "runtime", "1.1.0")),
        ("runtime:0.1.0+3f9c2d81aa04", Change("runtime", "runtime", "0.1.0+3f9c2d81aa04")),
        ("configuration:9b1f6a2c77de", Change("configuration", "configuration", "9b1f6a2c77de")),
    ],
)
def test_it_is_read_and_written_alike(text: str, change: Change) -> None:
    assert Change.parse(text) == change
    assert str(change) == text


@pytest.mark.parametrize(
    "text", ["runtime", "runtime:", "runtime:../x", "runtime:.x", "model:a@1.0.0", "a:1@1.0.0", "adapter:1", ":1", ""]
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Change.parse(text)


def test_a_configuration_s_version_is_its_text() -> None:
    assert configuration_version(b"a: 1\n") == configuration_version(b"a: 1\n") != configuration_version(b"a: 2\n")
    assert len(configuration_version(b"")) == 12
