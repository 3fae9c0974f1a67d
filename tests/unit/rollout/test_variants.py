from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.registry.manifest import Requires
from hedgerow.rollout import variants
from hedgerow.rollout.variants import Memory, Misfit, Traits, Variant


def variant(name: str, memory_mb: int, *hat: str, size: int = 90_000_000) -> Variant:
    return Variant(name=name, requires=Requires(memory_mb=memory_mb, hat=hat), sha256="a" * 64, size_bytes=size)  # type: ignore[arg-type]


CPU, SMALL = variant("cpu", 3000), variant("cpu-small", 900)
HAT, HATS = variant("h10", 2000, "hat-plus-2"), variant("h8", 1500, "hat-plus-13", "hat-plus-26")
ALL = [CPU, SMALL, HAT, HATS]


@pytest.mark.parametrize(
    "hat, memory_mb, name",
    [
        ("none", 8192, "cpu"),
        ("none", 3000, "cpu"),
        ("none", 2999, "cpu-small"),
        ("none", None, "cpu-small"),
        ("hat-plus-2", 8192, "h10"),
        ("hat-plus-2", 1900, "cpu-small"),
        ("hat-plus-26", 8192, "h8"),
        (None, 8192, "cpu"),
    ],
)
def test_the_best_fitting(hat: str | None, memory_mb: int | None, name: str) -> None:
    found = variants.choose(ALL, Traits(hat=hat, memory_mb=memory_mb))
    assert isinstance(found, Variant)
    assert found.name == name


@pytest.mark.parametrize(
    "offered, hat, memory_mb, reason",
    [
        ([HAT], "none", 8192, "is for hat-plus-2, the host has none"),
        ([CPU], "none", 2048, "needs 3000 MB of memory, the board has 2048"),
        ([HATS], "hat-plus-2", None, "is for hat-plus-13 or hat-plus-26, the host has hat-plus-2"),
        ([CPU, HAT], "none", 512, "cpu needs 3000 MB of memory, the board has 512; h10 is for hat-plus-2"),
    ],
)
def test_a_misfit_says_why(offered: list[Variant], hat: str, memory_mb: int | None, reason: str) -> None:
    found = variants.choose(offered, Traits(hat=hat, memory_mb=memory_mb))
    assert isinstance(found, Misfit)
    assert reason in found.reason


@given(st.permutations(ALL), st.sampled_from(["none", "hat-plus-13", "hat-plus-2", None]), st.integers(0, 9000))
def test_the_choice_does_not_depend_on_the_order_and_always_fits(
    offered: list[Variant], hat: str | None, memory_mb: int
) -> None:
    found = variants.choose(offered, Traits(hat=hat, memory_mb=memory_mb))
    assert found == variants.choose(ALL, Traits(hat=hat, memory_mb=memory_mb)) or isinstance(found, Misfit)
    if isinstance(found, Variant):
        assert found.requires.memory_mb <= memory_mb
        assert not found.requires.hat or hat is None or hat in found.requires.hat
    else:
        assert memory_mb < 900


@pytest.mark.parametrize(
    "needs, host, reason",
    [
        (Requires(memory_mb=1, board=("1.0", "1.1")), Traits(board="1.2"), "is for board 1.0 or 1.1, the host is 1.2"),
        (Requires(memory_mb=1, machine="aarch64"), Traits(machine="x86_64"), "is for aarch64, the host is x86_64"),
        (
            Requires(memory_mb=1, npu_memory_mb=4000),
            Traits(hat="hat-plus-26"),
            "needs 4000 MB of memory on the HAT, hat-plus-26 has 0",
        ),
    ],
)
def test_whatever_else_a_manifest_requires_counts_where_the_host_is_known(
    needs: Requires, host: Traits, reason: str
) -> None:
    build = Variant(name="only", requires=needs, sha256="a" * 64, size_bytes=1)
    assert variants.choose([build], host) == Misfit(reason)
    assert variants.choose([build], Traits()) == build, "what is not known refuses nothing"
    assert variants.choose([build], Traits(hat="hat-plus-2", board="1.1", machine="aarch64")) == build


def test_one_made_for_the_board_goes_before_one_for_any() -> None:
    builds = [
        Variant(name=name, requires=Requires(memory_mb=need, board=board), sha256="a" * 64, size_bytes=1)
        for name, need, board in (("any", 900, ()), ("some", 800, ("1.0", "1.1")), ("own", 700, ("1.1",)))
    ]
    assert [getattr(variants.choose(builds, Traits(board=board)), "name", None) for board in ("1.1", "1.0", None)] == [
        "own",
        "some",
        "any",
    ]


def test_no_variant_at_all_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="one variant at least"):
        variants.choose([], Traits())


@pytest.mark.parametrize(
    "board_mb, old_mb, storage, expected",
    [
        (8192, 3000, "sd", Memory("fits")),
        (6000, 3000, "sd", Memory("fits")),
        (5999, 3000, "sd", Memory("outage", outage_s=11)),
        (4096, 0, "sd", Memory("fits")),
        (None, 3000, "sd", Memory("unknown", unknown="the board's memory")),
        (8192, None, "sd", Memory("unknown", unknown="what the host serves now")),
    ],
)
def test_old_and_new_beside_each_other(
    board_mb: int | None, old_mb: int | None, storage: str, expected: Memory
) -> None:
    assert variants.memory(CPU, board_mb=board_mb, old_mb=old_mb, storage=storage) == expected


def test_a_large_model_on_a_slow_card_is_out_for_longer() -> None:
    large = variant("large", 5000, size=3_600_000_000)
    seconds = [
        variants.memory(large, board_mb=8192, old_mb=5000, storage=each).outage_s for each in ("sd", "nvme", None)
    ]
    assert seconds == [50, 19, 50]
