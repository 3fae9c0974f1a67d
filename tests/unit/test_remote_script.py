import json
import subprocess
import sys

import pytest

from hedgerow import remote_script
from hedgerow.errors import DeviceError


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
