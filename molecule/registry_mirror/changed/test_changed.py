"""After another port was asked for."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_it_listens_there_and_no_longer_at_the_old_one(gateway):
    assert gateway.shell.socket("tcp://0.0.0.0:8444").is_listening
    assert not gateway.shell.socket("tcp://0.0.0.0:443").is_listening
