from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.errors import UsageError
from hedgerow.runtime.lock import Locked, parse, union
from hedgerow.runtime.target import Target

TEXT = """\
# made by make lock
anyio==4.16.0 ; python_full_version < '3.14' and sys_platform == 'linux' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
backport==1.0 ; python_full_version < '3.12' \\
    --hash=sha256:cc
armonly==2.0 ; platform_machine == 'aarch64' \\
    --hash=sha256:dd
"""


@pytest.mark.parametrize(
    "target,names",
    [
        (Target("3.13", "x86_64"), ["anyio==4.16.0"]),
        (Target("3.11", "x86_64"), ["anyio==4.16.0", "backport==1.0"]),
        (Target("3.13", "aarch64"), ["anyio==4.16.0", "armonly==2.0"]),
    ],
)
def test_markers_are_the_targets_not_this_pythons(target: Target, names: list[str]) -> None:
    assert [entry.requirement for entry in parse(TEXT, target, where="x")] == names


def test_a_line_for_pip_carries_every_hash() -> None:
    assert parse(TEXT, Target("3.13", "x86_64"), where="x")[0].line() == (
        "anyio==4.16.0 --hash=sha256:aa --hash=sha256:bb"
    )


@pytest.mark.parametrize("line", ["anyio==4.16.0", "anyio>=4 --hash=sha256:aa", "not a requirement !"])
def test_what_is_not_locked_is_refused(line: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(line, Target("3.13", "x86_64"), where="requirements/device.txt")
    assert "make lock" in str(caught.value)


def test_the_real_lock_parses_for_every_target() -> None:
    text = Path(__file__).parents[3].joinpath("requirements/device.txt").read_text()
    for python in ("3.11", "3.12", "3.13"):
        names = {e.requirement.partition("=")[0] for e in parse(text, Target(python, "aarch64"), where="x")}
        assert {"onnxruntime", "onnxruntime-genai", "numpy", "msgspec"} <= names


def test_a_package_of_several_locks_is_there_once() -> None:
    a, b = Locked("a==1", ("sha256:aa",)), Locked("b==1", ("sha256:bb",))
    assert union({"x": [a], "y": [b, a]}) == [a, b]


@pytest.mark.parametrize("other", [Locked("a==2", ("sha256:aa",)), Locked("a==1", ("sha256:bb",))])
def test_locks_that_do_not_agree_are_refused(other: Locked) -> None:
    with pytest.raises(UsageError) as caught:
        union({"x": [Locked("a==1", ("sha256:aa",))], "y": [other]})
    assert (caught.value.where, caught.value.next_step) == ("y", "make lock")
