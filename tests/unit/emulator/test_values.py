from __future__ import annotations

import pytest

from hedgerow.emulator import values as live
from hedgerow.errors import UsageError

PI = live.defaults("hat-plus-2", "active")


def test_every_default_is_a_known_key() -> None:
    assert PI.keys() == live.KEYS.keys()


@pytest.mark.parametrize("hat", live.HATS)
def test_hat_keys_only_where_there_is_a_hat(hat: str) -> None:
    shown = {key for key in live.defaults(hat, "active") if live.KEYS[key].hat}
    assert bool(shown) is (hat != "none")


def test_a_passive_board_has_no_fan() -> None:
    assert live.defaults("hat-plus-2", "passive")["fan_rpm"] is None


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"temperature_c": "84.2"}, {"temperature_c": 84.2}),
        ({"throttled": "0x50005"}, {"throttled": "0x50005", "undervoltage": True}),
        ({"throttled": "50000"}, {"throttled": "0x50000", "undervoltage": False}),
        ({"undervoltage": "true"}, {"throttled": "0x10001", "undervoltage": True}),
        ({"fan_rpm": "none"}, {"fan_rpm": None}),
        ({"hat_present": "no"}, {"hat_present": False}),
        ({"link_speed_gts": "5.0", "node": "h1x-0"}, {"link_speed_gts": "5.0", "node": "h1x-0"}),
    ],
)
def test_changed(settings, expected) -> None:
    assert live.changed(PI, settings, host="pi") == PI | expected


def test_undervoltage_that_ends_stays_in_the_history() -> None:
    low = live.changed(PI, {"undervoltage": "true"}, host="pi")
    assert live.changed(low, {"undervoltage": "false"}, host="pi")["throttled"] == "0x10000"


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"temprature_c": "1"}, "temperature_c"),
        ({"temperature_c": "hot"}, "-40…125"),
        ({"temperature_c": "1000"}, "-40…125"),
        ({"throttled": "0x10"}, "bits 0-3"),
        ({"throttled": "0xfffff0"}, "bits 0-3"),
        ({"driver_version": "5.1"}, "N.N.N"),
        ({"hat_present": "maybe"}, "true|false"),
        ({"link_speed_gts": "3"}, "2.5|5.0|8.0"),
    ],
)
def test_bad_input_says_what_is_allowed(settings, message) -> None:
    with pytest.raises(UsageError) as caught:
        live.changed(PI, settings, host="pi-orchard-1")
    assert message in str(caught.value)
    assert "pi-orchard-1" in str(caught.value)


def test_a_host_without_a_hat_has_no_hat_values() -> None:
    with pytest.raises(UsageError, match="has no HAT"):
        live.changed(live.defaults("none", "active"), {"link_width": "1"}, host="gw")


def test_power_on_forgets_what_is_over() -> None:
    hot = PI | {"throttled": "0xf0002"}
    assert live.after_power_on(hot)["throttled"] == "0x20002"
