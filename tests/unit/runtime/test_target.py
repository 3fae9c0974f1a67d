from __future__ import annotations

import pytest

from hedgerow.errors import UsageError
from hedgerow.runtime.target import Target


def test_a_boards_tags_begin_with_its_own_glibc_and_end_with_the_oldest() -> None:
    platforms = Target("3.13", "aarch64").platforms
    assert platforms[0] == "manylinux_2_41_aarch64"
    assert platforms[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]
    assert not any("x86_64" in tag for tag in platforms)


def test_a_newer_glibc_than_the_devices_is_never_taken() -> None:
    assert "manylinux_2_39_x86_64" not in Target("3.11", "x86_64").platforms
    assert "manylinux1_x86_64" in Target("3.11", "x86_64").platforms


@pytest.mark.parametrize("python,architecture,option", [("3.10", "aarch64", "--python"), ("3.13", "armv7l", "--arch")])
def test_what_no_runtime_is_built_for_is_refused(python: str, architecture: str, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        Target(python, architecture)
    assert option in str(caught.value)
    assert "choose one of" in str(caught.value)
