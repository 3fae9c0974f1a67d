from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import yaml
from ansible.errors import AnsibleFilterError

Load = Callable[[str], ModuleType]
STRUCT = "hedgerow.server.config.ServerConfig"
VALUES = {"host": "pi-1", "serial": "e0d1c2b3a4950011", "fleet": "meadow", "site": "orchard", "model": "assistant"}


def test_our_errors_become_ansibles(plugin: Load) -> None:
    cmdline = plugin("filter/hedgerow").FilterModule().filters()["hedgerow_cmdline_txt"]
    assert cmdline("quiet\n", ["psi=1"]) == "quiet psi=1\n"
    with pytest.raises(AnsibleFilterError, match=r"(?s)2 lines.*cmdline\.txt.*join them"):
        cmdline("a\nb\n", ["psi=1"])


def test_a_configuration_is_read_back_as_the_daemon_will(plugin: Load) -> None:
    config = plugin("filter/hedgerow").FilterModule().filters()["hedgerow_config"]
    text = config(VALUES, STRUCT, "Written by a test.")
    assert text.startswith("# Written by a test.\nhost: pi-1\n")
    assert yaml.safe_load(text) == VALUES


def test_ansibles_own_strings_are_text(plugin: Load) -> None:
    config = plugin("filter/hedgerow").FilterModule().filters()["hedgerow_config"]
    tagged = type("Tagged", (str,), {})
    assert yaml.safe_load(config({key: tagged(value) for key, value in VALUES.items()}, STRUCT, "x")) == VALUES


def test_a_configuration_that_the_daemon_would_refuse_never_leaves(plugin: Load) -> None:
    config = plugin("filter/hedgerow").FilterModule().filters()["hedgerow_config"]
    with pytest.raises(AnsibleFilterError, match="thread"):
        config(VALUES | {"thread": 2}, STRUCT, "x")
    with pytest.raises(AnsibleFilterError, match="loopback"):
        config(VALUES | {"http": {"address": "0.0.0.0", "port": 80}}, STRUCT, "x")
