"""What is placed for applications that an inventory names."""

from __future__ import annotations

import pytest

from hedgerow.converge import applications
from hedgerow.errors import UsageError

UNIT = "hedgerow-application-kiosk.service"


def test_a_place_and_links_that_find_a_version_once_there_is_one() -> None:
    found = applications.places(["kiosk"], {}, "header")
    current = f"/opt/hedgerow/applications/kiosk/current/{UNIT}"
    assert found == [
        {"directory": "/opt/hedgerow/applications/kiosk"},
        {"link": f"/etc/systemd/system/{UNIT}", "to": current},
        {"link": f"/etc/systemd/system/multi-user.target.wants/{UNIT}", "to": current},
        {"absent": f"/etc/systemd/system/{UNIT}.d"},
    ]


def test_networks_are_a_drop_in() -> None:
    found = applications.places(["kiosk", "map"], {"kiosk": ["192.168.30.0/24", "fd00::/8"]}, "header")
    assert found[3] == {"directory": f"/etc/systemd/system/{UNIT}.d"}
    assert found[4] == {
        "content": "# header\n[Service]\nIPAddressAllow=192.168.30.0/24\nIPAddressAllow=fd00::/8\n",
        "dest": f"/etc/systemd/system/{UNIT}.d/50-networks.conf",
    }
    assert {"absent": "/etc/systemd/system/hedgerow-application-map.service.d"} in found


@pytest.mark.parametrize(
    "names, networks, says",
    [
        (["Kiosk"], {}, "'Kiosk' is no name"),
        (["../kiosk"], {}, "is no name"),
        ([1], {}, "is no name"),
        (["kiosk"], {"map": ["10.0.0.0/8"]}, "does not run it"),
        (["kiosk"], {"kiosk": ["10.0.0.1/8"]}, "is no network"),
        (["kiosk"], {"kiosk": ["any\nUser=root"]}, "is no network"),
    ],
)
def test_what_is_none_is_refused(names, networks, says) -> None:
    with pytest.raises(UsageError, match=says):
        applications.places(names, networks, "header")
