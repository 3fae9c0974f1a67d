"""The age format: what age itself wrote is read, what is written reads back, and damage is told from a wrong key."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.backup import bech32
from hedgerow.backup.age import CHUNK, Reader, Writer
from hedgerow.backup.age_keys import DamagedError, Identity, Passphrase, Recipient
from hedgerow.errors import UsageError

# Written by age 1.1.1: `age -r` and `age -p`.
PLAIN = b"sealed by age itself\n"
IDENTITY = "AGE-SECRET-KEY-1UMSQV4LECU6NV8999C42W49S8VJT0XAZ0N6KZXZKDPTWDWM8N2TSRZLML4"
RECIPIENT = "age17q7fde3y099xsp6zrlu79pypu0ajckgfrk4n7phugvvhu8vpc56s8rh2uw"
FOR_RECIPIENT = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IFgyNTUxOSBpdXY5R0l5Qk0zQ1JPWDRKZTZlTDEwQnh0RGloZ3FIdVh0aVhDaWJoM0RBClNxaU5a"
    "U1FjSHhmVXBSblVSUE5TZnc2YzZ0S0tENCtUdnZJMlg1RWZFRmsKLS0tIFFxeXBmNkRDT05Pa3VMVGxOV1RBQlFWU1ZpVHFyN3RKSGd6UFdkNUNq"
    "dmcKn4jR3orxvHPDXznyFGZer3BvHvOLhMyM0jL3tafX73etCPikVsiQE8C44OGxEzuVjhTMQLw="
)
FOR_PASSPHRASE = base64.b64decode(
    "YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBYN0FEUnMyWFJtRS9IZlhHamF0Znh3IDE4Cmcwd3EySDU1dEMrQTZqVGZMSGYvRnFTWVVO"
    "MzhDa3NqWW04cXNGWnBwNWMKLS0tIDNhOVJYSklIRnd4L1lBK0RMUFk1dXdyMEhvK1Y4d1pFLzdwTWRnU3pRekEK6F707PoqhUmjuBbjutjgl6zo"
    "mCEpAEaYyzQ0FYXrjynEKdTZ5wPcPhRgi0V7x+L5Ls8i4+M="
)
SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 3 * CHUNK + 7)


def sealed(data: bytes, *wrappers) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, wrappers)
    for start in range(0, len(data), 10_000):
        writer.write(data[start : start + 10_000])
    writer.finish()
    return file.getvalue()


def opened(data: bytes, *openers) -> bytes:
    return Reader(io.BytesIO(data), openers).read()


def test_what_age_itself_wrote_is_read():
    assert Identity(IDENTITY).recipient == RECIPIENT
    assert Identity(IDENTITY).text == IDENTITY
    assert opened(FOR_RECIPIENT, Identity(IDENTITY)) == PLAIN


@pytest.mark.slow
def test_what_age_itself_wrote_under_a_passphrase_is_read():
    assert opened(FOR_PASSPHRASE, Passphrase("correct horse battery")) == PLAIN
    with pytest.raises(UsageError, match="the passphrase is wrong"):
        opened(FOR_PASSPHRASE, Passphrase("correct horse pattery"))


@pytest.mark.skipif(shutil.which("age") is None, reason="the program age is not installed")
@pytest.mark.parametrize("size", SIZES)
def test_age_itself_reads_what_is_written(tmp_path, size):
    (tmp_path / "identity").write_text(IDENTITY)
    data = os.urandom(size)
    done = subprocess.run(["age", "-d", "-i", tmp_path / "identity"], input=sealed(data, Recipient(RECIPIENT)),
                          capture_output=True, check=True)  # fmt: skip
    assert done.stdout == data


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_reads_back_for_each_recipient(size):
    data, others = os.urandom(size), [Identity.generate() for _ in range(2)]
    written = sealed(data, *(Recipient(each.recipient) for each in others))
    assert [opened(written, each) for each in others] == [data, data]
    with pytest.raises(UsageError, match="this key is not one"):
        opened(written, Identity(IDENTITY))


def test_a_passphrase_reads_back_and_is_the_only_recipient():
    quick = Passphrase("correct horse", work_factor=4)
    assert opened(sealed(PLAIN, quick), quick) == PLAIN
    with pytest.raises(DamagedError, match="only recipient"):
        opened(sealed(PLAIN, quick, Recipient(RECIPIENT)), quick)


def test_a_work_factor_that_would_take_all_memory_is_refused():
    written = sealed(PLAIN, Passphrase("correct horse", work_factor=4))
    with pytest.raises(DamagedError, match="work factor 30"):
        opened(re.sub(rb"(-> scrypt \S+) 4\n", rb"\1 30\n", written), Passphrase("correct horse"))


@given(cut=st.integers(min_value=0, max_value=CHUNK + 300))
def test_a_file_cut_off_anywhere_is_damaged_never_short(cut):
    written = sealed(bytes(CHUNK + 100), Recipient(RECIPIENT))
    with pytest.raises(DamagedError):
        opened(written[: min(cut, len(written) - 1)], Identity(IDENTITY))


@given(place=st.integers(min_value=0), bit=st.integers(min_value=0, max_value=7))
def test_a_file_altered_anywhere_is_refused(place, bit):
    written = bytearray(sealed(bytes(1000), Recipient(RECIPIENT)))
    written[place % len(written)] ^= 1 << bit
    with pytest.raises((DamagedError, UsageError)):
        opened(bytes(written), Identity(IDENTITY))


def test_bytes_behind_the_end_are_refused():
    with pytest.raises(DamagedError):
        opened(FOR_RECIPIENT + b"more", Identity(IDENTITY))


@pytest.mark.parametrize("text", ["", "age1", RECIPIENT[:-1] + "q", RECIPIENT.replace("7q", "7Q"), IDENTITY.lower()])
def test_what_is_no_recipient_is_said(text):
    with pytest.raises(UsageError, match="no age recipient"):
        Recipient(text)


def test_a_wrong_identity_is_never_repeated():
    with pytest.raises(UsageError) as caught:
        Identity(IDENTITY[:-1] + "5")
    assert IDENTITY[20:40] not in str(caught.value)


@given(st.binary(max_size=80))
def test_bech32_both_ways(data):
    assert bech32.decode(bech32.encode("age", data), "age") == data
