from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from hedgerow import configfile
from hedgerow.device.config import DeviceConfig
from hedgerow.server.config import ServerConfig


class Nested(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    folder: Path = Path("/there")


class Config(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    nested: Nested = Nested()
    socket: Path | None = None


def test_text_becomes_a_path_at_any_depth():
    config = configfile.decode(b"name: x\nnested: {folder: /here}\nsocket: /run/x.sock\n", Config)
    assert config == Config("x", Nested(Path("/here")), Path("/run/x.sock"))
    assert configfile.convert({"name": "x", "socket": None}, Config).socket is None


@pytest.mark.parametrize(
    "text, says",
    [
        (b"name: x\nnested: {folder: 1}\n", r"`Path`, got `int` - at `\$.nested.folder`"),
        (b"name: x\nfolder: /y\n", "unknown field `folder`"),
        (b"- name\n", "Expected `object`"),
        (b"name: [\n", "while parsing"),
    ],
)
def test_what_is_not_allowed_is_named(text, says):
    with pytest.raises(msgspec.DecodeError, match=says):
        configfile.decode(text, Config)


def test_daemons_take_paths():
    names = {"fleet": "f", "site": "s", "host": "h", "serial": "0" * 16}
    device = {**names, "registry_url": "https://r/", "serving_model": "m", "models_dir": "/m", "tls": {"key": "/k"}}
    assert configfile.convert(device, DeviceConfig).tls.key == Path("/k")
    server = {**names, "model": "m", "models_dir": "/m", "control_socket": None}
    assert configfile.convert(server, ServerConfig).models_dir == Path("/m")
