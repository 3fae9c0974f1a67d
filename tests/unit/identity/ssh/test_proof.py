"""Who gets a certificate: no proof, no challenge or no line in the inventory, no certificate."""

from __future__ import annotations

import base64
import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hedgerow.errors import RefusedError, UsageError
from hedgerow.identity import certificates, keyfile, revocations
from hedgerow.identity.authority import making, opening
from hedgerow.identity.authority.root import RootCA
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import DeviceNames, Profile
from hedgerow.identity.ssh import challenges, events, keygen, policy, proof, store
from hedgerow.identity.ssh.authority import SshAuthority
from hedgerow.passphrases import Passphrases

Make = Callable[..., Any]


def sign(authority: Any, request: proof.Request, inventory: Any, now: dt.datetime) -> Any:
    return authority.sign_operator(request, inventory, now=now)


def signed(authority: Any) -> list[events.Signed]:
    return [line for line in store.lines(authority.log) if isinstance(line, events.Signed)]


def test_it_is_logged_before_it_leaves_and_says_who_what_and_why(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime
) -> None:
    issued = sign(authority, ask("jane", "admin", reason="a full disk"), inventory, now)
    main, jump = signed(authority)
    assert (main.who, main.role, main.principals, main.reason) == ("jane", "admin", ["admin@orchard"], "a full disk")
    assert (jump.role, jump.principals) == ("jump", ["jump@orchard"])
    assert main.serial == str(issued.serial)
    assert len(main.proof) == 64
    assert main.by == "test@here"
    assert authority.log.verify().holds


def test_a_full_disk_gives_no_certificate(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = ask()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("hedgerow.chainlog.log._write_all", full)
    with pytest.raises(Exception, match=r"(?i)space|disk|written"):
        sign(authority, request, inventory, now)


def test_a_challenge_counts_once(authority: Any, ask: Make, inventory: Any, now: dt.datetime) -> None:
    request = ask()
    sign(authority, request, inventory, now)
    with pytest.raises(RefusedError, match="challenge does not count"):
        sign(authority, request, inventory, now)
    assert len(signed(authority)) == 2


def test_a_challenge_ends_after_five_minutes(authority: Any, ask: Make, inventory: Any, now: dt.datetime) -> None:
    request = ask()
    later = now + challenges.LIFE + dt.timedelta(seconds=1)
    with pytest.raises(RefusedError, match="challenge does not count"):
        sign(authority, request, inventory, later)


@pytest.mark.parametrize("challenge", ["", "0" * 64, "../authority.json", "f" * 63])
def test_a_challenge_that_nobody_made_does_not_count(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime, challenge: str
) -> None:
    with pytest.raises(RefusedError, match="challenge does not count"):
        sign(authority, ask(challenge=challenge), inventory, now)
    assert (authority.folder / store.STATE).is_file()


def test_challenges_do_not_fill_the_disk(authority: Any, now: dt.datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challenges, "MAXIMUM_OPEN", 3)
    for _ in range(3):
        authority.challenge(now=now)
    with pytest.raises(RefusedError, match="nobody answers"):
        authority.challenge(now=now)
    assert authority.challenge(now=now + challenges.LIFE + dt.timedelta(seconds=1))


@pytest.mark.parametrize(
    "change", [{"role": "admin"}, {"sites": ("upper",)}, {"seconds": 86400}, {"public_key": "ssh-ed25519 AAAA"}]
)
def test_a_request_that_was_changed_on_its_way_is_refused(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime, change: dict[str, Any]
) -> None:
    request = ask("jane", "viewer")
    asked = msgspec.structs.replace(msgspec.json.decode(request.asked, type=proof.Asked), **change)
    forged = msgspec.structs.replace(request, asked=msgspec.json.encode(asked).decode())
    with pytest.raises(RefusedError, match="not signed by the key"):
        sign(authority, forged, inventory, now)
    assert signed(authority) == []


def test_somebody_elses_certificate_helps_nobody(
    authority: Any, ask: Make, fleet_ca: FleetCA, inventory: Any, now: dt.datetime
) -> None:
    janes = fleet_ca.issue_client(Profile.OPERATOR, "jane", now=now).certificate.read_text()
    forged = msgspec.structs.replace(ask("vic", "admin"), certificate=janes)
    with pytest.raises(RefusedError, match="not signed by the key"):
        sign(authority, forged, inventory, now)


@pytest.mark.parametrize("profile", [Profile.CLIENT, Profile.MONITOR, Profile.PUBLISHER])
def test_other_profiles_are_no_operators(
    *, authority: Any, fleet_ca: FleetCA, inventory: Any, now: dt.datetime, profile: Profile, pair: Make, tmp_path: Any
) -> None:
    files = fleet_ca.issue_client(profile, "jane", now=now)
    asked = proof.Asked(
        fleet="meadow",
        challenge=authority.challenge(now=now),
        role="viewer",
        sites=("orchard",),
        public_key=pair(tmp_path / "k"),
    )
    request = proof.ask(asked, key=files.key, certificate=files.certificate)
    with pytest.raises(RefusedError, match="is no operator of fleet meadow"):
        sign(authority, request, inventory, now)


def test_another_fleets_operator_is_refused(
    authority: Any, inventory: Any, now: dt.datetime, pair: Make, tmp_path: Any
) -> None:
    """Its subject says this fleet: whoever runs a CA can write that. The chain does not lead to ours."""
    other = FleetCA.init(tmp_path / "other", "meadow", now=now)[0]
    files = other.issue_client(Profile.OPERATOR, "jane", now=now)
    asked = proof.Asked(
        fleet="meadow",
        challenge=authority.challenge(now=now),
        role="admin",
        sites=("orchard",),
        public_key=pair(tmp_path / "k"),
    )
    with pytest.raises(RefusedError, match="does not verify"):
        sign(authority, proof.ask(asked, key=files.key, certificate=files.certificate), inventory, now)


def test_an_expired_certificate_proves_nothing(authority: Any, ask: Make, inventory: Any, now: dt.datetime) -> None:
    request = ask()  # jane's certificate lives 7 days
    challenge_then = now + dt.timedelta(days=8)
    asked = msgspec.json.decode(request.asked, type=proof.Asked)
    assert asked.role == "operator"
    with pytest.raises(RefusedError, match="certificate has expired"):
        sign(authority, request, inventory, challenge_then)


def test_a_revoked_operator_gets_none(
    authority: Any, ask: Make, fleet_ca: FleetCA, inventory: Any, now: dt.datetime
) -> None:
    request = ask("jane")
    fleet_ca.revoke("client", "jane", reason="left", by="test", now=now)
    with pytest.raises(RefusedError, match="jane was revoked"):
        sign(authority, request, inventory, now)
    fleet_ca.readmit("client", "jane", reason="back", by="test", now=now)
    with pytest.raises(RefusedError, match="certificate that jane signed with was revoked"):
        sign(authority, request, inventory, now)


def test_it_never_outlives_the_certificate_that_asked(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime
) -> None:
    late = now + dt.timedelta(days=6, hours=23)
    issued = sign(authority, ask("jane", at=late), inventory, late)
    assert issued.valid_before == now + dt.timedelta(days=7)
    too_late = now + dt.timedelta(days=7) - dt.timedelta(seconds=30)
    with pytest.raises(RefusedError, match="ends within a minute"):
        sign(authority, ask("jane", at=too_late), inventory, too_late)


@pytest.mark.parametrize(
    "name,role,asked,text",
    [
        ("mallory", "viewer", {}, "mallory may not have the role viewer"),
        ("vic", "operator", {}, "vic may not have the role operator"),
        ("vic", "viewer", {"sites": ("orchard", "upper")}, "vic may not log in at upper"),
        ("vic", "viewer", {"sites": (), "hosts": ("pi-upper-1",)}, "vic may not log in at upper"),
        ("jane", "jump", {}, "jane may not have the role jump"),
        ("jane", "operator", {"seconds": 86401}, "1 minute to 24 hours"),
        ("jane", "operator", {"seconds": 59}, "1 minute to 24 hours"),
        ("jane", "operator", {"fleet": "moor"}, "for fleet moor"),
    ],
)
def test_what_the_inventory_does_not_give_is_refused(
    *,
    authority: Any,
    ask: Make,
    inventory: Any,
    now: dt.datetime,
    name: str,
    role: str,
    asked: dict[str, Any],
    text: str,
) -> None:
    with pytest.raises(RefusedError, match=text):
        sign(authority, ask(name, role, **asked), inventory, now)
    assert signed(authority) == []


@pytest.mark.parametrize(
    "role,asked,text",
    [
        ("root", {}, "no role root"),
        ("viewer", {"sites": ("hill",)}, "no site hill"),
        ("viewer", {"sites": (), "hosts": ("pi-9",)}, "no host pi-9"),
        ("viewer", {"sites": ()}, "nothing was named"),
        ("viewer", {"source": ("10.0.0.1/24",)}, "no address and no network"),
        ("viewer", {"source": ('1.2.3.4",command="x',)}, "no address and no network"),
    ],
)
def test_what_there_is_not_is_wrong_use(
    *, authority: Any, ask: Make, inventory: Any, now: dt.datetime, role: str, asked: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        sign(authority, ask("jane", role, **asked), inventory, now)


@pytest.mark.parametrize(
    "table",
    [{"jane": {"roles": ["root"], "sites": "all"}}, {"jane": ["admin"]}, {"jane": {"roles": ["viewer"]}}, "all"],
)
def test_a_table_that_is_wrong_gives_nobody_anything(
    authority: Any, ask: Make, inventory: Any, now: dt.datetime, table: Any
) -> None:
    inventory.vars[policy.VARIABLE] = table
    with pytest.raises(UsageError, match="not as it should be"):
        sign(authority, ask("jane", "viewer"), inventory, now)


@pytest.mark.parametrize(
    "text,error",
    [
        ("ssh-rsa AAAAB3NzaC1yc2E=", RefusedError),
        ("ssh-ed25519 AAAA", UsageError),
        ("ssh-ed25519 " + base64.b64encode(b"\0\0\0\x07ssh-rsa").decode(), UsageError),
        ("garbage", UsageError),
        ("ssh-ed25519 AAAA a\nssh-ed25519 BBBB b", UsageError),
    ],
)
def test_keys_that_the_fleet_does_not_take(
    *, authority: Any, ask: Make, inventory: Any, now: dt.datetime, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        sign(authority, ask("jane", public_key=text), inventory, now)


def test_a_key_has_one_holder(
    *, authority: Any, ask: Make, inventory: Any, now: dt.datetime, pair: Make, tmp_path: Any
) -> None:
    shared = pair(tmp_path / "shared")
    sign(authority, ask("jane", "viewer", public_key=shared), inventory, now)
    sign(authority, ask("jane", "operator", public_key=shared), inventory, now)
    with pytest.raises(RefusedError, match="certified for jane"):
        sign(authority, ask("vic", "viewer", public_key=shared), inventory, now)


def test_names_with_wildcards_do_not_reach_a_certificate() -> None:
    with pytest.raises(UsageError):
        DeviceNames(fleet="meadow", site="*", host="x", serial="10000000a1b2c3d4")
    with pytest.raises(UsageError, match="without principals"):
        keygen.sign(
            keygen.Key(Path("/nowhere")),
            keygen.Certificate(
                "ssh-ed25519 A", host=False, key_id="x", principals=[], serial=1, valid_after=0, valid_before=1
            ),
            secret=None,
        )


# -- two tiers, and a CA that rotates ------------------------------------------


@pytest.fixture
def two_tiers(fleet_dir: Path, now: dt.datetime, monkeypatch: pytest.MonkeyPatch) -> RootCA:
    """A root with an issuing CA of the fleet; its key is encrypted, as all of them are."""
    path = os.environ[keygen.PASSPHRASE_FILE]
    monkeypatch.setenv("HEDGEROW_CA_PASSPHRASE_FILE", path)
    secrets = Passphrases({None: Path(path)})
    root = RootCA.init(fleet_dir, "meadow", secrets)[0]
    assert root is not None
    making.add(root, "fleet", secrets, by="test")
    making.add(root, "orchard", secrets, by="test")
    return root


def asked_with(fleet_dir: Path, authority: Any, public: str, now: dt.datetime) -> proof.Request:
    files = opening.for_clients(fleet_dir).issue_client(Profile.OPERATOR, "jane")
    asked = proof.Asked(
        fleet="meadow", challenge=authority.challenge(now=now), role="admin", sites=("orchard",), public_key=public
    )
    return proof.ask(asked, key=files.key, certificate=files.certificate)


def test_an_operator_of_the_fleets_issuing_ca_is_one(
    *, two_tiers: RootCA, fleet_dir: Path, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    authority = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)[0]
    request = asked_with(fleet_dir, authority, pair(tmp_path / "k"), now)
    assert sign(authority, request, inventory, now).name == "jane"
    leaf_alone = request.certificate.split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    again = asked_with(fleet_dir, authority, pair(tmp_path / "k2"), now)
    bare = msgspec.structs.replace(again, certificate=leaf_alone)
    assert sign(authority, bare, inventory, now).name == "jane"


def test_an_issuing_ca_that_was_revoked_vouches_for_nobody(
    *, two_tiers: RootCA, fleet_dir: Path, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    authority = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)[0]
    request = asked_with(fleet_dir, authority, pair(tmp_path / "k"), now)
    issuing = x509.load_pem_x509_certificate((fleet_dir / "ca/issuing/fleet/ca.crt").read_bytes())
    revocations.append(
        fleet_dir / "ca",
        revocations.Revoked(
            time="2026-11-22T00:00:00Z", kind="authority", holder="fleet", reason="stolen", by="x",
            certificates=[f"{issuing.serial_number:x}"],
        ),
    )  # fmt: skip
    with pytest.raises(RefusedError, match="does not verify"):
        sign(authority, request, inventory, now)


def test_a_sites_ca_cannot_make_an_operator(
    *, two_tiers: RootCA, fleet_dir: Path, inventory: Any, pair: Make, tmp_path: Path, now: dt.datetime
) -> None:
    """Whoever has a gateway has its key; the certificate says what it likes, and verifies."""
    authority = SshAuthority.init(fleet_dir, "meadow", by="x", now=now)[0]
    home = fleet_dir / "ca/issuing/orchard"
    issuing = x509.load_pem_x509_certificate((home / "ca.crt").read_bytes())
    secret = Path(os.environ[keygen.PASSPHRASE_FILE]).read_bytes().strip()
    ca_key = serialization.load_pem_private_key((home / "ca.key").read_bytes(), secret)
    key = certificates.new_key()
    leaf = certificates.build_leaf(
        ca=issuing,
        ca_key=ca_key,
        public_key=key.public_key(),
        profile=Profile.OPERATOR,
        name=certificates.subject("meadow", Profile.OPERATOR, "jane"),
        sans=certificates.client_sans("meadow", Profile.OPERATOR),
        not_before=now - dt.timedelta(hours=1),
        not_after=now + dt.timedelta(days=1),
    )
    (tmp_path / "forged.crt").write_text(certificates.pem(leaf) + certificates.pem(issuing))
    (tmp_path / "forged.key").write_bytes(keyfile.encode(key, None))
    asked = proof.Asked(
        fleet="meadow",
        challenge=authority.challenge(now=now),
        role="admin",
        sites=("orchard",),
        public_key=pair(tmp_path / "k"),
    )
    request = proof.ask(asked, key=tmp_path / "forged.key", certificate=tmp_path / "forged.crt")
    with pytest.raises(RefusedError, match="site's CA signed"):
        sign(authority, request, inventory, now)
