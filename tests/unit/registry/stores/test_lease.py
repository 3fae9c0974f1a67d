"""The lease over a folder, whose clock a test moves by a file's time; over S3 in test_publishers.py."""

from __future__ import annotations

import os
import re
import threading
import time

import msgspec
import pytest

from hedgerow.errors import NetworkError, RefusedError
from hedgerow.registry.store import FolderStore
from hedgerow.registry.stores import lease as leases
from hedgerow.registry.stores.lease import Holder, Lease

PATH = ".lease"
NEVER_S = 3600.0


@pytest.fixture
def store(tmp_path):
    return FolderStore(tmp_path)


def lease(store, owner, **how):
    return Lease(store, PATH, work="a test", owner=owner, **{"ttl_s": NEVER_S, **how})


def present(store):
    return msgspec.json.decode(store.get(PATH), type=Holder)


def let_it_be_old(store, seconds):
    then = time.time() - seconds
    os.utime(store.root / PATH, (then, then))


def test_one_holder_and_who_it_is(store):
    with lease(store, "ann").held() as held:
        assert (held.number, present(store).owner) == (1, "ann")
        with pytest.raises(RefusedError, match="ann, a test") as caught, lease(store, "bob").held():
            pass
        assert re.search(r"its lease ends in 3[56]\d\d s", caught.value.next_step)
    assert present(store) == Holder(1)


def test_numbers_only_grow(store):
    numbers = []
    for owner in ("ann", "bob", "ann"):
        with lease(store, owner).held() as held:
            numbers.append(held.number)
    assert numbers == [1, 2, 3]


def test_who_was_killed_is_taken_over_from_after_its_life(store):
    killed = lease(store, "ann", ttl_s=60)
    killed._take()
    let_it_be_old(store, 50)
    with pytest.raises(RefusedError, match="ann"), lease(store, "bob").held():
        pass
    let_it_be_old(store, 61)
    with lease(store, "bob").held() as held:
        assert held.number == 2
        # It was only asleep: whatever it does next, it hears of it first.
        with pytest.raises(RefusedError, match="bob took it over"):
            killed.check()
        assert killed._renew() is False
    killed._give_back()
    assert present(store) == Holder(2)


def test_a_holder_trusts_its_own_clock_less_than_its_life(store):
    now = 0.0
    held = lease(store, "ann", ttl_s=60, monotonic=lambda: now)
    held._take()
    now = 44
    held.check()
    now = 46
    with pytest.raises(RefusedError, match="not renewed for 45 s"):
        held.check()
    assert held._renew() is True
    now = 90
    held.check()


def test_a_renewal_between_look_and_taking_wins(store):
    """Found ended, renewed in the next moment: whoever found it does not get it."""
    ann = lease(store, "ann", ttl_s=60)
    ann._take()
    let_it_be_old(store, 100)
    bob = lease(store, "bob")
    look = bob._read

    def and_then_ann_renews():
        found = look()
        bob._read = look
        assert ann._renew()
        return found

    bob._read = and_then_ann_renews
    with pytest.raises(RefusedError, match="at the same moment: ann"), bob.held():
        pass
    ann.check()


def test_it_is_renewed_while_work_goes_on(store):
    with lease(store, "ann", ttl_s=0.08).held():
        wait_until(lambda: present(store).beat >= 3)


def test_a_line_that_comes_back_in_time_is_no_loss(store, monkeypatch):
    held = lease(store, "ann", ttl_s=0.08)
    failed = threading.Event()
    renew = held._renew

    def fails_once():
        if not failed.is_set():
            failed.set()
            raise NetworkError("gone for a moment")
        return renew()

    held._renew = fails_once
    with held.held():
        wait_until(lambda: present(store).beat >= 1)
    assert failed.is_set()


def test_of_many_that_begin_together_one_gets_it(store):
    barrier, got, refused = threading.Barrier(6), [], []
    done = threading.Barrier(6)

    def begin(number):
        mine = lease(store, f"p{number}")
        barrier.wait()
        try:
            got.append(mine._take().owner)
        except RefusedError:
            refused.append(number)
        done.wait()

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1
    assert len(refused) == 5
    assert present(store).owner == got[0]


class Careless(FolderStore):
    """A store that ignores conditions, as some servers do."""

    def put_new(self, path, data):
        self.put(path, data)
        return True

    def put_if(self, path, data, etag):
        self.put(path, data)
        return True


def test_where_conditions_are_ignored_the_last_of_two_wins(tmp_path, monkeypatch):
    store = Careless(tmp_path)
    ann, bob = lease(store, "ann", settle_s=5.0), lease(store, "bob", settle_s=5.0)
    # While ann waits, bob, who had looked before, writes over it and waits in turn.
    during = iter([bob._take, lambda: None])
    look, looks = bob._read, [None]
    bob._read = lambda: looks.pop() if looks else look()
    monkeypatch.setattr(leases.time, "sleep", lambda _: next(during)())
    with pytest.raises(RefusedError, match="at the same moment: bob"):
        ann._take()
    bob.check()


def test_a_lease_that_is_no_lease(store):
    store.put(PATH, b"garbage")
    with pytest.raises(RefusedError, match="cannot be read") as caught, lease(store, "ann").held():
        pass
    assert "remove this file" in caught.value.next_step


def wait_until(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
