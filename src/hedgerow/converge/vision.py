"""From the inventory to what role ``vision`` places on a device: configuration, secrets, what the sandbox leaves open.

- ``vision_cameras`` is written as ``cameras`` of ``vision.yml`` is, but for what lies in files: ``password`` and ``ca``
  of a source, ``token`` and ``ca`` of a sink are the texts themselves. The role places the files, so it names them.
- A camera's files are called by its place in the list. So the names that there can be are known, and those that no
  camera has any more are removed without asking the host what it has.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from hedgerow import configfile
from hedgerow.converge import config as rendering
from hedgerow.converge.egress import is_name
from hedgerow.errors import UsageError

if TYPE_CHECKING:
    from hedgerow.vision.config import VisionConfig

FOLDER = "/etc/hedgerow/vision"
CREDENTIALS = "/run/credentials/hedgerow-vision.service"
FRAMES = "/var/lib/hedgerow-vision/frames"
MOST_CAMERAS = 16
# FFmpeg's own, where a URL names none.
_PORTS = {"rtsp": 554, "rtsps": 322, "https": 443}
_DEVICE = re.compile(r"/dev/(?:video[0-9]{1,3}|v4l/by-(?:id|path)/[A-Za-z0-9_.:+-]+)")
_PATH = re.compile(r"(?:/[A-Za-z0-9_.:+-]+)+")
# For whoever asks for the networks alone: they do not hang on the model.
_ANY_MODEL = {"name": "any", "decoder": "yolox"}


def plan(asked: Mapping[str, Any], header: str) -> dict[str, Any]:
    """What the role places. ``asked`` has ``cameras``, ``model``, ``drift`` and ``forward`` as its variables have them.

    Answers ``config`` (text of vision.yml), ``secrets`` and ``certificates`` (entries of ``hedgerow_files``),
    ``credentials`` (names in ``FOLDER`` that the unit loads), ``devices`` (nodes of cameras), ``addresses`` (what it
    talks with beside loopback; None where one has a name, which changes its address) and ``keeps_frames``.

    Raises:
        UsageError: a value is not allowed, named with its key. No message repeats a secret.
    """
    # Here: Ansible loads this module for every task on every host, and NumPy would come with it.
    from hedgerow.vision.config import Folder, V4l2, VisionConfig

    values, placed = _values(asked)
    text = rendering.render(values, "hedgerow.vision.config.VisionConfig", header)
    found = configfile.convert(values, VisionConfig)
    peers = [host for _, host, _ in _peers(found)]
    secrets, certificates = ({name: placed.get(name) for name in _names(kinds)} for kinds in (_SECRETS, _CERTIFICATES))
    return {
        "config": text,
        "secrets": [_entry(name, content, "0600") for name, content in secrets.items()],
        "certificates": [_entry(name, content, "0644") for name, content in certificates.items()],
        "credentials": [name for name, content in secrets.items() if content is not None],
        "devices": sorted({str(each.source.device) for each in found.cameras if isinstance(each.source, V4l2)}),
        "addresses": None if any(map(is_name, peers)) else sorted({str(ipaddress.ip_address(peer)) for peer in peers}),
        "keeps_frames": found.forward is not None and isinstance(found.forward.to, Folder),
    }


def egress(cameras: Sequence[Any], forward: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the firewall has to let out, as entries of ``hardening_egress``. Raises as ``plan``."""
    if not cameras:
        return []
    from hedgerow.vision.config import VisionConfig

    values, _ = _values({"cameras": cameras, "model": _ANY_MODEL, "forward": forward})
    try:
        found = configfile.convert(values, VisionConfig)
    except msgspec.ValidationError as error:
        raise UsageError(f"vision_cameras or vision_forward is not valid: {error}", where="role vision") from error
    return [
        {"id": name, "to": [host], "ports": [port], "reason": "a camera or the sink of role vision (docs/vision.md)"}
        for name, host, port in _peers(found)
    ]


# -- what it is made of ----------------------------------------------------

# Key of the inventory → (key of vision.yml, suffix of the file's name, the folder that the process finds it in).
_SECRETS = {"password": ("password_file", "password", CREDENTIALS), "token": ("token_file", "token", CREDENTIALS)}
_CERTIFICATES = {"ca": ("ca_file", "pem", FOLDER)}


def _names(kinds: Mapping[str, tuple[str, str, str]]) -> list[str]:
    """Every name that a file of these kinds can have."""
    owners = [*(f"camera-{number}" for number in range(MOST_CAMERAS)), "sink"]
    return [f"{owner}.{suffix}" for owner in owners for _, suffix, _ in kinds.values()]


def _entry(name: str, content: str | None, mode: str) -> dict[str, Any]:
    path = f"{FOLDER}/{name}"
    return {"absent": path} if content is None else {"content": content, "dest": path, "mode": mode}


def _values(asked: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """``vision.yml`` as plain values, and the files that it names: name → content."""
    # Ansible's texts and lists are classes of their own.
    plain = json.loads(json.dumps(dict(asked)))
    placed: dict[str, str] = {}
    cameras = []
    for number, camera in enumerate(plain["cameras"]):
        where = f"vision_cameras[{number}]"
        if not isinstance(camera, dict) or not isinstance(camera.get("source"), dict):
            raise UsageError(
                "a camera has no source",
                where=where,
                next_step="write - { name: door, source: { kind: rtsp, url: 'rtsp://192.0.2.7/1' } }",
            )
        source = _in_files(camera["source"], f"camera-{number}", f"{where}.source", placed)
        _require_reachable(source, f"{where}.source")
        cameras.append(camera | {"source": source})
    values: dict[str, Any] = {"model": plain["model"], "cameras": cameras}
    if plain.get("drift"):
        values["drift"] = plain["drift"]
    if plain.get("forward"):
        values["forward"] = _forward(plain["forward"], placed)
    return values, placed


def _forward(forward: dict[str, Any], placed: dict[str, str]) -> dict[str, Any]:
    to, where = forward.get("to"), "vision_forward.to"
    if not isinstance(to, dict):
        raise UsageError("nothing says where frames go", where=where, next_step="write to: { kind: folder }")
    to = _in_files(to, "sink", where, placed)
    if to.get("kind") == "folder" and to.setdefault("path", FRAMES) != FRAMES:
        raise UsageError(
            f"frames are kept in {FRAMES} alone: nothing else is open to the process",
            where=where,
            next_step="leave path out",
        )
    return forward | {"to": to}


def _in_files(found: dict[str, Any], owner: str, where: str, placed: dict[str, str]) -> dict[str, Any]:
    """``found`` with the names of files in place of their texts, which go to ``placed``."""
    found = dict(found)
    for key, (named, suffix, folder) in (_SECRETS | _CERTIFICATES).items():
        if named in found:
            raise UsageError(
                f"{named} is for the role to say", where=where, next_step=f'write {key}: "{{{{ vault_… }}}}", the text'
            )
        if key not in found:
            continue
        text = found.pop(key)
        if not isinstance(text, str) or not text.strip():
            raise UsageError(f"{key} is empty or no text", where=where)
        if key in _SECRETS and len(text.splitlines()) != 1:
            raise UsageError(f"{key} is more than one line", where=where)
        if key in _CERTIFICATES and "-----BEGIN CERTIFICATE-----" not in text:
            raise UsageError(
                f"{key} is no certificate", where=where, next_step="write its PEM, or lookup('ansible.builtin.file', …)"
            )
        name = f"{owner}.{suffix}"
        placed[name] = text.rstrip("\n") + "\n"
        found[named] = f"{folder}/{name}"
    return found


def _require_reachable(source: Mapping[str, Any], where: str) -> None:
    """Refuse what the unit's sandbox or the device's firewall would keep the process from."""
    device, path = str(source.get("device", "/dev/video0")), str(source.get("path", "/"))
    if source.get("kind") == "v4l2" and not _DEVICE.fullmatch(device):
        raise UsageError(
            f"{device!r} is no camera's node",
            where=f"{where}.device",
            next_step="write /dev/video0, or /dev/v4l/by-id/…",
        )
    if source.get("kind") == "file" and not _PATH.fullmatch(path):
        raise UsageError(f"{path!r} is no absolute path of plain letters", where=f"{where}.path")
    if source.get("transport") == "udp":
        raise UsageError(
            "a device's firewall lets no stream of datagrams in",
            where=f"{where}.transport",
            next_step="leave transport out; it is tcp then",
        )


def _peers(found: VisionConfig) -> list[tuple[str, str, int]]:
    """(id, host, TCP port) of what is asked beyond this machine."""
    from hedgerow.vision.config import Https, Rtsp

    urls = [(f"camera-{each.name}", each.source.url) for each in found.cameras if isinstance(each.source, Rtsp)]
    if found.forward is not None and isinstance(found.forward.to, Https):
        urls.append(("vision-sink", found.forward.to.url))
    peers = []
    for name, url in urls:
        parts = urlsplit(url)
        peers.append((name, str(parts.hostname), parts.port or _PORTS[parts.scheme]))
    return peers
