"""Requests reach the journal once each, and an approval counts with its person's own signature only."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec
import pytest

from hedgerow.errors import RefusedError, UsageError
from hedgerow.rollout import lease, requests
from hedgerow.rollout.events import Opened, OperatorAsked, Request, RequestKind, WaveOpened
from hedgerow.rollout.journal import Journal
from hedgerow.rollout.plan import Plan, Release
from hedgerow.rollout.policy import parse


@pytest.fixture
def journal(folder: Path, release: Release) -> Journal:
    lease.take(folder.parent, folder.name, pid=os.getpid(), by="ada", since="now")
    approvals = [{"before_wave": 2, "by": ["ada", "bob"]}, {"before_wave": 3, "by": ["eve"], "unsigned": True}]
    plan = Plan(release=release, policy=parse({"approvals": approvals}, where="test"), waves=[["a"], ["b"], ["c"]])
    journal = Journal(folder)
    journal.append(Opened(at="t0", plan=plan, by="ada"))
    return journal


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("keys")
    made = {name: folder / name for name in ("ada", "bob")}
    for path in made.values():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return made


@pytest.fixture
def approvers(keys: dict[str, Path]) -> dict[str, list[str]]:
    return {name: [path.with_suffix(".pub").read_text()] for name, path in keys.items()}


def approval(journal: Journal, by: str = "ada", **fields: object) -> Request:
    made = {"kind": RequestKind.APPROVE, "rollout": journal.folder.name, "by": by, "at": "t1", "wave": 2}
    return Request(**(made | fields))  # type: ignore[arg-type]


def take_one(journal: Journal, request: Request, approvers) -> OperatorAsked:
    requests.add(journal.folder, request)
    [taken] = requests.take(journal, approvers)
    return taken


def test_a_request_is_taken_once(journal: Journal) -> None:
    pause = Request(kind=RequestKind.PAUSE, rollout=journal.folder.name, by="ada", at="t1", reason="lunch")
    assert requests.add(journal.folder, pause) == 1
    assert [taken.request for taken in requests.take(journal, {})] == [pause]
    assert requests.take(journal, {}) == []
    assert Journal(journal.folder).read().paused == "by ada: lunch"
    assert requests.add(journal.folder, pause) == 2


def _take(folder: Path, pid: int) -> int:
    return len(requests.take(Journal(folder, pid=pid), {}))


def test_workers_side_by_side_take_each_request_once(journal: Journal) -> None:
    pause = Request(kind=RequestKind.PAUSE, rollout=journal.folder.name, by="ada", at="t1")
    for _ in range(20):
        requests.add(journal.folder, pause)
    with ProcessPoolExecutor(4) as pool:
        taken = list(pool.map(_take, [journal.folder] * 8, [os.getpid()] * 8))
    assert sum(taken) == 20
    assert journal.read().asked == 20


def test_a_line_that_was_cut_off_is_no_request(journal: Journal) -> None:
    pause = Request(kind=RequestKind.PAUSE, rollout=journal.folder.name, by="ada", at="t1")
    requests.add(journal.folder, pause)
    with (journal.folder / requests.FILE).open("ab") as file:
        file.write(b'{"kind":"ab')
    assert len(requests.take(journal, {})) == 1
    assert requests.add(journal.folder, pause) == 2
    assert len(requests.take(journal, {})) == 1


def test_without_the_lease_nothing_is_taken(journal: Journal) -> None:
    requests.add(journal.folder, approval(journal))
    with pytest.raises(RefusedError, match="rule one-writer"):
        requests.take(Journal(journal.folder, pid=1), {})


def test_a_signed_approval_counts_with_its_key(journal: Journal, keys, approvers) -> None:
    taken = take_one(journal, requests.sign(approval(journal), keys["ada"]), approvers)
    assert taken.refused is None
    assert str(taken.key).startswith("SHA256:")
    assert journal.read().approvals == {2: ["ada"]}


@pytest.mark.parametrize(
    "change, says",
    [
        ({"wave": 3}, "rule approvals: wave 3 is approved by eve"),
        ({"at": "t9"}, "the signature is not ada's"),
        ({"by": "bob"}, "the signature is not bob's"),
        ({"reason": "I never said so"}, "the signature is not ada's"),
        ({"signature": None}, "ada's approval has no signature"),
        ({"signature": "no signature at all"}, "the signature is not ada's"),
    ],
)
def test_a_signature_covers_everything(journal: Journal, keys, approvers, change, says: str) -> None:
    forged = msgspec.structs.replace(requests.sign(approval(journal), keys["ada"]), **change)
    taken = take_one(journal, forged, approvers)
    assert says in str(taken.refused)
    assert journal.read().approvals == {}


def test_an_approval_of_another_rollout_serves_there_alone(journal: Journal, keys, approvers) -> None:
    elsewhere = requests.sign(approval(journal, rollout="another"), keys["ada"])
    assert take_one(journal, elsewhere, approvers).refused == "rule one-rollout: it was made for another"


def test_an_approval_that_is_signed_names_its_wave(journal: Journal, keys, approvers) -> None:
    for_any = requests.sign(approval(journal, wave=None), keys["ada"])
    journal.append(WaveOpened(at="t", number=1, hosts=["a"]))
    assert "names no wave" in str(take_one(journal, for_any, approvers).refused)


def test_somebody_without_a_key_in_the_inventory_cannot_sign(journal: Journal, keys, approvers) -> None:
    taken = take_one(journal, requests.sign(approval(journal), keys["ada"]), {"bob": approvers["bob"]})
    assert taken.refused == "rule signed-approval: the inventory has no key of ada"


def test_the_policy_may_ask_for_a_name_alone(journal: Journal) -> None:
    assert take_one(journal, approval(journal, by="eve", wave=3), {}).refused is None
    assert "wave 3 is approved by eve" in str(take_one(journal, approval(journal, by="ada", wave=3), {}).refused)


def test_a_key_that_is_none_is_said(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("nonsense")
    with pytest.raises(UsageError, match="could not be signed"):
        requests.sign(approval(journal), tmp_path / "key")


def test_an_emergency_stop_is_journaled_with_what_follows(journal: Journal) -> None:
    take_one(
        journal, Request(kind=RequestKind.ABORT, rollout=journal.folder.name, by="ada", at="t", reason="smoke"), {}
    )
    assert [type(event).__name__ for event in journal.events()] == ["Opened", "OperatorAsked", "Stopped"]
    assert journal.read().stopped == "emergency stop by ada: smoke"
