"""What goes wrong between a publisher and S3, over real HTTP: what is overcome, and what is said where it is not."""

from __future__ import annotations

import hashlib
import json
import random
import socket

import pytest
from s3_proxy import Answer, CutAnswer, CutUpload, LoseAnswer

from hedgerow.errors import MachineError, NetworkError, RefusedError, UsageError
from hedgerow.registry.stores import open_store


@pytest.fixture
def through(seaweed, proxy):
    """A store whose requests go through the proxy, and how often each may be tried."""

    def make(attempts: int = 3, **how: str):
        return open_store(seaweed.location(endpoint=proxy.endpoint, attempts=str(attempts), **how))

    return make


def only_first(fault, *, method: str = "PUT", count: int = 1):
    return lambda asked, path, before: fault if asked == method and before < count else None


@pytest.mark.parametrize(
    "fault",
    [Answer(503, "SlowDown"), Answer(500, "InternalError"), CutUpload(10), LoseAnswer()],
    ids=["throttled", "failed", "cut in the middle", "answer lost"],
)
def test_a_fault_that_passes_is_overcome(through, proxy, fault):
    store = through()
    proxy.rule = only_first(fault)
    store.put("metadata/x.json", b"content of the file")
    assert store.get("metadata/x.json") == b"content of the file"
    assert proxy.seen.count(proxy.seen[0]) == 2


@pytest.mark.parametrize("fault", [Answer(503, "SlowDown"), LoseAnswer()], ids=["throttled", "answer lost"])
def test_a_conditional_write_is_done_once_and_known_to_be(through, proxy, fault):
    store = through()
    proxy.rule = only_first(fault)
    assert store.put_new("x", b"mine") is True
    tag = store.get_tagged("x").etag
    proxy.seen.clear()
    assert store.put_if("x", b"mine again", tag) is True
    assert store.get("x") == b"mine again"
    proxy.seen.clear()
    assert store.put_new("x", b"other") is False


def test_a_file_in_parts_survives_a_cut(through, proxy, tmp_path):
    data = random.Random(3).randbytes((40 << 20) + 5)
    (tmp_path / "big").write_bytes(data)
    store = through()
    # Parts have the file's path: the second request of four is cut.
    proxy.rule = lambda method, path, before: CutUpload(1 << 20) if method == "PUT" and before == 1 else None
    store.put_file("targets/blobs/big", tmp_path / "big")
    proxy.rule = lambda method, path, before: None
    with store.open("targets/blobs/big") as blocks:
        assert b"".join(blocks) == data
    assert [method for method, _ in proxy.seen].count("PUT") == 4


def test_a_file_in_parts_that_cannot_be_sent_leaves_nothing(through, proxy, tmp_path):
    (tmp_path / "big").write_bytes(bytes(40 << 20))
    store = through(attempts=1)
    proxy.rule = lambda method, path, before: Answer(500, "InternalError") if method == "PUT" else None
    with pytest.raises(NetworkError, match="the store failed") as caught:
        store.put_file("targets/blobs/big", tmp_path / "big")
    assert "run it again" in caught.value.next_step
    proxy.rule = lambda method, path, before: None
    assert list(store.list("")) == []
    assert store.discard_unfinished(0) == 0


def test_an_answer_that_is_cut_is_not_taken_for_the_file(through, proxy):
    store = through()
    store.put("x", b"0123456789")
    proxy.rule = lambda method, path, before: CutAnswer(4) if method == "GET" else None
    with pytest.raises(NetworkError, match="cannot be reached"):
        store.get("x")
    with pytest.raises(NetworkError, match="cannot be reached"), store.open("x") as blocks:
        list(blocks)


@pytest.mark.parametrize(
    "answer,error,what,next_step",
    [
        (Answer(503, "SlowDown"), NetworkError, "asks to slow down", "run it again"),
        (Answer(500, "InternalError"), NetworkError, "the store failed", "run it again"),
        (Answer(403, "RequestTimeTooSkewed"), MachineError, "clock", "timedatectl"),
        (Answer(403, "AccessDenied"), RefusedError, "forbids", "allow s3:"),
        (Answer(403, "ExpiredToken"), UsageError, "credentials", "AWS_PROFILE"),
        (Answer(400, "KMS.NotFoundException"), UsageError, "encryption key", "kms_key"),
        (Answer(400, "AuthorizationHeaderMalformed"), UsageError, "another region", "region="),
        (Answer(400, "SomethingElse"), UsageError, "refuses GetObject", "docs/stores.md"),
        (Answer(501, "NotImplemented"), UsageError, "does not know how", "docs/stores.md"),
    ],
)
def test_an_error_says_whose_move_it_is(through, proxy, answer, error, what, next_step):  # noqa: PLR0917
    store = through(attempts=1)
    proxy.rule = lambda method, path, before: answer
    with pytest.raises(error, match=what) as caught:
        store.get("metadata/x.json")
    assert next_step in caught.value.next_step
    assert caught.value.where.endswith("metadata/x.json")
    assert caught.value.where.startswith("s3://registry/")


def test_wrong_credentials(seaweed, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not this one")
    with pytest.raises(UsageError, match="does not know these credentials"):
        seaweed.store().get("x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    with pytest.raises(UsageError, match="does not know these credentials"), seaweed.store().lock():
        pass


def test_credentials_that_may_read_only(seaweed, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hedgerow-reader")
    store = seaweed.store()
    assert store.get("x") is None
    with pytest.raises(RefusedError, match="forbids") as caught:
        store.put("x", b"1")
    assert caught.value.next_step.startswith("allow s3:PutObject")


def test_no_credentials(seaweed, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(UsageError, match="no credentials") as caught:
        seaweed.store().get("x")
    assert "AWS_PROFILE" in caught.value.next_step


def test_a_profile_that_is_not_there(seaweed):
    with pytest.raises(UsageError, match="profile"):
        seaweed.store(profile="nobody").get("x")


def test_a_bucket_that_is_not_there(seaweed):
    with pytest.raises(UsageError, match="bucket does not exist") as caught, seaweed.store(bucket="no-such").lock():
        pass
    assert "create it" in caught.value.next_step


def test_nobody_listens():
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        store = open_store(f"s3://registry/x?endpoint=http://127.0.0.1:{bound.getsockname()[1]}&attempts=1")
        with pytest.raises(NetworkError, match="cannot be reached") as caught:
            store.put("x", b"1")
    assert "run it again" in caught.value.next_step


def test_over_tls_by_a_ca_of_ones_own(seaweed, tmp_path):
    """Bodies are sent otherwise than in the clear, with their checksums behind them; in parts too."""
    store = seaweed.store(endpoint=seaweed.secure_endpoint, ca=str(seaweed.ca))
    with store.lock():
        store.put("metadata/timestamp.json", b"1")
    data = random.Random(5).randbytes((40 << 20) + 5)
    (tmp_path / "big").write_bytes(data)
    store.put_file("targets/blobs/big", tmp_path / "big")
    assert store.holds("targets/blobs/big", size=len(data), sha256=hashlib.sha256(data).hexdigest())
    assert not store.holds("targets/blobs/big", size=len(data), sha256="00" * 32)


def test_a_certificate_that_nobody_vouches_for(seaweed):
    store = seaweed.store(endpoint=seaweed.secure_endpoint, attempts="1")
    with pytest.raises(NetworkError, match="certificate is not trusted") as caught:
        store.get("x")
    assert "ca=" in caught.value.next_step


def test_errors_hold_no_secret(seaweed, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "do-not-print-me")
    with pytest.raises(UsageError) as caught:
        seaweed.store().get("x")
    assert "do-not-print-me" not in json.dumps(caught.value.as_dict())


def test_encryption_at_rest_is_asked_for_and_kept(seaweed):
    store = seaweed.store(sse="AES256")
    store.put("x", b"1")
    assert store._bucket.head("x")["ServerSideEncryption"] == "AES256"
    assert store.get("x") == b"1"
    plain = seaweed.store()
    plain.put("x", b"1")
    assert "ServerSideEncryption" not in plain._bucket.head("x")


def test_a_damaged_upload_is_refused_by_the_server(seaweed, monkeypatch, tmp_path):
    monkeypatch.setattr("hedgerow.registry.stores.s3_bucket.hash_file", lambda path: "00" * 32)
    (tmp_path / "source").write_bytes(b"altered on its way")
    store = seaweed.store()
    with pytest.raises(UsageError, match="PutObject"):
        store.put_file("targets/blobs/x", tmp_path / "source")
    assert store.size("targets/blobs/x") is None


def test_what_caches_may_keep(seaweed):
    store = seaweed.store()
    for path in ("metadata/timestamp.json", "metadata/3.root.json", "targets/packs/00/aa"):
        store.put(path, b"{}")
    kept = {path: store._bucket.head(path)["CacheControl"] for path in store.list("")}
    assert kept["metadata/timestamp.json"] == "no-cache"
    assert kept["metadata/3.root.json"] == kept["targets/packs/00/aa"] == "public, max-age=31536000, immutable"
