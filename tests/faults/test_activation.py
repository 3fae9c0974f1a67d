"""What a device does when its server, its disk or its operator is not what it hoped for."""

from __future__ import annotations

import pytest

from hedgerow.device import events


@pytest.fixture
def served(command, server, registry, make_bundle):
    """1.0.0 is served and confirmed, 1.1.0 is published."""
    assert command("activate", "assistant@1.0.0").code == 0
    assert command("confirm", "assistant@1.0.0").code == 0
    registry.publish(make_bundle("1.1.0"))


def test_a_first_activation_from_nothing(command, server, device):
    done = command("activate", "assistant@1.0.0", "--confirm-within", "60")
    assert done.code == 0, done.stderr
    assert done.json["changed"] is True
    assert done.json["model"]["version"] == "1.0.0"
    assert done.json["previous"] is None
    assert (server.serving, device.current, device.pending.to) == ("1.0.0", "1.0.0", "1.0.0")
    assert command("activate", "assistant@1.0.0").json["changed"] is False


def test_an_upgrade_keeps_the_version_before(served, command, server, device):
    done = command("activate", "assistant@1.1.0")
    assert done.json["previous"]["version"] == "1.0.0"
    assert (server.serving, device.current, device.previous) == ("1.1.0", "1.1.0", "1.0.0")
    assert command("confirm", "assistant@1.1.0").json["changed"] is True
    assert device.pending is None
    assert command("confirm", "assistant@1.1.0").json["changed"] is False


@pytest.mark.usefixtures("served")
def test_only_one_activation_at_a_time(command, registry, make_bundle, device, gateway):
    registry.publish(make_bundle("1.2.0"))
    command("activate", "assistant@1.1.0")
    gateway.asked.clear()
    done = command("activate", "assistant@1.2.0")
    assert done.code == 3
    assert "1.1.0 waits to be confirmed" in done.error["what"]
    assert device.current == "1.1.0"
    assert gateway.asked == [], "refused only after it was downloaded"


def test_what_fails_its_golden_inputs_is_never_served(served, command, server, device):
    server.unfit["1.1.0"] = "asked 'The capital of France?', it said 'Berlin'"
    done = command("activate", "assistant@1.1.0")
    assert done.code == 1
    assert "Berlin" in done.error["what"]
    assert (server.serving, server.prepared, device.current, device.pending) == ("1.0.0", None, "1.0.0", None)


def test_without_a_server_nothing_changes_and_it_says_what_to_type(command, device):
    done = command("activate", "assistant@1.0.0")
    assert done.code == 1
    assert "systemctl" in done.error["next"]
    assert (device.current, device.pending) == (None, None)


def test_a_server_that_dies_at_the_switch_leaves_the_old_version(served, command, server, device):
    server.deaf = "switch"  # it switched, and nobody heard
    assert command("activate", "assistant@1.1.0").code == 1
    assert (device.current, device.previous, device.pending) == ("1.0.0", None, None)
    server.deaf = None
    server.restart()
    assert server.serving == "1.0.0"
    assert command("activate", "assistant@1.1.0").code == 0


def test_nobody_confirms(served, command, server, device):
    command("activate", "assistant@1.1.0", "--confirm-within", "60")
    early = command("revert", "--if-overdue")
    assert (early.code, early.json["changed"], server.serving) == (0, False, "1.1.0")
    late = command("revert", "--if-overdue", boottime_offset_s=61)
    assert (late.code, late.json["changed"]) == (0, True)
    assert (server.serving, server.prepared, device.current, device.pending) == ("1.0.0", None, "1.0.0", None)
    assert "nobody confirmed" in events.read(device.config.activation_dir)[-1]["reason"]
    again = command("revert", "--if-overdue", boottime_offset_s=61)
    assert (again.code, again.json["changed"]) == (0, False)


def test_a_revert_needs_no_server(served, command, server, device):
    command("activate", "assistant@1.1.0")
    device.config.control_socket.unlink()
    done = command("revert", "--reason", "it crashes")
    assert done.code == 0, done.stderr
    assert device.current == "1.0.0"
    server.restart()
    assert server.serving == "1.0.0"


def test_after_a_revert_the_version_before_that_is_still_the_one_to_go_back_to(
    served, command, registry, make_bundle, device
):
    command("activate", "assistant@1.1.0")
    command("confirm", "assistant@1.1.0")
    registry.publish(make_bundle("1.2.0"))
    command("activate", "assistant@1.2.0")
    command("revert", "--reason", "slow")
    assert (device.current, device.previous) == ("1.1.0", "1.0.0")


def test_a_first_activation_has_nothing_to_go_back_to(command, server, device):
    command("activate", "assistant@1.0.0", "--confirm-within", "60")
    done = command("revert")
    assert done.code == 3
    assert "no version of assistant to go back to" in done.error["what"]
    assert server.serving == "1.0.0"
    late = command("revert", "--if-overdue", boottime_offset_s=61)
    assert late.code == 0
    assert (device.current, device.pending) == ("1.0.0", None)


def test_a_file_that_rotted_on_the_disk_is_fetched_again(served, command, server, device):
    command("stage", "assistant@1.1.0")
    victim = device.home / "1.1.0" / "model.onnx"
    victim.write_bytes(b"\0" + victim.read_bytes()[1:])
    done = command("activate", "assistant@1.1.0")
    assert done.code == 0, done.stderr
    assert server.serving == "1.1.0"
    assert victim.read_bytes()[:1] == b"1"


def test_what_is_staged_needs_no_registry(served, command, server, gateway):
    assert command("stage", "assistant@1.1.0").json["changed"] is True
    gateway.root = gateway.root / "gone"
    gateway.asked.clear()
    done = command("activate", "assistant@1.1.0")
    assert done.code == 0, done.stderr
    assert (server.serving, gateway.asked) == ("1.1.0", [])
