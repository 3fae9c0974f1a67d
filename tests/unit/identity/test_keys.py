"""Keys in a real software TPM, and in a stand-in for the Pi's one-time memory with the firmware's own exit codes."""

import base64
import os
import shutil
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from hedgerow.identity import anchor, certificates, enrol
from hedgerow.identity.keys_device import kinds, otp
from hedgerow.identity.profiles import Profile

SERIAL = "10000000a1b2c3d4"
STAND_IN = Path(__file__).parents[3] / "src/hedgerow/emulator/guest/image/usr/bin"


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "identity"


@pytest.fixture
def ca_pem(authority):
    return certificates.pem(authority.certificate)


# -- TPM -------------------------------------------------------------------

NEEDED = ("swtpm", "tpm2-abrmd", "dbus-daemon")


class Tpm:
    """A software TPM behind a resource manager, as the kernel's /dev/tpmrm0 is one; ``tcti`` is the way to it."""

    def __init__(self, folder):
        folder.mkdir()
        self._running = []
        self._start(
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={folder}", "--flags", "not-need-init,startup-clear"),
            *("--ctrl", f"type=unixio,path={folder}/tpm.ctrl", "--server", f"type=unixio,path={folder}/tpm"),
            ready=folder / "tpm.ctrl",
        )
        bus = folder / "bus"
        self._start("dbus-daemon", "--session", "--nofork", f"--address=unix:path={bus}", ready=bus)
        self.environment = {
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={bus}",
            "TPM2OPENSSL_TCTI": "tabrmd:bus_type=session",
        }
        self._start(
            *("tpm2-abrmd", "--session", "--allow-root", f"--tcti=swtpm:path={folder}/tpm"),
            env=os.environ | self.environment,
        )

    def _start(self, *command, ready=None, env=None):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        self._running.append(process)
        if ready is not None:
            for _ in range(100):
                if ready.exists():
                    return
                try:
                    process.wait(0.05)
                    break
                except subprocess.TimeoutExpired:
                    continue
            raise RuntimeError(f"{command[0]} did not start")

    def stop(self):
        for process in reversed(self._running):
            process.terminate()
            process.wait()


@pytest.fixture
def tpms(tmp_path_factory, monkeypatch):
    """Makes TPMs, and makes one the machine's."""
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing or not list(Path("/usr/lib").glob("*/ossl-modules/tpm2.so")):
        pytest.skip(f"needs {', '.join(missing) or 'tpm2-openssl'}")
    made = []

    def boot():
        made.append(Tpm(tmp_path_factory.mktemp("tpm") / "state"))
        use(made[-1])
        return made[-1]

    def use(tpm):
        for name, value in tpm.environment.items():
            monkeypatch.setenv(name, value)
        # The manager is on the bus a moment after it starts.
        for _ in range(100):
            done = subprocess.run(
                ["dbus-send", "--session", "--print-reply", "--dest=org.freedesktop.DBus", "/org/freedesktop/DBus",
                 "org.freedesktop.DBus.NameHasOwner", "string:com.intel.tss2.Tabrmd"],
                capture_output=True, text=True, check=False, timeout=10,
            )  # fmt: skip
            if "boolean true" in done.stdout:
                return
            time.sleep(0.05)  # nothing announces a name to a program that is not on the bus
        raise RuntimeError("the resource manager did not start")

    boot.use = use
    yield boot
    for tpm in made:
        tpm.stop()


def test_a_key_in_a_tpm_is_certified_and_no_file_has_it(tpms, folder, authority, names, ca_pem):
    tpms()
    asked = enrol.request(str(folder), SERIAL, key="tpm")
    certificate = authority.sign_csr(asked["csr"], Profile.DEVICE, names)
    assert enrol.install(str(folder), certificate, ca_pem)["changed"] == ["device.crt", "ca.crt"]
    found = enrol.status(str(folder))
    assert (found["key_kind"], found["faults"]) == ("tpm", [])
    assert found["public_key"] is not None
    text = (folder / "device.key").read_text()
    assert text.startswith("-----BEGIN TSS2 PRIVATE KEY-----")
    with pytest.raises(enrol.EnrolError):
        kinds.openssl("pkey", "-in", str(folder / "device.key"), "-noout")
    # A second run asks for the same key; nobody has to say its kind again.
    assert not enrol.request(str(folder), SERIAL)["key_created"]


def test_a_copied_card_is_worth_nothing_on_another_board(tpms, folder):
    tpms()
    enrol.request(str(folder), SERIAL, key="tpm")
    tpms()
    assert enrol.status(str(folder))["public_key"] is None


def test_a_key_moves_from_a_file_into_a_tpm_with_its_certificate(tpms, folder, authority, names, ca_pem):
    enrol.install(
        str(folder), authority.sign_csr(enrol.request(str(folder), SERIAL)["csr"], Profile.DEVICE, names), ca_pem
    )
    tpms()
    asked = enrol.request(str(folder), SERIAL, key="tpm")
    assert asked["key_created"]
    assert enrol.status(str(folder))["key_kind"] == "file"
    enrol.install(str(folder), authority.sign_csr(asked["csr"], Profile.DEVICE, names), ca_pem, layout="generations")
    assert enrol.status(str(folder))["key_kind"] == "tpm"


def test_a_tpm_key_signs(tpms, folder, tmp_path):
    tpms()
    enrol.request(str(folder), SERIAL, key="tpm")
    signature = base64.b64decode(kinds.sign(folder / "device.key", b"a message"))
    _verifies(enrol.status(str(folder))["public_key"], b"a message", signature, tmp_path)


def test_pythons_tls_serves_with_a_key_in_a_tpm(tpms, folder, authority, names, tmp_path):
    """As our servers would: OPENSSL_CONF activates the provider, and the key's file is given as any other."""
    python = "/usr/bin/python3"
    if not Path(python).exists():
        pytest.skip("needs the system's Python, which has the system's OpenSSL")
    tpms()
    asked = enrol.request(str(folder), SERIAL, key="tpm")
    ca = certificates.pem(authority.certificate)
    enrol.install(str(folder), authority.sign_csr(asked["csr"], Profile.DEVICE, names), ca)
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = all\n[all]\nproviders = providers\nalg_section = defaults\n"
        "[providers]\ndefault = active\ntpm2 = active\n[active]\nactivate = 1\n"
        "[defaults]\ndefault_properties = ?provider=tpm2,tpm2.digest!=yes,tpm2.cipher!=yes\n"
    )
    server = (
        "import socket, ssl, sys\n"
        "context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\n"
        "context.load_cert_chain(f'{sys.argv[1]}/device.crt', f'{sys.argv[1]}/device.key')\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "print(listener.getsockname()[1], flush=True)\n"
        "context.wrap_socket(listener.accept()[0], server_side=True).sendall(b'hello')\n"
    )
    process = subprocess.Popen(
        [python, "-c", server, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OPENSSL_CONF": str(tmp_path / "openssl.cnf")},
    )
    try:
        port = int(process.stdout.readline())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(folder / "ca.crt")
        raw = socket.create_connection(("127.0.0.1", port), timeout=20)
        with raw, context.wrap_socket(raw, server_hostname=names.dns) as line:
            assert line.recv(5) == b"hello"
    finally:
        process.kill()
        process.communicate()


def test_without_a_tpm_it_says_what_is_missing(folder, monkeypatch, tmp_path):
    monkeypatch.delenv("TPM2OPENSSL_TCTI", raising=False)
    monkeypatch.setattr(kinds, "TPM_DEVICE", tmp_path / "tpmrm0")
    with pytest.raises(enrol.EnrolError, match="no TPM") as caught:
        enrol.request(str(folder), SERIAL, key="tpm")
    assert "dtoverlay=tpm-slb9670" in caught.value.next_step
    assert not (folder / "device.key").exists()


def test_without_the_provider_it_says_what_to_install(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TPM2OPENSSL_TCTI", "swtpm")
    monkeypatch.setenv("OPENSSL_MODULES", str(tmp_path))
    with pytest.raises(enrol.EnrolError, match="cannot use the TPM") as caught:
        enrol.request(str(folder), SERIAL, key="tpm")
    assert "tpm2-openssl" in caught.value.next_step


def test_an_unknown_kind_is_refused(folder):
    with pytest.raises(enrol.EnrolError, match="no kind of key"):
        enrol.request(str(folder), SERIAL, key="paper")


# -- the Pi's own key ------------------------------------------------------


@pytest.fixture
def board(tmp_path, monkeypatch):
    """The folder of an emulated board's one-time memory."""
    monkeypatch.setenv("PATH", f"{STAND_IN}:{os.environ['PATH']}")
    monkeypatch.setenv("EMULATED_HARDWARE", str(tmp_path / "hardware"))
    memory = tmp_path / "hardware" / "otp"
    memory.mkdir(parents=True)
    return memory


def burnt(board):
    return (board / "burns").read_text().splitlines() if (board / "burns").exists() else []


def test_the_stand_in_ends_with_the_firmwares_exit_codes(board):
    def code(*words):
        return subprocess.run(["rpi-fw-crypto", *words], capture_output=True, check=False).returncode

    assert code("pubkey", "--key-id", "1") == 250  # KEY_NOT_SET
    assert code("genkey", "--key-id", "1", "--alg", "ec") == 0
    assert code("genkey", "--key-id", "1", "--alg", "ec") == 246  # KEY_NOT_BLANK
    assert code("set-key-status", "1", "LOCKED") == 0
    assert code("privkey", "--key-id", "1") == 252  # KEY_LOCKED
    assert code("pubkey", "--key-id", "2") == 253  # KEY_NOT_FOUND
    assert code("frobnicate") == 1


def test_looking_burns_nothing(board):
    assert otp.look().blank
    assert burnt(board) == []


@pytest.mark.parametrize("typed", ["", "yes", "y", SERIAL, "burn a key into 10000000ffffffff for ever", " "])
def test_nothing_is_burnt_unless_the_boards_own_words_are_typed(board, typed):
    with pytest.raises(enrol.EnrolError, match="nothing was burnt"):
        otp.burn(SERIAL, typed)
    assert burnt(board) == []


def test_a_key_is_burnt_once_and_stays(board):
    made = otp.burn(SERIAL, otp.confirmation(SERIAL))
    assert made.public_key is not None
    assert made.exposed
    with pytest.raises(enrol.EnrolError, match="has a key already"):
        otp.burn(SERIAL, otp.confirmation(SERIAL))
    assert burnt(board) == ["key 1"]
    assert otp.look().public_key == made.public_key


@pytest.mark.parametrize("status", ["00000201", "00000401", "00000000"])
def test_a_locked_or_strange_slot_is_not_burnt(board, status):
    (board / "status").write_text(status)
    with pytest.raises(enrol.EnrolError, match="not free"):
        otp.burn(SERIAL, otp.confirmation(SERIAL))
    assert burnt(board) == []


@pytest.mark.parametrize(
    "refusal,text,next_step",
    [
        ("pubkey 5", "cannot be read", "vclog"),
        ("pubkey 7", "no P-256 key", "vclog"),
        ("get-key-status 3", "no such key", "rpi-eeprom-update"),
        ("get-key-status 8", "does not support", "rpi-eeprom-update"),
    ],
)
@pytest.mark.parametrize("old", [False, True])
def test_what_the_firmware_refuses_is_told_and_burns_nothing(board, refusal, text, next_step, old):
    (board / "refuse").write_text(refusal)
    if old:
        (board / "tool-before-exit-codes").touch()
    with pytest.raises(enrol.EnrolError, match=text) as caught:
        otp.burn(SERIAL, otp.confirmation(SERIAL))
    assert next_step in caught.value.next_step
    assert burnt(board) == []


def test_a_burnt_key_that_does_not_sign_is_said(board):
    (board / "refuse").write_text("sign 9")
    with pytest.raises(enrol.EnrolError, match="cryptography failed"):
        otp.burn(SERIAL, otp.confirmation(SERIAL))
    assert burnt(board) == ["key 1"]


def test_enrolment_never_burns(board, folder):
    with pytest.raises(enrol.EnrolError, match="no key of its own") as caught:
        enrol.request(str(folder), SERIAL, key="otp")
    assert "anchor --burn" in caught.value.next_step
    assert enrol.status(str(folder), key="otp")["anchor"] is None
    assert burnt(board) == []


def test_the_boards_key_vouches_for_the_key_in_the_file(board, folder):
    otp.burn(SERIAL, otp.confirmation(SERIAL))
    asked = enrol.request(str(folder), SERIAL, key="otp")
    word = asked["anchor"]
    assert word["public_key"] == enrol.status(str(folder), key="otp")["anchor"]
    assert anchor.holds(word["public_key"], asked["csr"], word["signature"])
    other = enrol.request(str(folder), SERIAL, key="otp", new_key=True)
    assert not anchor.holds(word["public_key"], other["csr"], word["signature"])
    assert not anchor.holds(word["public_key"], asked["csr"], "AAAA")
    assert not anchor.holds(word["public_key"], asked["csr"], "no base64!")


def test_a_locked_key_still_vouches_and_is_not_exposed(board, folder):
    otp.burn(SERIAL, otp.confirmation(SERIAL))
    subprocess.run(["rpi-fw-crypto", "set-key-status", "1", "READ_LOCKED"], check=True, capture_output=True)
    assert not otp.look().exposed
    assert enrol.request(str(folder), SERIAL, key="otp")["anchor"] is not None


def test_without_the_program_it_says_what_to_install(folder, monkeypatch, tmp_path):
    for name in ("openssl",):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(enrol.EnrolError, match="rpi-fw-crypto is not installed") as caught:
        enrol.request(str(folder), SERIAL, key="otp")
    assert caught.value.next_step == "apt-get install rpifwcrypto"


def _verifies(public_key, message, signature, tmp_path):
    for name, data in {"key": public_key.encode(), "message": message, "signature": signature}.items():
        (tmp_path / name).write_bytes(data)
    subprocess.run(
        ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "key", "-rawin", "-digest", "sha256",
         "-in", tmp_path / "message", "-sigfile", tmp_path / "signature"],
        check=True, capture_output=True,
    )  # fmt: skip
