import json
import subprocess
import sys

import pytest

from hedgerow import remote_script
from hedgerow.errors import DeviceError, UsageError


def run(script):
    return subprocess.run([sys.executable, "-I", "-"], input=script, text=True, capture_output=True, check=True).stdout


def test_a_module_runs_from_its_source_with_arguments(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(
        "from __future__ import annotations\nimport dataclasses\n"
        "@dataclasses.dataclass\nclass Point:\n    x: int\n"
        "def read(x: int, text: str) -> dict:\n    return {**dataclasses.asdict(Point(x)), 'text': text}\n"
        "if __name__ == '__main__':\n    raise SystemExit('the guard must not run')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    awkward = "'''\"\\n{0} $HOME ü"
    script = remote_script.build("probe", "read", x=3, text=awkward)
    assert json.loads(run(script)) == {"x": 3, "text": awkward}


def test_a_banner_before_the_answer_is_passed_over():
    assert remote_script.parse('Welcome!\n\n{"a": 1}\n', host="pi") == {"a": 1}


@pytest.mark.parametrize("stdout", ["", "bash: python3: command not found\n"])
def test_no_answer_names_the_host(stdout):
    with pytest.raises(DeviceError, match="no JSON") as caught:
        remote_script.parse(stdout, host="pi-orchard-1")
    assert "pi-orchard-1" in str(caught.value)


def test_a_fault_of_the_module_arrives_as_a_device_error_without_a_traceback(tmp_path, monkeypatch):
    (tmp_path / "probe.py").write_text(
        "class Fault(Exception):\n    what, where, next_step = 'the disk is full', '/var', 'df -h /var'\n"
        "def read():\n    raise Fault\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DeviceError) as caught:
        remote_script.parse(run(remote_script.build("probe", "read")), host="pi-orchard-1")
    assert caught.value.as_dict() | {"exit_code": 1} == {
        "error": "DeviceError",
        "what": "the disk is full",
        "where": "pi-orchard-1: /var",
        "next": "df -h /var",
        "exit_code": 1,
    }


class Connection:
    transport = "paramiko_ssh"

    def __init__(self, enabled):
        self.is_pipelining_enabled = lambda: enabled


def test_a_connection_without_pipelining_is_refused_with_the_setting_to_change():
    with pytest.raises(UsageError, match="pipelining = True"):
        remote_script.require_pipelining(Connection(enabled=False))
    remote_script.require_pipelining(Connection(enabled=True))
