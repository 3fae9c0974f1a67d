"""Debian's Mender client on a converged Pi: artifacts of the real tool, the module, the real device command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = [pytest.mark.fleet, pytest.mark.slow]

ONE, TWO = "0.1.1", "0.1.2"


@pytest.fixture(scope="module")
def mender_artifact(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Debian's tool; unpacked for these tests where it is not installed, since nothing else needs it."""
    installed = shutil.which("mender-artifact")
    if installed is not None:
        return installed
    folder = tmp_path_factory.mktemp("mender-artifact")
    subprocess.run(["apt-get", "-q", "download", "mender-artifact"], cwd=folder, check=True, capture_output=True)
    package = next(folder.glob("*.deb"))
    subprocess.run(["dpkg-deb", "-x", package, folder / "unpacked"], check=True)
    return str(folder / "unpacked/usr/bin/mender-artifact")


class Device:
    """One Pi and its client."""

    def __init__(self, controller, artifact: str, folder: Path) -> None:
        self.controller = controller
        self.host = controller.pis[0]
        self._artifact = artifact
        self._folder = folder

    def copy(self, name: str, bundle: str) -> str:
        """Build an artifact that names ``bundle`` and put it on the device."""
        payload = self._folder / "bundle"
        payload.write_text(f"{bundle}\n")
        built = self._folder / f"{name}.mender"
        what = ("-T", "hedgerow-bundle", "-n", name, "-t", "raspberrypi5_64", "-f", str(payload), "-o", str(built))
        subprocess.run([self._artifact, "write", "module-image", *what], check=True, capture_output=True)
        path = f"/tmp/{name}.mender"
        assert self.controller.on(self.host, f"cat > {path}", stdin=built.read_bytes()).returncode == 0
        return path

    def mender(self, arguments: str) -> subprocess.CompletedProcess[str]:
        return self.controller.on(self.host, f"mender {arguments}")

    def artifact(self) -> str:
        return self.mender("--log-level error show-artifact").stdout.strip()

    def serves(self) -> str | None:
        return self.controller.serves()[self.host]


@pytest.fixture(scope="module")
def bundles(controller) -> dict[str, str]:
    """Two published versions, the first one served and confirmed."""
    found = {version: controller.publish(version) for version in (ONE, TWO)}
    done = controller.play("rollout.yml", "-e", f"bundle={found[ONE]}", "--limit", controller.pis[0])
    assert done.returncode == 0, done.stdout + done.stderr
    return found


@pytest.fixture
def device(controller, mender_artifact: str, bundles: dict[str, str], tmp_path: Path):
    device = Device(controller, mender_artifact, tmp_path)
    assert device.serves() == bundles[ONE]
    yield device
    device.mender("rollback")
    program = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
    done = controller.on(device.host, f"{program} activate {bundles[ONE]} && {program} confirm {bundles[ONE]}")
    assert done.returncode == 0, done.stderr


def test_the_daemon_is_off_and_the_identity_is_the_boards(device: Device) -> None:
    assert device.controller.on(device.host, "systemctl is-enabled mender-client").stdout == "disabled\n"
    identity = device.controller.on(device.host, "/usr/share/mender/identity/mender-device-identity").stdout
    serial, mac = identity.splitlines()
    assert serial == f"serial={device.controller.inventory.hosts[device.host].serial}"
    assert mac.startswith("mac=")


def test_install_and_roll_back(device: Device, bundles: dict[str, str]) -> None:
    before = device.artifact()
    done = device.mender(f"install {device.copy('assistant-two', bundles[TWO])}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert device.serves() == bundles[TWO]
    assert device.mender("rollback").returncode == 0
    assert (device.serves(), device.artifact()) == (bundles[ONE], before)


def test_a_second_install_is_refused_while_one_waits(device: Device, bundles: dict[str, str]) -> None:
    path = device.copy("assistant-two", bundles[TWO])
    assert device.mender(f"install {path}").returncode == 0
    again = device.mender(f"install {path}")
    assert again.returncode == 1
    assert "still waits for its confirmation" in again.stdout + again.stderr
    assert device.serves() == bundles[TWO]
    # Mender has forgotten the first one by now; the device has not.
    program = "/opt/hedgerow/runtime/current/bin/hedgerow-device"
    assert device.controller.on(device.host, f"{program} revert").returncode == 0
    assert device.serves() == bundles[ONE]


def test_an_artifact_of_an_unknown_bundle_changes_nothing(device: Device, bundles: dict[str, str]) -> None:
    done = device.mender(f"install {device.copy('assistant-nine', 'assistant@9.9.9')}")
    assert done.returncode == 1
    assert "no assistant@9.9.9" in done.stdout + done.stderr
    assert device.serves() == bundles[ONE]


def test_install_and_commit(device: Device, bundles: dict[str, str]) -> None:
    assert device.mender(f"install {device.copy('assistant-two', bundles[TWO])}").returncode == 0
    assert device.mender("commit").returncode == 0
    assert (device.serves(), device.artifact()) == (bundles[TWO], "assistant-two")
    assert device.mender("commit").returncode == 2
