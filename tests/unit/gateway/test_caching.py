"""What a caching gateway does with an origin that is there, changes, breaks and goes away; nginx itself."""

from __future__ import annotations

import hashlib
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from gateway_nginx import needs_nginx
from origin import NAME as ORIGIN_NAME
from origin import Origin, make_identity
from tests.unit.gateway.conftest import support, until

from hedgerow.identity.profiles import Profile

pytestmark = [needs_nginx, pytest.mark.slow]

SLICE = 1 << 20
TIMESTAMP = "/metadata/timestamp.json"


def put(bucket: Origin, path: str, data: bytes) -> str:
    """A file of the registry; its path."""
    file = bucket.root / "meadow" / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return path


def pack(bucket: Origin, size: int, seed: int = 0) -> tuple[str, bytes]:
    data = random.Random(seed).randbytes(size)
    name = hashlib.sha256(data).hexdigest()
    return put(bucket, f"/targets/packs/{name[:2]}/{name}", data), data


def test_a_range_of_a_pack_costs_its_slice_and_the_next_device_costs_nothing(caching, bucket):
    path, data = pack(bucket, 5 * SLICE + 77)
    gateway = caching()
    first = gateway.part(path, 2 * SLICE + 10, 2 * SLICE + 1033)
    assert (first.status, first.data) == (206, data[2 * SLICE + 10 : 2 * SLICE + 1034])
    assert first.headers["content-range"] == f"bytes {2 * SLICE + 10}-{2 * SLICE + 1033}/{len(data)}"
    assert [(asked.range, asked.sent) for asked in bucket.of(f"/meadow{path}")] == [
        (f"bytes={2 * SLICE}-{3 * SLICE - 1}", SLICE)
    ]
    for start, end in ((2 * SLICE, 2 * SLICE + 10), (3 * SLICE - 5, 3 * SLICE - 1)):
        assert gateway.part(path, start, end).data == data[start : end + 1]
    assert len(bucket.asked) == 1
    # Over a border, and to the file's end: what is kept is not asked for again.
    assert gateway.part(path, 3 * SLICE - 2, len(data) - 1).data == data[3 * SLICE - 2 :]
    assert [asked.range for asked in bucket.asked[1:]] == [
        f"bytes={each * SLICE}-{(each + 1) * SLICE - 1}" for each in (3, 4, 5)
    ]
    assert gateway.ask(path).data == data
    assert sum(asked.sent for asked in bucket.asked) == len(data)
    assert gateway.part(path, len(data), len(data) + 5).status == 416


def test_twenty_devices_at_once_cost_one_slice(caching, bucket):
    path, data = pack(bucket, SLICE)
    gateway = caching()
    gateway._device()
    with ThreadPoolExecutor(20) as devices:
        answers = list(devices.map(lambda n: gateway.part(path, n, n + 99), range(20)))
    assert [answer.data for answer in answers] == [data[n : n + 100] for n in range(20)]
    assert len(bucket.asked) == 1


def test_a_new_timestamp_is_seen_within_its_seconds_and_numbered_metadata_is_asked_once(caching, bucket):
    put(bucket, TIMESTAMP, b"one")
    put(bucket, "/metadata/1.root.json", b"root")
    gateway = caching(metadata_s=2)
    begun = time.monotonic()
    assert gateway.ask(TIMESTAMP).data == b"one"
    put(bucket, TIMESTAMP, b"two")
    if gateway.ask(TIMESTAMP).data != b"one":
        assert time.monotonic() - begun >= 1
    until(lambda: gateway.ask(TIMESTAMP).data == b"two")
    assert time.monotonic() - begun < 2 + 2
    answer = gateway.ask(TIMESTAMP)
    assert answer.headers["cache-control"] == "no-cache"
    for _ in range(3):
        assert gateway.ask("/metadata/1.root.json").data == b"root"
    assert len(bucket.of("/meadow/metadata/1.root.json")) == 1


def test_what_has_not_changed_is_not_sent_again(caching, bucket):
    put(bucket, TIMESTAMP, b"one")
    gateway = caching(metadata_s=1)
    gateway.ask(TIMESTAMP)
    until(lambda: gateway.ask(TIMESTAMP).data == b"one" and len(bucket.asked) > 1)
    assert (bucket.asked[-1].status, bucket.asked[-1].sent) == (304, 0)


@pytest.mark.parametrize("missing", [404, 403])
def test_the_next_root_is_seen_when_there_is_one_and_missed_cheaply_before(caching, bucket, missing):
    bucket.faults.missing = missing
    gateway = caching(metadata_s=1)
    assert [gateway.ask("/metadata/2.root.json").status for _ in range(5)] == [missing] * 5
    assert len(bucket.asked) <= 3
    put(bucket, "/metadata/2.root.json", b"root")
    until(lambda: gateway.ask("/metadata/2.root.json").data == b"root")


@pytest.mark.parametrize("fault", ["gone", "500", "403", "404"])
def test_a_broken_origin_leaves_what_is_kept(caching, bucket, fault):
    path, _ = pack(bucket, SLICE)
    put(bucket, TIMESTAMP, b"one")
    manifest = put(bucket, "/targets/models/assistant/1.0.0-rc.1/manifest.json", b"{}")
    next_root = "/metadata/2.root.json"
    gateway = caching(metadata_s=1)
    before = {
        each: (gateway.ask(each).status, gateway.ask(each).data) for each in (TIMESTAMP, manifest, path, next_root)
    }
    assert [status for status, _ in before.values()] == [200, 200, 200, 404]
    asked = {each: len(bucket.of(f"/meadow{each}")) for each in before}

    def asked_in_vain(each: str) -> bool:
        """What is kept has ended, so that nginx has asked again; the answer was what it had kept."""
        answer = gateway.ask(each)
        assert (answer.status, answer.data) == before[each]
        return len(bucket.of(f"/meadow{each}")) > asked[each] or f'request: "GET {each} ' in gateway.log

    if fault == "gone":
        bucket.stop()
    else:
        bucket.faults.status = int(fault)
    try:
        until(lambda: asked_in_vain(TIMESTAMP))
        if fault in {"gone", "500"}:
            until(lambda: asked_in_vain(next_root))  # where devices end their walk, on the way to the timestamp
        for each in (manifest, path):
            assert not asked_in_vain(each), "what never changes is not asked for again"
        unknown, _ = pack(bucket, 100, seed=1)
        assert gateway.ask(unknown).status == {"gone": 502}.get(fault, bucket.faults.status)
    finally:
        if fault == "gone":
            bucket.start()
    bucket.faults.status = None
    put(bucket, TIMESTAMP, b"two")
    until(lambda: gateway.ask(TIMESTAMP).data == b"two")


def test_an_origin_whose_name_has_no_address_leaves_what_is_kept(caching, bucket, names):
    put(bucket, TIMESTAMP, b"one")
    gateway = caching(metadata_s=1, origin=f"https://{ORIGIN_NAME}:{bucket.port}/meadow", name=None, names=names)
    assert gateway.ask(TIMESTAMP).data == b"one"
    assert gateway.ask("/metadata/2.root.json").status == 404
    assert bucket.asked[0].headers["host"] == f"{ORIGIN_NAME}:{bucket.port}"
    names.silent = True
    bucket.stop()
    try:
        gateway.stop()
        gateway.start()  # a gateway that starts while the line is down serves what it has
        until(lambda: gateway.ask(TIMESTAMP).data == b"one" and "could not be resolved" in gateway.log)
        assert gateway.ask("/metadata/2.root.json").status == 404
        assert gateway.ask("/metadata/9.snapshot.json").status == 502
    finally:
        bucket.start()
    names.silent = False
    put(bucket, TIMESTAMP, b"two")
    until(lambda: gateway.ask(TIMESTAMP).data == b"two")


@pytest.mark.parametrize("wrong", ["authority", "name"])
def test_an_origin_with_a_wrong_certificate_is_refused_and_the_log_says_so(caching, bucket, tmp_path, wrong):
    put(bucket, TIMESTAMP, b"one")
    gateway = caching(name="elsewhere.origin.test" if wrong == "name" else ORIGIN_NAME)
    if wrong == "authority":
        bucket.stop()
        bucket.identity = make_identity(tmp_path / "forged")
        bucket.start()
    assert gateway.ask(TIMESTAMP).status == 502
    assert bucket.asked == []
    assert {
        "authority": "upstream SSL certificate verify error",
        "name": 'upstream SSL certificate does not match "elsewhere.origin.test"',
    }[wrong] in gateway.log


def test_a_stale_timestamp_is_served_while_somebody_else_plays_the_origin(caching, bucket, tmp_path):
    put(bucket, TIMESTAMP, b"one")
    gateway = caching(metadata_s=1)
    assert gateway.ask(TIMESTAMP).data == b"one"
    bucket.stop()
    honest, bucket.identity = bucket.identity, make_identity(tmp_path / "forged")
    bucket.start()
    put(bucket, TIMESTAMP, b"forged")
    until(lambda: gateway.ask(TIMESTAMP).data == b"one" and "verify error" in gateway.log)
    bucket.stop()
    bucket.identity = honest
    bucket.start()
    until(lambda: gateway.ask(TIMESTAMP).data == b"forged")


def test_what_is_no_name_of_the_registry_s_does_not_reach_the_origin(caching, bucket):
    gateway = caching()
    name = "0" * 64
    for path in (
        "/", "/log/00000001.json", "/staged/targets.json", "/metadata/", "/metadata/root.json", "/.lease",
        f"/targets/blobs/00/{name}", f"/targets/packs/00/{name[:-1]}", f"/targets/packs/{name}",
        "/targets/models/a/1.0.0/x/y",
        "/metadata/../staged/1.root.json", "/targets/models/a%24b/1.0.0/manifest.json",
    ):  # fmt: skip
        assert gateway.ask(path).status == 404, path
    assert bucket.asked == []


def test_who_may_read_is_as_it_was_and_nothing_of_them_leaves_the_site(caching, bucket, tmp_path):
    put(bucket, TIMESTAMP, b"one")
    signer = support.Signer.single(tmp_path)
    gateway = caching(signer=signer)
    for profile in Profile:
        allowed = profile in {Profile.DEVICE, Profile.OPERATOR}
        assert gateway.ask(TIMESTAMP, pair=signer.issue(profile)).status == (200 if allowed else 403), profile
    assert gateway.ask(TIMESTAMP, method="PUT").status == 405
    gateway.ask("/metadata/2.root.json", **{"Authorization": "Bearer x", "User-Agent": "pi-1", "X-Serial": "1"})
    assert set(bucket.asked[-1].headers) <= {"host", "connection"}


def test_a_gateway_whose_origin_this_is_may_read_and_another_gateway_may_not(caching, bucket, tmp_path):
    put(bucket, TIMESTAMP, b"one")
    signer = support.Signer.single(tmp_path)
    gateway = caching(signer=signer, _registry_mirror_caches=["00000000000000aa"])
    ours = signer.issue(Profile.GATEWAY, host="gw-2", serial="00000000000000aa")
    assert gateway.ask(TIMESTAMP, pair=ours).data == b"one"
    assert (
        gateway.ask(TIMESTAMP, pair=signer.issue(Profile.GATEWAY, host="gw-3", serial="00000000000000ab")).status == 403
    )
    posing = signer.issue(Profile.MONITOR)
    assert gateway.ask(TIMESTAMP, pair=posing).status == 403


def test_an_origin_that_asks_for_a_certificate_gets_the_gateway_s_own(caching, bucket, tmp_path):
    signer = support.Signer.single(tmp_path)
    put(bucket, TIMESTAMP, b"one")
    (tmp_path / "fleet-ca.crt").write_text(support.certificates.pem(signer.root))
    bucket.stop()
    bucket.client_ca = tmp_path / "fleet-ca.crt"
    bucket.start()
    gateway = caching(signer=signer, origin_certificate=True)
    assert gateway.ask(TIMESTAMP).data == b"one"
    assert "'commonName': '00000000000000a1'" in bucket.asked[0].certificate
    assert "'organizationalUnitName': 'gateway'" in bucket.asked[0].certificate


def test_a_gateway_caches_another_gateway(caching, bucket, tmp_path):
    path, data = pack(bucket, SLICE)
    signer = support.Signer.single(tmp_path)
    near_the_bucket = caching(signer=signer, _registry_mirror_caches=["00000000000000b2"])
    there = {
        "origin": f"https://127.0.0.1:{near_the_bucket.port}",
        "name": near_the_bucket.name,
        "authority": near_the_bucket.folder / "server" / "ca.crt",
        "origin_certificate": True,
        "signer": signer,
    }
    at_the_site = caching(host="gw-2", serial="00000000000000b2", **there)
    assert at_the_site.part(path, 7, 99).data == data[7:100]
    until(lambda: at_the_site.kept(path) and near_the_bucket.kept(path))
    assert at_the_site.part(path, 100, 199).data == data[100:200]
    assert len(bucket.asked) == 1
    stranger = caching(host="gw-3", serial="00000000000000c3", **there)
    assert stranger.part(path, 0, 9).status == 403


def test_headers_of_the_origin_steer_nothing_here(caching, bucket):
    path, data = pack(bucket, 100)
    put(bucket, TIMESTAMP, b"one")
    bucket.faults.extra = {
        "Cache-Control": "private, no-store",
        "X-Accel-Redirect": "/metadata/1.root.json",
        "X-Accel-Expires": "86400",
        "Set-Cookie": "who=pi-1",
        "Vary": "*",
        "Expires": "Thu, 01 Jan 1970 00:00:00 GMT",
    }
    gateway = caching(metadata_s=1)
    for _ in range(2):
        answer = gateway.part(path, 0, 9)
        assert (answer.status, answer.data) == (206, data[:10])
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert not {"set-cookie", "expires", "x-accel-redirect"} & set(answer.headers)
    assert len(bucket.of(f"/meadow{path}")) == 1
    assert gateway.ask(TIMESTAMP).headers["cache-control"] == "no-cache"
    put(bucket, TIMESTAMP, b"two")
    until(lambda: gateway.ask(TIMESTAMP).data == b"two")


def test_an_origin_without_ranges_is_slow_and_right_and_fills_nothing(caching, bucket):
    path, data = pack(bucket, 3 * SLICE)
    bucket.faults.ranges = False
    gateway = caching()
    for start in (SLICE, 2 * SLICE):
        with gateway.source().open_range(path.lstrip("/"), start, 50) as part:
            assert b"".join(part) == data[start : start + 50]
    assert gateway.kept(path) == []


def test_a_slice_that_was_cut_off_is_not_kept(caching, bucket):
    path, data = pack(bucket, SLICE)
    gateway = caching()
    bucket.faults.cut_after = 1000
    with pytest.raises(Exception, match="IncompleteRead"):
        gateway.part(path, 0, SLICE - 1)
    bucket.faults.cut_after = None
    until(lambda: gateway.kept(path) == [])
    assert gateway.part(path, 0, SLICE - 1).data == data


def test_a_pack_that_was_brought_again_under_another_tag_is_still_one(caching, bucket):
    path, data = pack(bucket, 2 * SLICE)
    bucket.faults.extra = {"ETag": '"first"'}
    gateway = caching()
    assert gateway.part(path, 0, 9).data == data[:10]
    bucket.faults.extra = {"ETag": '"second"'}
    assert gateway.ask(path).data == data


def test_the_cache_outlives_a_restart(caching, bucket):
    path, data = pack(bucket, SLICE)
    gateway = caching()
    gateway.part(path, 0, 9)
    until(lambda: gateway.kept(path))  # a device has its ten bytes before the slice is whole
    gateway.stop()
    gateway.start()
    assert gateway.part(path, 0, 9).data == data[:10]
    assert len(bucket.asked) == 1
    assert gateway.cache.stat().st_mode & 0o077 == 0


def test_more_than_the_cache_holds_goes_the_longest_unused_first(caching, bucket):
    gateway = caching(cache_mb=64)
    packs = [pack(bucket, 8 * SLICE, seed) for seed in range(12)]
    for path, data in packs:
        assert gateway.ask(path).data == data

    def size() -> int:
        return sum(file.stat().st_size for file in gateway.cache.rglob("*") if file.is_file())

    until(lambda: size() <= 65 * SLICE)
    assert gateway.kept(packs[-1][0]), "what was used last stays"
    assert not gateway.kept(packs[0][0])


def test_nginx_takes_the_configuration_without_an_origin_too(tmp_path: Path):
    from gateway_nginx import rendered

    text = rendered(tmp_path, 8443, fleet=support.FLEET, site=support.SITE)
    assert "proxy_pass" not in text
    assert "proxy_cache" not in text
