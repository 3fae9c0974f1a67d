from __future__ import annotations

from pathlib import Path

import pytest

from hedgerow.device import config as configs
from hedgerow.errors import UsageError

MINIMAL = """
fleet: meadow
site: orchard
host: pi-orchard-1
serial: 1000000000000001
registry_url: https://10.77.0.10/
serving_model: assistant
"""


@pytest.fixture
def write(tmp_path):
    def file(text):
        (tmp_path / "device.yml").write_text(text)
        return tmp_path / "device.yml"

    return file


def test_defaults_are_the_contracts_paths(write):
    config = configs.load(write(MINIMAL.replace("1000000000000001", "'1000000000000001'")))
    assert config.serial == "1000000000000001"
    assert config.models_dir == Path("/var/lib/hedgerow/models")
    assert config.activation_dir == Path("/var/lib/hedgerow/activation")
    assert config.trust_dir == Path("/var/lib/hedgerow/trust")
    assert config.control_socket == Path("/run/hedgerow/server.sock")
    assert config.tls.key == Path("/var/lib/hedgerow/identity/device.key")


@pytest.mark.parametrize(
    "text, says",
    [
        (MINIMAL, "got `int` - at `$.serial`"),
        (MINIMAL.replace("1000000000000001", "'1'") + "model_dir: /x\n", "unknown field `model_dir`"),
        ("fleet: meadow\n", "missing required field `site`"),
        ("[", "not valid"),
    ],
)
def test_what_is_wrong_is_named(text, says, write):
    with pytest.raises(UsageError) as caught:
        configs.load(write(text))
    assert says in caught.value.what
    assert "device.yml" in caught.value.where


def test_a_missing_file_says_where_it_should_be(tmp_path):
    with pytest.raises(UsageError) as caught:
        configs.load(tmp_path / "device.yml")
    assert "--config" in caught.value.next_step
