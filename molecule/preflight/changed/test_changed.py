"""A refused host was left as it was."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]


def test_nothing_of_ours_was_changed(host):
    """The refusal came before any other role, and the role itself writes nothing."""
    assert host.root("find /etc /var/lib -newer /run/preflight-scenario -type f -path '*hedgerow*'") == ""
