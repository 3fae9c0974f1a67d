"""What a server's certificate must be before it is used."""

from __future__ import annotations

from pathlib import Path

import pytest
import server_support as support

from hedgerow.errors import MachineError
from hedgerow.identity.ca import FleetCA
from hedgerow.server.tls import ServerTls


def opened(folder: Path) -> ServerTls:
    return ServerTls(folder / "device.crt", folder / "device.key", folder / "ca.crt")


def test_a_key_that_everybody_may_read_is_refused_before_and_after_it_was_in_use(
    unit_ca: FleetCA, tmp_path: Path
) -> None:
    support.write_device_certificate(unit_ca, tmp_path)
    tls = opened(tmp_path)
    before = tls.files
    support.write_device_certificate(unit_ca, tmp_path)
    (tmp_path / "device.key").chmod(0o604)
    with pytest.raises(MachineError, match="everybody on this machine may use") as caught:
        tls.reload()
    assert caught.value.where == str(tmp_path / "device.key")
    assert "chmod o=" in str(caught.value.next_step)
    assert tls.files == before
    with pytest.raises(MachineError, match="everybody"):
        opened(tmp_path)


def test_what_systemd_places_for_a_unit_is_taken(unit_ca: FleetCA, tmp_path: Path) -> None:
    support.write_device_certificate(unit_ca, tmp_path)
    (tmp_path / "device.key").chmod(0o440)
    assert opened(tmp_path).files.key == (tmp_path / "device.key").read_bytes()
