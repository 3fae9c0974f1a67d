from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hedgerow.errors import DeviceError, NetworkError
from hedgerow.fleet import awaiting

BEFORE = {"boot_id": "one", "system": "running", "failed": ["old.service"], "server": True}
AFTER = BEFORE | {"boot_id": "two"}


def wait(answers: list[Any], *, within_s: float = 60) -> Any:
    """Ask a host that gives ``answers`` one after the other, the last for ever, on a clock that sleeping moves."""
    clock = [0.0]

    def endless() -> Iterator[Any]:
        yield from answers
        while True:
            yield answers[-1]

    given = endless()

    def ask() -> Any:
        answer = next(given)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return awaiting.until(
        ask,
        lambda answer: awaiting.settled(BEFORE, answer),
        within_s=within_s,
        what="it did not come back well",
        host="pi-1",
        now=lambda: clock[0],
        sleep=lambda seconds: clock.__setitem__(0, clock[0] + seconds),
    )


def test_a_host_is_awaited_over_its_old_boot_its_absence_and_its_start() -> None:
    away = NetworkError("cannot be reached")
    assert wait([BEFORE, away, away, AFTER | {"system": "starting"}, AFTER | {"server": False}, AFTER]) == AFTER


@pytest.mark.parametrize(
    "answer, text",
    [
        (NetworkError("cannot be reached: timed out"), "timed out"),
        (BEFORE, "'boot_id': 'one'"),
        (AFTER | {"system": "maintenance"}, "maintenance"),
        (AFTER | {"boot_id": None}, "None"),
    ],
)
def test_a_host_that_does_not_come_back_is_told_with_its_last_word(answer: Any, text: str) -> None:
    with pytest.raises(DeviceError, match="it did not come back well within 60 s") as error:
        wait([answer])
    assert text in error.value.what


@pytest.mark.parametrize(
    "change, found",
    [
        ({}, []),
        ({"failed": ["old.service", "new.service"]}, ["new.service failed"]),
        ({"failed": []}, []),
        ({"server": None}, ["the server does not answer"]),
    ],
)
def test_what_is_worse_than_before(change: dict[str, Any], found: list[str]) -> None:
    assert awaiting.worse(BEFORE, AFTER | change) == found


def test_a_host_that_never_served_need_not_serve() -> None:
    check: Callable[..., list[str]] = awaiting.worse
    assert check(BEFORE | {"server": None}, AFTER | {"server": None}) == []
