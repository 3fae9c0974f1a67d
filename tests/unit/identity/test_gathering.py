"""Many who ask at once share one write; each has its own answer."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509

from hedgerow.errors import MachineError, RefusedError
from hedgerow.identity import issued
from hedgerow.identity.authority.gathering import Gathering
from hedgerow.identity.issuer import Request
from hedgerow.identity.profiles import Profile


class Gate:
    """Holds the first call until the others are waiting, then passes all on to the real CA."""

    def __init__(self, authority):
        self.authority = authority
        self.sizes = []
        self.first = threading.Event()
        self.go = threading.Event()

    def sign_many(self, requests):
        self.sizes.append(len(requests))
        if len(self.sizes) == 1:
            self.first.set()
            assert self.go.wait(10)
        return self.authority.sign_many(requests)


def ask(gate, requests):
    """Ask for the first, then for all others while it is being signed; the futures, in order."""
    gathering = Gathering(gate)
    with ThreadPoolExecutor(len(requests)) as pool:
        futures = [pool.submit(gathering.sign, requests[0])]
        assert gate.first.wait(10)
        futures += [pool.submit(gathering.sign, request) for request in requests[1:]]
        while len(gathering._waiting) < len(requests) - 1:
            threading.Event().wait(0.001)
        gate.go.set()
    return futures


def test_who_comes_meanwhile_is_signed_together(authority, make_csr, names):
    gate = Gate(authority)
    good = Request(make_csr()[0], Profile.DEVICE, names)
    wrong = Request(make_csr("/CN=10000000ffffffff")[0], Profile.DEVICE, names)
    futures = ask(gate, [good, good, wrong, good, good])
    assert gate.sizes == [1, 4]
    with pytest.raises(RefusedError, match="10000000ffffffff"):
        futures.pop(2).result()
    chains = [future.result() for future in futures]
    serials = {f"{x509.load_pem_x509_certificate(chain.encode()).serial_number:x}" for chain in chains}
    assert serials == {entry.serial_number for entry in issued.read(authority.log)}
    assert len(serials) == 4


def test_a_log_that_cannot_be_written_refuses_everybody(authority, make_csr, names, monkeypatch):
    def full(*_):
        raise MachineError("the disk is full")

    monkeypatch.setattr(issued, "append", full)
    futures = ask(Gate(authority), [Request(make_csr()[0], Profile.DEVICE, names)] * 3)
    for future in futures:
        with pytest.raises(MachineError, match="full"):
            future.result()
    assert list(issued.read(authority.log)) == []
