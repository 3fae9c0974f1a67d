"""The Pi's own key in one-time programmable memory, through ``rpi-fw-crypto`` (package ``rpifwcrypto``).

No TLS library can use this key: the firmware signs, and gives no handle that OpenSSL takes. So it is an **anchor**: it
vouches for a key in a file (``message`` says what it signs), and who has its public key refuses a request that it did
not vouch for. A copied card is worth nothing without its board; the file key is short-lived and replaceable, the
anchor is neither.

Burning is for ever, so:

- Nothing here burns unless ``burn`` is called with the very words of ``confirmation``, which name this board's serial;
  no enrolment and no renewal ever calls it.
- It looks first and refuses where anything but "blank and unlocked" is the answer: a key that is there stays.
- It reads back after: the public key must come, and a signature must hold under it.

Exit codes of the program are 256 less the firmware's error; older ones end with 255 and say the number in words.
Not verified on a board.
"""

from __future__ import annotations

import base64
import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hedgerow.identity.keys_device.tool import EnrolError, openssl, run

PROGRAM, PACKAGE = "rpi-fw-crypto", "rpifwcrypto"
KEY_ID = "1"  # the device's own key; README of rpifwcrypto
# Bits of a key's status (rpifwcrypto.h): of the device's own kind, no raw reads, no generation, no signatures.
DEVICE, READ_LOCKED, GEN_LOCKED, SIGN_LOCKED = 1 << 0, 1 << 8, 1 << 9, 1 << 10
# RPI_FW_CRYPTO_STATUS
_ERRORS = {
    1: "unknown error",
    2: "invalid argument",
    3: "this firmware has no such key",
    4: "the key is locked for this",
    5: "the memory cannot be read",
    6: "no key has been burnt",
    7: "what is burnt is no P-256 key",
    8: "this firmware does not support it",
    9: "the firmware's cryptography failed",
    10: "the slot is not blank",
}
NOT_FOUND, NOT_SET, NOT_SUPPORTED = 3, 6, 8
_STATUS = re.compile(r"status: 0x([0-9a-f]{8})")
_LAST_ERROR = re.compile(r"Last crypto error: (\d+)")


class FirmwareError(EnrolError):
    """The firmware refused; ``code`` is its own."""

    code = 1


@dataclass(frozen=True)
class Anchor:
    """What the board has. ``public_key`` (PEM) is None where none is burnt; ``status`` are the bits."""

    public_key: str | None
    status: int

    @property
    def blank(self) -> bool:
        return self.public_key is None

    @property
    def exposed(self) -> bool:
        """Whether root can read the key itself: nothing locked it since the board started."""
        return not self.blank and not self.status & READ_LOCKED


def look() -> Anchor:
    """What the board has; changes nothing.

    Raises:
        EnrolError: the program is missing, or the firmware answers neither with a key nor with "none".
    """
    status = _status()
    try:
        der = _output("pubkey", "--key-id", KEY_ID)
    except FirmwareError as fault:
        if fault.code != NOT_SET:
            raise
        return Anchor(None, status)
    text = base64.encodebytes(der).decode()
    # Through openssl, so that what is no key is found out here.
    return Anchor(openssl("pkey", "-pubin", "-pubout", stdin=_pem(text)), status)


def message(csr_pem: str) -> bytes:
    """What the anchor signs for a request: its SHA-256 behind a name of its own, so that it can stand for no other."""
    body = "".join(line for line in csr_pem.splitlines() if line and not line.startswith("-----"))
    digest = hashlib.sha256(base64.b64decode(body)).hexdigest()
    return f"hedgerow-anchor-v1\n{digest}\n".encode()


def vouch(csr_pem: str) -> dict[str, str]:
    """``{"public_key": PEM, "signature": Base64 of DER}`` over ``message``.

    Raises:
        EnrolError: there is no anchor, or it may not sign.
    """
    anchor = look()
    if anchor.public_key is None:
        raise EnrolError(
            "this board has no key of its own to vouch with",
            where=f"{PROGRAM} get-key-status {KEY_ID}",
            next_step="burn one, which is for ever: hedgerow-device identity anchor --burn",
        )
    return {"public_key": anchor.public_key, "signature": base64.b64encode(_sign(message(csr_pem))).decode()}


def confirmation(serial: str) -> str:
    """What a person types to have a key burnt into the board of ``serial``."""
    return f"burn a key into {serial} for ever"


def burn(serial: str, typed: str) -> Anchor:
    """Burn a key into a board that has none; returns what it has then.

    Raises:
        EnrolError: ``typed`` is not ``confirmation(serial)``, or the board is not blank and unlocked; nothing was
            burnt. Or what was burnt does not work, which the message says.
    """
    if typed != confirmation(serial):
        raise EnrolError(
            "not confirmed; nothing was burnt",
            where=f"board {serial}",
            next_step=f"type exactly: {confirmation(serial)}",
        )
    before = look()
    if not before.blank:
        raise EnrolError(
            "this board has a key already, and it stays; nothing was burnt",
            where=f"{PROGRAM} pubkey --key-id {KEY_ID}",
            next_step="use it: device_identity_key: otp",
        )
    if not before.status & DEVICE or before.status & (GEN_LOCKED | SIGN_LOCKED):
        raise EnrolError(
            f"the key's slot is not free to be written (status 0x{before.status:08x}); nothing was burnt",
            where=f"{PROGRAM} get-key-status {KEY_ID}",
            next_step="take lock_device_key_write out of config.txt, restart the board and look again",
        )
    _output("genkey", "--key-id", KEY_ID, "--alg", "ec")
    after = look()
    if after.public_key is None or not _holds(after.public_key):
        raise EnrolError(
            "a key was burnt, but it does not sign; this board cannot have another one",
            where=f"{PROGRAM} sign --key-id {KEY_ID}",
            next_step="keep the board with device_identity_key: file, and look at the firmware's log: vclog -m",
        )
    return after


def _holds(public_key: str) -> bool:
    """Whether a signature of the anchor verifies, as whoever relies on it will do it."""
    probe = b"hedgerow-anchor-probe\n"
    signature = _sign(probe)
    with tempfile.TemporaryDirectory(prefix="hedgerow-otp-") as folder:
        files = {"key": public_key.encode(), "message": probe, "signature": signature}
        for name, data in files.items():
            Path(folder, name).write_bytes(data)
        try:
            openssl(
                *("pkeyutl", "-verify", "-pubin", "-inkey", f"{folder}/key", "-rawin", "-digest", "sha256"),
                *("-in", f"{folder}/message", "-sigfile", f"{folder}/signature"),
            )
        except EnrolError:
            return False
    return True


def _sign(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hedgerow-otp-") as folder:
        text = Path(folder, "message")
        text.write_bytes(data)
        return _output("sign", "--in", str(text), "--key-id", KEY_ID, "--alg", "ec")


def _status() -> int:
    text = _output("get-key-status", KEY_ID).decode(errors="replace")
    found = _STATUS.search(text)
    if found is None:
        raise EnrolError(
            f"{PROGRAM} says nothing that can be read: {text.strip()[:120]!r}",
            where=f"{PROGRAM} get-key-status {KEY_ID}",
            next_step=f"apt-get install {PACKAGE}, of the version that the firmware needs",
        )
    return int(found[1], 16)


def _output(*arguments: str) -> bytes:
    done = run(PROGRAM, *arguments, package=PACKAGE)
    if done.returncode == 0:
        return done.stdout
    said = _LAST_ERROR.search(done.stderr.decode(errors="replace"))
    code = int(said[1]) if said is not None else 256 - done.returncode
    fault = FirmwareError(
        f"the firmware refused {arguments[0]}: {_ERRORS.get(code, f'error {code}')}",
        where=f"{PROGRAM} {' '.join(arguments[:3])} (exit code {done.returncode})",
        next_step="a newer bootloader, where this one does not know the key: rpi-eeprom-update"
        if code in {NOT_FOUND, NOT_SUPPORTED}
        else "see the firmware's log: vclog -m",
    )
    fault.code = code
    raise fault


def _pem(body: str) -> str:
    return f"-----BEGIN PUBLIC KEY-----\n{body}-----END PUBLIC KEY-----\n"
