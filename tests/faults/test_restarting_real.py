"""A configuration beside the real inference server, which a stand-in for systemd really starts anew."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from hedgerow.device import links
from hedgerow.device.change import configuration_version
from hedgerow.device.control import ControlSocket
from hedgerow.errors import DeviceError

pytestmark = pytest.mark.slow


def neighbour(name: str) -> ModuleType:
    """Another test file's helpers; tests are no package."""
    spec = importlib.util.spec_from_file_location(f"faults_{name}", Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules.setdefault(spec.name, importlib.util.module_from_spec(spec))
    spec.loader.exec_module(module)
    return module


real, restarting = neighbour("test_real_server"), neighbour("test_restarting")


class Systemd:
    """Restarts the real server, and says what systemd would; ``server`` has its process."""

    def __init__(self, device) -> None:
        self.server = real.RealServer(device)
        self.settings = msgspec.yaml.decode(self.server.config.read_bytes())
        self.server.config = device.config.configuration_dir / links.CURRENT / "server.yml"
        self.home = device.config.configuration_dir

    def place(self, **settings: object) -> str:
        """A configuration beside the others; its version."""
        data = msgspec.yaml.encode(self.settings | settings)
        version = configuration_version(data)
        (self.home / version).mkdir()
        (self.home / version / "server.yml").write_bytes(data)
        return version

    def answer(self, line: str) -> bytes:
        assert json.loads(line) == {"restart": True}
        self.server.end()
        try:
            self.server.start()
        except AssertionError:
            self.server.process = None
            return b'{"done": false, "said": "Job for hedgerow-server.service failed"}'
        control = ControlSocket(self.server.device.config.control_socket)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # READY=1 comes once the model is loaded
            try:
                if control.status().serving is not None:
                    break
            except DeviceError:
                pass
            time.sleep(0.05)
        return b'{"done": true, "said": ""}'


@pytest.fixture
def systemd(device):
    made = Systemd(device)
    old = made.place()
    links.point(made.home, links.CURRENT, old)
    made.server.start()
    device.config.switch_socket.unlink(missing_ok=True)
    listener = restarting._Listener(str(device.config.switch_socket), restarting._Handler)
    listener.double = made
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield made
    listener.shutdown()
    listener.server_close()
    thread.join()
    made.server.end()
    device.config.switch_socket.unlink(missing_ok=True)
    device.config.control_socket.unlink(missing_ok=True)


@pytest.fixture
def served(command, registry, systemd, tmp_path):
    registry.publish(real.adder(tmp_path / "adders" / "1.0.1", "1.0.1", adds=1.0, says=1.0))
    assert command("activate", "assistant@1.0.1").code == 0
    assert command("confirm", "assistant@1.0.1").code == 0


@pytest.mark.usefixtures("served")
def test_the_real_server_takes_a_configuration_up_and_goes_back(command, device, systemd):
    control, old = ControlSocket(device.config.control_socket), links.target(systemd.home, links.CURRENT)
    new = systemd.place(threads=2)
    assert control.status().configuration == old
    done = command("activate", f"configuration:{new}")
    assert done.code == 0, done.stderr
    assert done.json["load_s"] > 0
    status = control.status()
    assert (status.configuration, str(status.serving)) == (new, "assistant@1.0.1")
    report = control.report()
    assert (report["configuration"], report["pending"] is not None) == (new, True)
    assert command("confirm", f"configuration:{new}").code == 0
    assert command("revert", "--kind", "configuration").code == 0
    status = control.status()
    assert (status.configuration, str(status.serving)) == (old, "assistant@1.0.1")


@pytest.mark.usefixtures("served")
def test_a_configuration_with_which_the_real_server_does_not_start_is_left_at_once(command, device, systemd):
    control, old = ControlSocket(device.config.control_socket), links.target(systemd.home, links.CURRENT)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        new = systemd.place(http={"address": "127.0.0.1", "port": taken.getsockname()[1]})
        done = command("activate", f"configuration:{new}")
    assert (done.code, "the server did not start" in done.error["what"]) == (1, True), done.stderr
    status = control.status()
    assert (status.configuration, str(status.serving), device.pending) == (old, "assistant@1.0.1", None)
    assert links.target(systemd.home, links.CURRENT) == old
