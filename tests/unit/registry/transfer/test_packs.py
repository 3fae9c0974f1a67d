from __future__ import annotations

import contextlib
import hashlib
import os

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import PublisherError
from hedgerow.registry.transfer import packs
from hedgerow.registry.transfer.packs import PackWriter, Place
from hedgerow.registry.transfer.recipe import MAX_CHUNK_BYTES, pack_path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def unframe(frame: bytes, chunk: bytes) -> bytes:
    return packs.unframe(frame, size=len(chunk), sha256=sha256(chunk), where="here")


@given(st.binary(min_size=1, max_size=300) | st.binary(min_size=1, max_size=5).map(lambda part: part * 400))
def test_a_frame_gives_its_chunk_back_and_is_never_longer(chunk):
    frame = packs.frame(chunk)
    assert unframe(frame, chunk) == chunk
    assert len(frame) <= len(chunk)


def test_what_does_not_shrink_is_kept_as_it_is():
    noise = os.urandom(1000)
    assert packs.frame(noise) == noise


@pytest.mark.parametrize("size", [0, MAX_CHUNK_BYTES + 1])
def test_a_chunk_has_bounds(size):
    with pytest.raises(ValueError, match="a chunk has 1 to"):
        packs.frame(bytes(size))


@given(st.data())
def test_altered_or_cut_frames_are_refused(data):
    chunk = data.draw(st.sampled_from([b"weights " * 50, bytes(range(256)), b"x"]))
    frame = bytearray(packs.frame(chunk))
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(frame) - 1))
        frame[place] ^= data.draw(st.integers(1, 255))
    else:
        del frame[data.draw(st.integers(0, len(frame) - 1)) :]
    # A bit of zstd's header may change nothing; then the chunk is still the right one.
    with contextlib.suppress(PublisherError):
        assert unframe(bytes(frame), chunk) == chunk


def test_a_bomb_is_refused_before_it_is_expanded(monkeypatch):
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    monkeypatch.setattr(zstandard, "ZstdDecompressor", None)
    with pytest.raises(PublisherError, match=f"a frame declares {1 << 28} bytes, wanted 1048576"):
        packs.unframe(bomb, size=1 << 20, sha256="0" * 64, where="x")


def test_a_bomb_that_lies_about_its_size_is_refused():
    honest = zstandard.ZstdCompressor().compress(bytes(1 << 20))
    # Frame header descriptor 0xA0: single segment, four bytes of content size (RFC 8878, 3.1.1.1).
    assert honest[4] & 0b11100000 == 0b10100000
    lying = honest[:5] + (1 << 16).to_bytes(4, "little") + honest[9:]
    with pytest.raises(PublisherError, match="damaged"):
        packs.unframe(lying, size=1 << 16, sha256="0" * 64, where="x")


def test_a_frame_without_its_size_and_one_with_a_tail_are_refused():
    chunk = b"weights " * 100
    hidden = zstandard.ZstdCompressor(write_content_size=False).compress(chunk)
    with pytest.raises(PublisherError, match="declares no size"):
        unframe(hidden, chunk)
    with pytest.raises(PublisherError, match="damaged"):
        unframe(packs.frame(chunk) + b"tail", chunk)


def test_another_chunk_of_the_same_size_is_refused():
    with pytest.raises(PublisherError, match="altered"):
        unframe(packs.frame(b"b" * 100), b"a" * 100)


def test_packs_hold_what_was_added_and_are_named_by_it(tmp_path):
    chunks = [bytes([place]) * 10 + os.urandom(30) for place in range(5)]
    with PackWriter(tmp_path, max_bytes=100) as writer:
        places = [writer.add(packs.frame(chunk)) for chunk in chunks]
        made = writer.close()
    assert places[:3] == [Place(0, 0, 40), Place(0, 40, 40), Place(1, 0, 40)]
    assert [pack.size for pack in made] == [80, 80, 40]
    for chunk, place in zip(chunks, places, strict=True):
        content = (tmp_path / pack_path(made[place.pack].sha256)).read_bytes()
        assert sha256(content) == made[place.pack].sha256
        assert unframe(content[place.offset : place.offset + place.length], chunk) == chunk


def test_a_writer_that_is_left_by_an_error_leaves_whole_packs_only(tmp_path):
    def fail() -> None:
        with PackWriter(tmp_path, max_bytes=10) as writer:
            writer.add(b"12345678")
            writer.add(b"abcdefgh")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in left] == [sha256(b"12345678")]


def test_a_writer_without_frames_makes_no_pack(tmp_path):
    with PackWriter(tmp_path) as writer:
        assert writer.close() == ()
    assert list(tmp_path.iterdir()) == []
