"""What role `vision` places for the cameras of an inventory, and what it refuses before a host is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from hedgerow import configfile
from hedgerow.converge import vision
from hedgerow.errors import UsageError
from hedgerow.vision.config import Rtsp, VisionConfig, load

PEM = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
DOOR = {"name": "door", "source": {"kind": "rtsp", "url": "rtsp://192.0.2.7/1"}}
GUARDED = {
    "name": "yard",
    "source": {"kind": "rtsp", "url": "rtsps://192.0.2.8:8322/1", "ca": PEM, "user": "pi", "password": "swordfish"},
}
DESK = {"name": "desk", "source": {"kind": "v4l2", "device": "/dev/video2", "size": [1280, 720]}}


def asked(*cameras: Any, **more: Any) -> dict[str, Any]:
    return {"cameras": list(cameras), "model": {"name": "detector", "decoder": "yolox"}, **more}


def plan(*cameras: Any, **more: Any) -> dict[str, Any]:
    return vision.plan(asked(*cameras, **more), "by a test")


def placed(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {entry["dest"]: entry for entry in found["secrets"] + found["certificates"] if "dest" in entry}


def test_the_process_reads_what_is_placed(tmp_path: Path) -> None:
    found = plan(DOOR, GUARDED, DESK)
    (tmp_path / "vision.yml").write_text(found["config"])
    config = load(tmp_path / "vision.yml")
    assert [camera.name for camera in config.cameras] == ["door", "yard", "desk"]
    yard = config.cameras[1].source
    assert isinstance(yard, Rtsp)
    assert str(yard.password_file) == "/run/credentials/hedgerow-vision.service/camera-1.password"
    assert str(yard.ca_file) == "/etc/hedgerow/vision/camera-1.pem"
    assert config.metrics is not None
    assert str(config.metrics.port) == "9102"
    assert (found["devices"], found["addresses"]) == (["/dev/video2"], ["192.0.2.7", "192.0.2.8"])


def test_secrets_stand_in_files_of_root_alone() -> None:
    found = plan(
        DOOR,
        GUARDED,
        forward={"when": {"drift": True}, "to": {"kind": "https", "url": "https://192.0.2.9/", "token": "open sesame"}},
    )
    assert "swordfish" not in found["config"]
    assert "sesame" not in found["config"]
    files = placed(found)
    assert files["/etc/hedgerow/vision/camera-1.password"] == {
        "content": "swordfish\n",
        "dest": "/etc/hedgerow/vision/camera-1.password",
        "mode": "0600",
    }
    assert files["/etc/hedgerow/vision/sink.token"]["mode"] == "0600"
    assert files["/etc/hedgerow/vision/camera-1.pem"]["content"] == PEM
    assert found["credentials"] == ["camera-1.password", "sink.token"]


def test_what_no_camera_has_any_more_is_removed() -> None:
    kept = plan(DOOR, GUARDED)
    gone = plan(DOOR)
    assert placed(gone) == {}
    absent = {entry["absent"] for entry in gone["secrets"] + gone["certificates"]}
    assert set(placed(kept)) < absent
    assert absent == {
        f"/etc/hedgerow/vision/{owner}.{suffix}"
        for owner in [*(f"camera-{number}" for number in range(16)), "sink"]
        for suffix in ("password", "token", "pem")
    }


def test_there_are_as_many_names_as_cameras() -> None:
    many = [DOOR | {"name": f"c{number}"} for number in range(vision.MOST_CAMERAS)]
    assert len(yaml.safe_load(plan(*many)["config"])["cameras"]) == vision.MOST_CAMERAS
    with pytest.raises(UsageError, match="cameras"):
        plan(*many, DOOR)


def test_a_camera_with_a_name_is_not_held_to_an_address() -> None:
    assert plan(DOOR | {"source": {"kind": "rtsp", "url": "rtsp://cam.lan/1"}})["addresses"] is None
    assert plan(DESK)["addresses"] == []


def test_frames_are_kept_in_one_place() -> None:
    forward = {"when": {"drift": True}, "to": {"kind": "folder", "most_frames": 10}}
    found = plan(DOOR, forward=forward)
    assert found["keeps_frames"]
    assert yaml.safe_load(found["config"])["forward"]["to"]["path"] == vision.FRAMES
    assert not plan(DOOR)["keeps_frames"]
    with pytest.raises(UsageError, match="alone"):
        plan(DOOR, forward={"when": {"drift": True}, "to": {"kind": "folder", "path": "/srv/frames"}})


def test_what_was_asked_for_is_left_as_it_is() -> None:
    wanted = asked(GUARDED)
    vision.plan(wanted, "by a test")
    assert wanted == asked(GUARDED)
    assert GUARDED["source"]["password"] == "swordfish"  # type: ignore[index]


def unit(found: dict[str, Any], *, apparmor: bool = True) -> set[str]:
    """Lines of the unit that the role makes of a plan."""
    path = Path(__file__).parents[3] / "roles/vision/templates/etc/systemd/system/hedgerow-vision.service.j2"
    text = jinja2.Environment(trim_blocks=True, undefined=jinja2.StrictUndefined, autoescape=True).from_string(
        path.read_text(encoding="utf-8")
    )
    facts = {"state": {"apparmor": {"enabled": apparmor}}}
    known = {"_vision_plan": found, "_vision_header": "", "vision_memory_maximum": "25%", "hedgerow_facts": facts}
    return set(text.render(known).splitlines())


def test_the_unit_opens_what_the_cameras_need() -> None:
    lines = unit(plan(DESK, GUARDED, forward={"when": {"drift": True}, "to": {"kind": "folder"}}))
    assert {
        "DevicePolicy=closed",
        "DeviceAllow=/dev/video2 rw",
        "SupplementaryGroups=video",
        "LoadCredential=camera-1.password:/etc/hedgerow/vision/camera-1.password",
        "IPAddressDeny=any",
        "IPAddressAllow=localhost 192.0.2.8",
        "StateDirectory=hedgerow-vision",
        "AppArmorProfile=hedgerow-vision",
        "MemoryMax=25%",
    } <= lines
    assert [line for line in lines if line.startswith("DeviceAllow=")] == ["DeviceAllow=/dev/video2 rw"]


def test_the_unit_opens_nothing_that_no_camera_needs() -> None:
    lines = unit(plan(DOOR), apparmor=False)
    assert {"PrivateDevices=yes", "IPAddressAllow=localhost 192.0.2.7"} <= lines
    for word in ("DeviceAllow", "LoadCredential", "StateDirectory", "SupplementaryGroups", "AppArmorProfile"):
        assert not [line for line in lines if line.startswith(word)], word
    named = unit(plan({"name": "door", "source": {"kind": "rtsp", "url": "rtsp://cam.lan/1"}}))
    assert not [line for line in named if line.startswith("IPAddress")], "a name may get another address"


def source(**more: Any) -> dict[str, Any]:
    return {"name": "door", "source": {"kind": "rtsp", "url": "rtsp://192.0.2.7/1"} | more}


@pytest.mark.parametrize(
    "camera, says",
    [
        ("door", "no source"),
        ({"name": "door"}, "no source"),
        ({"name": "door", "source": {"kind": "v4l2", "device": "/dev/sda"}}, "no camera's node"),
        ({"name": "door", "source": {"kind": "v4l2", "device": "/dev/video0 rw\nUser=root"}}, "no camera's node"),
        ({"name": "door", "source": {"kind": "file", "path": "tape.mkv"}}, "no absolute path"),
        (source(transport="udp"), "datagrams"),
        (source(password_file="/etc/x", user="pi"), "for the role to say"),
        (source(ca_file="/etc/x"), "for the role to say"),
        (source(user="pi", password="swordfish\nfish"), "more than one line"),
        (source(user="pi", password=""), "empty"),
        (source(user="pi", password=1234), "no text"),
        (source(ca="swordfish"), "no certificate"),
        (source(url="rtsp://pi:swordfish@192.0.2.7/1"), "must not hold"),
        (source(sharpness=3), "sharpness"),
    ],
)
def test_it_is_refused_and_no_secret_is_repeated(camera: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        plan(camera)
    assert "swordfish" not in str(caught.value)


def test_the_model_is_held_to_the_process_s_own_rules() -> None:
    with pytest.raises(UsageError, match="decoder"):
        vision.plan({"cameras": [DOOR], "model": {"name": "detector"}}, "by a test")
    with pytest.raises(UsageError, match="says nothing"):
        plan(DOOR, forward={"when": {}, "to": {"kind": "folder"}})
    with pytest.raises(UsageError, match="where frames go"):
        plan(DOOR, forward={"when": {"drift": True}})


def test_the_firewall_lets_out_what_is_read_and_nothing_else() -> None:
    named = {"name": "gate", "source": {"kind": "rtsp", "url": "rtsps://cam.lan/1", "ca": PEM}}
    forward = {"when": {"drift": True}, "to": {"kind": "https", "url": "https://sink.example/x"}}
    found = vision.egress([DOOR, GUARDED, DESK, named], forward)
    assert [(entry["id"], entry["to"], entry["ports"]) for entry in found] == [
        ("camera-door", ["192.0.2.7"], [554]),
        ("camera-yard", ["192.0.2.8"], [8322]),
        ("camera-gate", ["cam.lan"], [322]),
        ("vision-sink", ["sink.example"], [443]),
    ]
    assert vision.egress([], {}) == []
    with pytest.raises(UsageError, match="sharpness"):
        vision.egress([source(sharpness=3)], {})


def test_what_the_page_shows_is_accepted() -> None:
    """The inventory of docs/vision.md, its templates aside."""
    text = (Path(__file__).parents[3] / "docs/vision.md").read_text(encoding="utf-8")
    shown = next(block for block in text.split("```yaml\n")[1:] if "vision_cameras:" in block).partition("```")[0]
    values = yaml.safe_load(shown)
    cameras = values["vision_cameras"]
    for camera in cameras:
        if "ca" in camera["source"]:
            camera["source"]["ca"] = PEM
    found = vision.plan({"cameras": cameras, "model": {"name": "any"} | values["vision_model"]}, "by a test")
    assert configfile.convert(yaml.safe_load(found["config"]), VisionConfig).cameras
    assert values["inference_runtime_extras"] == ["vision"]
