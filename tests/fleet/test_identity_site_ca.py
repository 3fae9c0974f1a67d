"""A site whose gateway renews, below a CA of two tiers: who is stolen, and who was away for too long.

Runs after the rotation to two tiers; alone on a fresh fleet it makes that itself, as docs/identity.md has it.
"""

from __future__ import annotations

import datetime as dt
import secrets
import time
from concurrent.futures import ThreadPoolExecutor

import identity_fleet as fleets
import pytest
from rollout_fleet import Callers

from hedgerow.identity.authority import opening
from hedgerow.identity.profiles import DeviceNames, Profile

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

RENEW = "systemctl start hedgerow-renew.service"
SAID = "journalctl -q -u hedgerow-renew.service -o cat -n 20"
ON = {"renewal_service_enabled": True, "device_identity_renewal": True}
REFUSED_WITHIN_S = 60.0
AT_LEAST = 3
# docs/device-identity.md, "What each server enforces": node_exporter knows no lists.
KNOWS_NO_LISTS = {"node", "gateway's node"}
REFUSALS = {"403", "405", "cut", "PERMISSION_DENIED", "UNAUTHENTICATED"}


@pytest.fixture(scope="module")
def grown(spinney):
    """The gateway has the site's CA and renews; every host asks there."""
    if spinney.tiers == 1:
        spinney.begin(2)
        spinney.done(spinney.hedgerow("ca", "rotate", "switch", "--everybody-trusts-both"))
        spinney.done(spinney.rotate())
    tags = ("device_identity", "registry_mirror", "renewal_service")
    if "active" not in spinney.on(spinney.gateway, "systemctl is-active hedgerow-renewal.service || true").split():
        spinney.done(spinney.site(*tags, **ON))
        request = spinney.directory / "ca" / "requests" / f"{spinney.site_name}.csr"
        sign = ("ca", "issuing", "sign", str(request), "--site", spinney.site_name, *spinney.root_passphrase)
        spinney.done(spinney.hedgerow(*sign))
        lists = spinney.hedgerow("ca", "crl", *spinney.root_passphrase)
        assert lists.returncode in {0, 4}, lists.stdout + lists.stderr
    spinney.done(spinney.site(*tags, **ON))
    spinney.done(spinney.site("renewal_service", hosts=[spinney.gateway], **ON))
    return spinney


def let_in(found: dict[str, str]) -> set[str]:
    return {what for what, said in found.items() if said not in REFUSALS}


def test_what_was_stolen_is_refused_everywhere_within_a_minute(grown, wait, tmp_path, capsys) -> None:
    """A person's certificate and a board's, by what docs/identity.md, "Revocation", has an operator type."""
    board, *others = grown.pis
    name = f"jane-{secrets.token_hex(4)}"  # who was revoked gets no certificate any more, in the next run neither
    clients = grown.directory / "ca" / "clients"
    grown.done(grown.hedgerow("ca", "issue", "--profile", "operator", "--name", name))
    person = fleets.Holder(clients / f"{name}.key", clients / f"{name}.crt", grown.directory / "ca" / "ca.crt")
    gone = {grown.certificate(board).serial_number, person.serial_number}
    card = grown.stolen(board, tmp_path / "card")
    assert {"infer", "unload", "exporter", "registry", "grpc infer"} <= let_in(grown.attempts(person, others[0]))
    assert let_in(grown.attempts(card, others[0])) == {"registry"}
    with Callers(grown, others, fresh=True) as callers:
        started = time.monotonic()
        for holder in (name, board):
            grown.done(grown.hedgerow("ca", "revoke", holder, "--reason", "stolen"))
        lists = grown.hedgerow("ca", "crl")
        assert lists.returncode in {0, 4}, lists.stdout + lists.stderr
        grown.done(grown.site("renewal_service", hosts=[grown.gateway], **ON))
        # Its service looks every ten seconds; who fetches before has the lists of before.
        wait(lambda: gone <= grown.listed(), within_s=REFUSED_WITHIN_S)
        with ThreadPoolExecutor() as pool:
            list(pool.map(lambda host: grown.on(host, RENEW), others))
        left = {"not asked": {"yet"}}
        while left and time.monotonic() - started < 3 * REFUSED_WITHIN_S:
            left = {host: let_in(grown.attempts(person, host)) - KNOWS_NO_LISTS for host in others}
            left |= {"card": let_in(grown.attempts(card, others[0]))}
            left = {where: what for where, what in left.items() if what}
        seconds = time.monotonic() - started
    with capsys.disabled():
        print(f"\nrevoked and refused everywhere: {seconds:.0f} s")
    assert not left
    assert seconds <= REFUSED_WITHIN_S
    callers.none_failed()
    refused = grown.controller.on(board, f"{RENEW}; {SAID}")
    assert "revoked" in refused.stdout, refused.stdout + refused.stderr
    told = grown.rotate(board)
    assert told.returncode != 0
    assert "revoked" in told.stdout + told.stderr


def test_a_board_that_was_found_again_is_let_in_with_another_key(grown, wait) -> None:
    board = grown.pis[0]
    key = grown.keys([board])
    grown.done(grown.hedgerow("ca", "readmit", board, "--reason", "found"))
    grown.done(grown.rotate(board))
    assert grown.keys([board]) != key
    grown.done(grown.site("renewal_service", hosts=[grown.gateway], **ON))
    wait(lambda: grown.controller.on(board, RENEW).returncode == 0)
    with Callers(grown, [board], fresh=True) as callers:
        wait(lambda: callers.answered[board] > AT_LEAST)
    assert callers.failed == []


def test_a_board_that_was_away_beyond_its_certificate_s_end_comes_back_by_itself(grown, wait) -> None:
    """The controller has no part in it. Its certificate ended yesterday; the gateway's grace is thirty days."""
    board = grown.pis[-1]
    host, key = grown.inventory.hosts[board], grown.keys([board])
    request = grown.on(board, f"openssl req -new -key {fleets.IDENTITY}/device.key -subj /CN={host.serial}")
    names = DeviceNames(fleet=grown.inventory.fleet, site=host.site, host=board, serial=host.serial)
    before = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    ended = opening.for_clients(grown.directory).sign_csr(request, Profile.DEVICE, names, days=1, now=before)
    grown.on(board, f"cat > {fleets.IDENTITY}/device.crt <<'PEM'\n{ended}PEM\nsystemctl reload hedgerow-server")
    wait(lambda: grown.attempts(grown.holder(Profile.OPERATOR), board)["infer"] == "cut")  # nobody believes it
    grown.power(board, "off")
    grown.power(board, "on")
    wait(lambda: grown.controller.on(board, "true").returncode == 0)
    grown.on(board, RENEW)
    renewed = grown.certificate(board)
    assert renewed.not_valid_after_utc > dt.datetime.now(dt.UTC) + dt.timedelta(days=7)
    assert "site-ca" in renewed.issuer.rfc4514_string()
    assert grown.keys([board]) == key, "in its grace a board keeps its key"
    wait(lambda: grown.served_by(board) is not None)
    with Callers(grown, [board], fresh=True) as callers:
        wait(lambda: callers.answered[board] > AT_LEAST)
    assert callers.failed == []
