"""A real handshake between a device's certificate and a client's."""

import socket
import ssl
import threading

import pytest

from hedgerow.errors import UsageError
from hedgerow.identity.profiles import Peer, Profile, peer
from hedgerow.identity.tls import client_context, server_name


@pytest.fixture
def server(authority, names, make_csr, tmp_path):
    """A device's TLS server on loopback that answers one connection with who it thinks called."""
    csr, key = make_csr()
    (tmp_path / "device.crt").write_text(authority.sign_csr(csr, Profile.DEVICE, names))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_cert_chain(tmp_path / "device.crt", key)
    context.load_verify_locations(authority.folder / "ca.crt")
    seen = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer():
            plain, _ = listener.accept()
            try:
                with context.wrap_socket(plain, server_side=True) as connection:
                    seen.append(peer(connection.getpeercert()))
                    connection.sendall(b"hello")
            except (ssl.SSLError, ConnectionError):
                plain.close()

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname(), seen
        thread.join(timeout=10)


def test_a_client_verifies_the_device_by_name_and_is_known_by_its_profile(server, fleet_dir, authority):
    authority.issue_client(Profile.OPERATOR, "demo")
    address, seen = server
    context = client_context(fleet_dir, "demo")
    name = server_name("pi-orchard-1", "orchard", "meadow")
    with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
        assert connection.recv(5) == b"hello"
        assert connection.version() == "TLSv1.3"
    assert seen == [Peer("meadow", Profile.OPERATOR, "demo")]


def test_another_device_is_not_taken_for_the_one_that_was_asked(server, fleet_dir, authority):
    authority.issue_client(Profile.OPERATOR, "demo")
    context = client_context(fleet_dir, "demo")
    name = server_name("pi-orchard-2", "orchard", "meadow")
    with (
        socket.create_connection(server[0]) as plain,
        pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"),
    ):
        context.wrap_socket(plain, server_hostname=name)


def test_a_missing_client_says_how_to_make_one(fleet_dir, authority):
    with pytest.raises(UsageError, match="hedgerow ca issue"):
        client_context(fleet_dir, "nobody")
