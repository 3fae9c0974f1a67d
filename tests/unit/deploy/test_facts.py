"""Facts: the command is run by a real shell, the answer is parsed."""

from __future__ import annotations

import subprocess

import pytest
from deploy.facts import serving
from deploy.facts.hardware import Hardware
from deploy.facts.serving import Serving
from pyinfra.context import ctx_host

from hedgerow.errors import DeviceError


def _sh(command):
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout.splitlines()


class Named:
    name = "pi-1"


def test_hardware_is_read_by_the_devices_own_module(tmp_path, monkeypatch):
    tree = tmp_path / "proc/device-tree"
    tree.mkdir(parents=True)
    (tree / "model").write_bytes(b"Raspberry Pi 5 Model B Rev 1.1\0")
    (tree / "serial-number").write_bytes(b"00000000000000a1\0")
    monkeypatch.setenv("HEDGEROW_HARDWARE_ROOT", str(tmp_path))
    fact = Hardware()
    with ctx_host.use(Named()):
        found = fact.process(["Last login: today", *_sh(fact.command())])
    assert found["board"]["model"] == "Raspberry Pi 5 Model B Rev 1.1"
    assert found["board"]["serial"] == "00000000000000a1"


def test_an_answer_that_is_none_names_the_host():
    with ctx_host.use(Named()), pytest.raises(DeviceError, match="no JSON") as caught:
        Hardware().process(["bash: warning"])
    assert "pi-1" in str(caught.value.where)


def test_serving_reads_the_links_of_activation(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "MODELS", str(tmp_path))
    for name, target in (("assistant", "1.2.0"), ("draft", str(tmp_path / "draft" / "0.9.0"))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "current").symlink_to(target)
    (tmp_path / "unfinished").mkdir()
    fact = Serving()
    found = fact.process(_sh(fact.command()))
    assert found["models"] == {"assistant": "1.2.0", "draft": "0.9.0"}
    assert found["uptime_s"] > 0


def test_a_host_that_serves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(serving, "MODELS", str(tmp_path / "absent"))
    fact = Serving()
    assert fact.process(_sh(fact.command()))["models"] == {}
