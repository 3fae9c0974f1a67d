from __future__ import annotations

import pytest

from hedgerow import paths
from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity.issued import Issued
from hedgerow.inventory import Host, load
from hedgerow.lifecycle import replacement
from hedgerow.lifecycle.replacement import Served
from hedgerow.registry.manifest import GoldenText, Message
from hedgerow.rollout.events import HostState, Outcome, State
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import Policy

OLD, OLDER, NEW = "10000000a1b2c3d4", "10000000a1b2c3d3", "e0d1c2b3a4950011"
PI = "pi-orchard-1"


@pytest.fixture(scope="module")
def host() -> Host:
    return load(paths.repository_root() / "inventory/emulated").hosts[PI]


def certificate(serial: str, host: str = PI, profile: str = "device") -> Issued:
    return Issued(
        time="2026-11-01T00:00:00Z", serial_number="1f", profile=profile, name=serial, dns=[f"{host}.orchard.meadow"],
        uris=[], not_before="", not_after="", certificate_sha256="", key_sha256="", reason="",
    )  # fmt: skip


LOG = [certificate(OLDER), certificate(OLD), certificate("10000000ffffffff", "pi-orchard-2")]


def judge(host: Host, old: str, new: str, log: list[Issued] = LOG) -> None:
    replacement.judge(host, fleet="meadow", old=old, new=new, issued=log)


def test_an_exchange_that_is_one_passes(host: Host) -> None:
    judge(host, OLD, NEW)
    judge(host, OLDER, NEW)  # the one before the last came back and died again
    judge(host, OLD, NEW, [*LOG, certificate(NEW)])  # a run that was cut off goes on


@pytest.mark.parametrize("old,new", [("", NEW), (OLD, ""), ("", "")])
def test_both_serials_must_be_typed(host: Host, old: str, new: str) -> None:
    with pytest.raises(UsageError, match="both serials") as error:
        judge(host, old, new)
    assert f"new_serial={NEW}" in str(error.value)


def test_the_same_board_is_no_exchange(host: Host) -> None:
    with pytest.raises(UsageError, match="no board was exchanged"):
        judge(host, NEW, NEW)


def test_the_inventory_comes_first(host: Host) -> None:
    with pytest.raises(UsageError, match="the inventory says"):
        judge(host, OLD, "10000000deadbeef")


@pytest.mark.parametrize("old", ["10000000ffffffff", "10000000deadbeef"])
def test_a_board_that_never_had_the_name_is_not_revoked(host: Host, old: str) -> None:
    with pytest.raises(RefusedError, match="never was pi-orchard-1") as error:
        judge(host, old, NEW)
    assert f"old_serial={OLD}" in str(error.value)


def test_a_host_that_never_was_enrolled_is_simply_converged(host: Host) -> None:
    with pytest.raises(RefusedError, match="never was") as error:
        judge(host, OLD, NEW, [])
    assert "playbooks/site.yml" in str(error.value)


def rollout(bundle: str, outcome: Outcome | None, *, before: str | None = None, started: bool = True) -> State:
    probe = GoldenText(messages=(Message(role="user", content="?"),), expect="!")
    release = Release(bundle=bundle, sha256="0" * 64, size_bytes=1, probe=probe)
    host = HostState(started_at="t" if started else None, before=before, outcome=outcome)
    return State(
        plan=Plan(release=release, policy=Policy(), waves=[[PI]]), opened_at="t", by="ada@desk", hosts={PI: host}
    )


FIRST = ("1", rollout("assistant@1.0.0", Outcome.CONFIRMED))


@pytest.mark.parametrize(
    "last,expected",
    [
        (rollout("assistant@1.1.0", Outcome.CONFIRMED), "assistant@1.1.0"),
        (rollout("assistant@1.1.0", Outcome.ALREADY, started=False), "assistant@1.1.0"),
        (rollout("assistant@1.1.0", Outcome.KEPT), "assistant@1.1.0"),
        (rollout("assistant@1.1.0", Outcome.REVERTED, before="assistant@1.0.0"), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.REVERTED), None),
        (rollout("assistant@1.1.0", Outcome.UNDONE, before="assistant@1.0.0"), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.ENVIRONMENT, before="assistant@1.0.0"), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.SKIPPED, started=False), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.REFUSED), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.UNREACHABLE, started=False), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", None, started=False), "assistant@1.0.0"),
        (rollout("assistant@1.1.0", Outcome.LOST), None),
        (rollout("assistant@1.1.0", None), None),
    ],
)
def test_what_it_served_is_what_the_last_rollout_left(last: State, expected: str | None) -> None:
    assert replacement.served([FIRST, ("2", last)], PI).bundle == expected


def test_what_nobody_knows_is_said() -> None:
    assert replacement.served([], PI) == Served(None, "no rollout ever reached it")
    assert replacement.served([FIRST], "pi-orchard-2").bundle is None


def test_the_operators_word_counts_more() -> None:
    known = Served("assistant@1.0.0", "a rollout")
    assert replacement.to_restore(None, known, is_gateway=False) == known
    assert replacement.to_restore("", known, is_gateway=False) == known
    assert replacement.to_restore("assistant@2.0.0", known, is_gateway=False).bundle == "assistant@2.0.0"
    assert replacement.to_restore("none", known, is_gateway=False).bundle is None
    assert replacement.to_restore("assistant@2.0.0", known, is_gateway=True).bundle is None
