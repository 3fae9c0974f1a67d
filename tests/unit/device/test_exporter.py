"""The exporter on loopback: real handshakes, real certificates of every profile, a board in a folder."""

import datetime as dt
import http.client
import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hedgerow.device import exporter, heartbeat, metrics
from hedgerow.device.store.written import Counter
from hedgerow.errors import DeviceError, MachineError
from hedgerow.identity import keyfile
from hedgerow.identity.ca import FleetCA
from hedgerow.identity.profiles import CLIENT_PROFILES, DeviceNames, Profile
from hedgerow.identity.tls import client_context

DEVICE = SimpleNamespace(fleet="meadow", site="orchard", models_dir=Path("/nowhere"))
NAME = "pi-orchard-1.orchard.meadow"

SENSORS = {
    "thermal": {"soc_c": 48.3},
    "undervoltage_now": False,
    "fan_rpm": 2500,
    "cpu_freq_hz": 2400000000,
    "memory": {},
    "link": {"speed_gts": 8.0, "width": 1},
}
FIRMWARE = {
    "throttled": {
        "raw": "0x50000",
        "now": {"undervoltage": False, "throttled": False},
        "since_boot": {"undervoltage": True, "throttled": True},
    },
    "rails": {"EXT5V": {"volts": 5.11, "amps": None}, "VDD_CORE": {"volts": 0.72, "amps": 1.5}},
    "pmic_c": 51.0,
}
FULL = {
    "hat": {
        "kind": "hat-plus-2",
        "vendor": "Raspberry Pi",
        "product": None,
        "pci_address": "0001:01:00.0",
        "driver": "hailo1x_pci",
        "driver_version_loaded": "5.1.1",
        "node": "/dev/hailo0",
        "link_speed_gts": 8.0,
        "link_width": 1,
        "library_version": "5.1.1",
        "firmware_version": None,
        "architecture": None,
        "mismatch": False,
        "error": "HAILO_COMMUNICATION_CLOSED(62)",
    },
    "thermal": {"hat_c": None},
}


class StubBoard:
    def __init__(self, sensors=SENSORS, firmware=FIRMWARE, full=FULL):
        self.sensors, self.firmware, self.full = (lambda: sensors), (lambda: firmware), (lambda: full)


@pytest.fixture
def fleet(tmp_path):
    """The fleet's folder, its CA, and a maker of machine certificates: (folder of device.key, device.crt, ca.crt)."""
    fleet_dir = tmp_path / "meadow"
    authority, _ = FleetCA.init(fleet_dir, "meadow")

    def machine(profile=Profile.DEVICE, host="pi-orchard-1", site="orchard", serial="10000000a1b2c3d4"):
        folder = tmp_path / host
        folder.mkdir()
        key = folder / "device.key"
        command = ["openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj"]
        csr = subprocess.run(
            [*command, f"/CN={serial}", "-keyout", key], capture_output=True, text=True, check=True
        ).stdout
        names = DeviceNames(fleet="meadow", site=site, host=host, serial=serial)
        (folder / "device.crt").write_text(authority.sign_csr(csr, profile, names))
        (folder / "ca.crt").write_bytes((fleet_dir / "ca" / "ca.crt").read_bytes())
        return folder

    return SimpleNamespace(dir=fleet_dir, authority=authority, machine=machine)


@pytest.fixture
def port(fleet):
    with exporter.listen(DEVICE, credentials=fleet.machine(), board=StubBoard(), port=0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def as_machine(folder):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(folder / "ca.crt")
    context.load_cert_chain(folder / "device.crt", folder / "device.key")
    return context


def get(port, context, path="/metrics"):
    """Status and body; the server's name is verified, the connection goes to loopback."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=NAME) as connection,
    ):
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.read().decode()


# -- who may read ----------------------------------------------------------


@pytest.mark.parametrize("profile", CLIENT_PROFILES)
def test_of_the_clients_monitor_and_operator_may_read(fleet, port, profile):
    fleet.authority.issue_client(profile, "someone")
    status, body = get(port, client_context(fleet.dir, "someone"))
    assert status == (200 if profile in {Profile.MONITOR, Profile.OPERATOR} else 403)
    assert ("hedgerow_device_" in body) == (status == 200)
    if status == 403:
        assert f"{profile.value} someone may not read metrics" in body


@pytest.mark.parametrize(
    "profile,site,expected",
    [(Profile.DEVICE, "orchard", 403), (Profile.GATEWAY, "orchard", 200), (Profile.GATEWAY, "field", 403)],
)
def test_of_the_machines_the_sites_own_gateway_may_read(fleet, port, profile, site, expected):
    other = fleet.machine(profile, host="other", site=site, serial="10000000a1b2c3ff")
    assert get(port, as_machine(other))[0] == expected


def test_another_fleet_and_nobody_are_cut_off(fleet, port, tmp_path):
    other, _ = FleetCA.init(tmp_path / "impostor", "meadow")
    other.issue_client(Profile.OPERATOR, "demo")
    stranger = client_context(tmp_path / "impostor", "demo")
    stranger.load_verify_locations(fleet.dir / "ca" / "ca.crt")
    nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    nobody.load_verify_locations(fleet.dir / "ca" / "ca.crt")
    for context in (stranger, nobody):
        # With TLS 1.3 a client learns of its refusal when it reads.
        with pytest.raises((ssl.SSLError, ConnectionError)):
            get(port, context)


def test_a_client_that_never_shakes_hands_holds_up_nobody(fleet, port):
    fleet.authority.issue_client(Profile.MONITOR, "prometheus")
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port, client_context(fleet.dir, "prometheus"))[0] == 200


def test_connections_are_limited_and_come_back(fleet, port, monkeypatch):
    fleet.authority.issue_client(Profile.MONITOR, "prometheus")
    context = client_context(fleet.dir, "prometheus")
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(8)]
    with pytest.raises((ssl.SSLError, ConnectionError)):
        get(port, context)
    for connection in idle:
        connection.close()
    deadline = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=10)
    while True:
        try:
            assert get(port, context)[0] == 200
            break
        except (ssl.SSLError, ConnectionError):
            assert dt.datetime.now(dt.UTC) < deadline


def test_only_metrics_are_there(fleet, port):
    fleet.authority.issue_client(Profile.MONITOR, "prometheus")
    assert get(port, client_context(fleet.dir, "prometheus"), "/etc/passwd")[0] == 404


# -- what is read ----------------------------------------------------------


def _labels(sample):
    if len(sample.labels) == 1:
        return sample.labels.values()
    return [f"{key}={value}" for key, value in sorted(sample.labels.items())]


def samples(board, fleet_folder):
    registry = CollectorRegistry()
    beats, store = fleet_folder / "heartbeat.json", fleet_folder / "written.json"
    registry.register(metrics.DeviceCollector(board, fleet_folder / "device.crt", store=store, beats=beats))
    text = generate_latest(registry).decode()
    return {
        (sample.name, *_labels(sample)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_every_value_has_its_sample(fleet):
    found = samples(StubBoard(), fleet.machine())
    expiry = found.pop(("hedgerow_device_certificate_expiry_timestamp_seconds",))
    assert abs(dt.datetime.fromtimestamp(expiry, dt.UTC) - dt.datetime.now(dt.UTC) - dt.timedelta(days=30)) < (
        dt.timedelta(minutes=1)
    )
    assert found == {
        ("hedgerow_device_temperature_celsius", "soc"): 48.3,
        ("hedgerow_device_temperature_celsius", "pmic"): 51.0,
        ("hedgerow_device_throttled", "undervoltage"): 0.0,
        ("hedgerow_device_throttled", "throttled"): 0.0,
        ("hedgerow_device_throttled", "undervoltage_since_boot"): 1.0,
        ("hedgerow_device_throttled", "throttled_since_boot"): 1.0,
        ("hedgerow_device_undervoltage",): 0.0,
        ("hedgerow_device_rail_volts", "ext5v"): 5.11,
        ("hedgerow_device_rail_volts", "vdd_core"): 0.72,
        ("hedgerow_device_rail_amps", "vdd_core"): 1.5,
        ("hedgerow_device_fan_rpm",): 2500.0,
        ("hedgerow_hat_link_speed_gts",): 8.0,
        ("hedgerow_hat_link_width",): 1.0,
        ("hedgerow_hat_info", "driver=5.1.1", "firmware=", "kind=hat-plus-2", "library=5.1.1"): 1.0,
        ("hedgerow_hat_mismatch",): 0.0,
        **{
            ("hedgerow_hat_broken", link): float(link == "answers")
            for link in ("pci", "bound", "node", "versions", "firmware", "answers", "eeprom", "link", "power")
        },
    }


def test_the_agent_s_beats_are_exported(fleet):
    folder = fleet.machine()
    at = dt.datetime(2026, 11, 21, 12, tzinfo=dt.UTC)
    heartbeat.write(heartbeat.Heartbeat(at, None, 2), folder / "heartbeat.json")
    found = samples(StubBoard(), folder)
    assert {name: value for (name, *_), value in found.items() if "_agent_" in name} == {
        "hedgerow_device_agent_heartbeat_timestamp_seconds": at.timestamp(),
        "hedgerow_device_agent_failures": 2.0,
    }
    heartbeat.write(heartbeat.Heartbeat(at, at, 0), folder / "heartbeat.json")
    assert samples(StubBoard(), folder)["hedgerow_device_agent_answer_timestamp_seconds",] == at.timestamp()


def test_what_the_store_of_models_wrote_is_counted(fleet):
    folder = fleet.machine()
    for kind, size in (("fetched", 5_000_000), ("copied", 7), ("fetched", 1)):
        with Counter(folder / "written.json") as counter:
            counter.add(kind, size)
    found = samples(StubBoard(), folder)
    assert {name[1]: value for name, value in found.items() if "_store_" in name[0]} == {
        "fetched": 5_000_001.0,
        "copied": 7.0,
    }
    assert ("hedgerow_device_store_written_bytes_total", "fetched") in found
    (folder / "written.json").write_bytes(b"{half")
    assert not [name for name, *_ in samples(StubBoard(), folder) if "_store_" in name], "damaged is unknown"


def test_what_is_unknown_has_no_sample(fleet):
    unknown = {
        "thermal": {"soc_c": None},
        "undervoltage_now": None,
        "fan_rpm": None,
        "cpu_freq_hz": None,
        "memory": {},
        "link": {"speed_gts": None, "width": None},
    }
    found = samples(StubBoard(unknown, {"throttled": None, "rails": {}, "pmic_c": None}, None), fleet.machine())
    assert set(found) == {("hedgerow_device_certificate_expiry_timestamp_seconds",)}


def test_programs_are_not_started_for_every_scrape(monkeypatch):
    calls, now = [], [0.0]
    monkeypatch.setattr(metrics.hardware, "read_firmware", lambda: calls.append(1) or FIRMWARE)
    board = metrics.Board(clock=lambda: now[0])
    board.firmware()
    now[0] = 4.9
    board.firmware()
    assert len(calls) == 1
    now[0] = 5.0
    board.firmware()
    assert len(calls) == 2


def test_a_board_in_a_folder_is_read_through_the_real_readers(tmp_path, fleet, monkeypatch):
    zone = tmp_path / "root/sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("61500\n")
    credentials = fleet.machine()
    monkeypatch.setenv("HEDGEROW_HARDWARE_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("PATH", str(tmp_path))
    board = metrics.Board()
    board.refresh()
    found = samples(board, credentials)
    assert found["hedgerow_device_temperature_celsius", "soc"] == 61.5
    assert found["hedgerow_hat_info", "driver=", "firmware=", "kind=none", "library="] == 1.0


# -- what goes wrong at the start ------------------------------------------


def test_a_taken_port_is_said(fleet):
    credentials = fleet.machine()
    with exporter.listen(DEVICE, credentials=credentials, board=StubBoard(), port=0) as server:
        taken = server.server_address[1]
        second = exporter.listen(DEVICE, credentials=credentials, board=StubBoard(), port=taken)
        with pytest.raises(MachineError, match=f"ss -ltnp 'sport = :{taken}'"):
            second.__enter__()


def test_a_missing_certificate_is_said(tmp_path):
    server = exporter.listen(DEVICE, credentials=tmp_path, board=StubBoard(), port=0)
    with pytest.raises(DeviceError, match="device_identity"):
        server.__enter__()


def test_it_serves_until_terminated_and_tells_systemd(fleet, tmp_path):
    credentials = fleet.machine()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(20)
        program = (
            "from pathlib import Path\nfrom types import SimpleNamespace\nfrom hedgerow.device import exporter\n"
            "exporter.serve(SimpleNamespace(fleet='meadow', site='orchard', models_dir=Path('/nowhere')), port=0)\n"
        )
        environment = os.environ | {
            "CREDENTIALS_DIRECTORY": str(credentials),
            "NOTIFY_SOCKET": str(tmp_path / "notify"),
            "HEDGEROW_HARDWARE_ROOT": str(tmp_path),
        }
        with subprocess.Popen([sys.executable, "-c", program], env=environment, stderr=subprocess.PIPE) as process:
            try:
                assert systemd.recv(100) == b"READY=1"
                process.terminate()
                assert process.wait(timeout=20) == 0, process.stderr.read()
            finally:
                process.kill()


# -- who was revoked -------------------------------------------------------


def test_a_revoked_certificate_is_not_answered_from_the_next_scrape_on(fleet, tmp_path, capsys):
    crl = tmp_path / "crl.pem"
    stolen, _ = (fleet.authority.issue_client(Profile.MONITOR, name) for name in ("stolen", "good"))
    serial = x509.load_pem_x509_certificate(stolen.certificate.read_bytes()).serial_number
    now = dt.datetime.now(dt.UTC)
    # Out of date on purpose: such a list is applied, too.
    lists = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(fleet.authority.certificate.subject)
        .last_update(now - dt.timedelta(days=9))
        .next_update(now - dt.timedelta(days=2))
        .add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - dt.timedelta(days=9)).build()
        )
        .sign(keyfile.load(fleet.authority.folder / "ca.key"), hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
    )
    with exporter.listen(DEVICE, credentials=fleet.machine(), board=StubBoard(), port=0, crl=crl) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            port = server.server_address[1]
            assert get(port, client_context(fleet.dir, "stolen"))[0] == 200
            crl.write_bytes(lists)
            with pytest.raises((ConnectionError, http.client.HTTPException, ssl.SSLError)):
                get(port, client_context(fleet.dir, "stolen"))
            assert get(port, client_context(fleet.dir, "good"))[0] == 200
            crl.write_text("damaged")
            with pytest.raises((ConnectionError, http.client.HTTPException, ssl.SSLError)):
                get(port, client_context(fleet.dir, "stolen"))
        finally:
            server.shutdown()
            thread.join()
    said = capsys.readouterr().err
    assert "its certificate was revoked" in said
    assert said.count("cannot be used") == 1
