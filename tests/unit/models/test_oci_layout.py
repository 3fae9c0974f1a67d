"""Which image of a layout is meant, and that every blob of it is what its descriptor says."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.support import oci
from tests.support.oci import Image, entry, files, folder, image, link, write

from hedgerow.errors import PublisherError, UsageError
from hedgerow.models import oci_image
from hedgerow.models.oci_layout import open_layout


@pytest.fixture
def read(tmp_path):
    """Read what is at a path, with every layer's blob."""

    def read_(path: Path, platform: str = oci_image.PLATFORM) -> oci_image.Image:
        with open_layout(path) as layout:
            found = oci_image.read(layout, platform)
            for layer in found.layers:
                with layout.blob(layer.blob):
                    pass
        return found

    return read_


def test_of_several_platforms_a_device_s_is_taken(read, tmp_path):
    def of(architecture: str, **platform: str) -> Image:
        said = {"os": "linux", "architecture": architecture} | platform
        return Image(architecture=architecture, platform=said, config={"Cmd": ["/app/run", architecture]})

    attestation = Image(document={"os": "unknown"}, platform={"os": "unknown", "architecture": "unknown"})
    blobs = files(of("amd64"), of("arm64", variant="v8"), attestation)
    inner = oci.put(blobs, blobs["index.json"], f"{oci.OCI}.index.v1+json")
    odd = oci.put(blobs, b"{}", "application/vnd.example.odd+json")
    blobs["index.json"] = json.dumps({"manifests": [odd, inner, inner]}).encode()
    path = write(tmp_path / "index.tar", blobs)
    assert read(path).config["Cmd"] == ["/app/run", "arm64"]
    assert read(path, "linux/amd64").config["Cmd"] == ["/app/run", "amd64"]


@pytest.mark.parametrize(
    "images, says",
    [
        ([], "holds 0 images"),
        ([Image(architecture="amd64")], "is for linux/amd64; devices are linux/arm64"),
        ([Image(document={"variant": "v9"})], "is for linux/arm64"),
        ([Image(document={"os": "windows"})], "is for windows/arm64"),
        (
            [Image(platform={"os": "linux", "architecture": "amd64"})],
            "0 images for linux/arm64, and others for linux/amd64",
        ),
        ([Image(), Image(config={"Cmd": ["x"]})], "2 images"),
        ([Image(media_type="application/vnd.example.layer+json")], "a layer is"),
        ([Image(media_type=f"{oci.OCI}.layer.v1.tar+zip")], "a layer is"),
        ([Image(manifest={"config": {}})], "no SHA-256"),
        ([Image(manifest={"mediaType": "application/vnd.example+json"})], "something else"),
        ([Image(manifest={"layers": 1})], "no layers"),
        ([Image(document={"rootfs": {"type": "tree", "diff_ids": []}})], "no layers"),
    ],
)
def test_an_image_of_another_kind_is_told(read, tmp_path, images, says):
    with pytest.raises(UsageError, match=says) as caught:
        read(write(tmp_path / "image.tar", files(*images)))
    assert caught.value.next_step


def test_an_image_with_other_layers_than_it_says_is_told(read, tmp_path):
    with pytest.raises(PublisherError, match="1 layers, and its configuration 0"):
        read(image(tmp_path / "image.tar", document={"rootfs": {"type": "layers", "diff_ids": []}}))


def test_what_is_no_image_but_has_a_manifest_is_told(read, tmp_path):
    blobs = files(Image())
    chart = oci.put(blobs, b"{}", "application/vnd.example.chart+json")
    blobs |= files(Image(manifest={"config": chart}))
    with pytest.raises(UsageError, match="it is no image but"):
        read(write(tmp_path / "chart.tar", blobs))


def damaged(content: dict[str, bytes], name: str, how: str) -> dict[str, bytes]:
    data = content[name]
    if how == "gone":
        return {key: value for key, value in content.items() if key != name}
    return content | {
        name: {"altered": data[:-1] + bytes([data[-1] ^ 1]), "cut": data[:-1], "longer": data + b"x"}[how]
    }


@pytest.mark.parametrize("how", ["altered", "cut", "longer", "gone"])
@pytest.mark.parametrize("number", [0, 1, 2], ids=["configuration", "layer", "manifest"])
@pytest.mark.parametrize("place", ["image.tar", "layout"])
def test_a_blob_that_is_not_what_its_name_says_is_found(read, tmp_path, place, number, how):
    content = files(Image())
    name = [name for name in content if name.startswith("blobs/")][number]
    with pytest.raises(PublisherError, match=r"not what its name says|bytes; the image says|lacks"):
        read(write(tmp_path / place, damaged(content, name, how)))


@pytest.mark.parametrize(
    "digest", ["sha512:" + "0" * 128, "sha256:../../../etc/passwd", "sha256:" + "0" * 63, "sha256:" + "A" * 64, None, 7]
)
def test_a_digest_names_a_blob_and_no_path(read, tmp_path, digest):
    manifest = {"mediaType": f"{oci.OCI}.manifest.v1+json", "digest": digest, "size": 2}
    content = files(Image()) | {"index.json": json.dumps({"manifests": [manifest]}).encode()}
    for place in ("image.tar", "layout"):
        with pytest.raises(UsageError, match="by no SHA-256"):
            read(write(tmp_path / place, content))


def test_a_blob_of_a_layout_is_no_link_out_of_it(read, tmp_path):
    layout = write(tmp_path / "layout", files(Image()))
    name = next(path for path in (layout / "blobs/sha256").iterdir())
    shutil.move(name, tmp_path / "elsewhere")
    name.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PublisherError, match="lacks"):
        read(layout)


@pytest.mark.parametrize(
    "content, says",
    [
        (b"nothing", "no image archive"),
        (oci.tar([entry("manifest.json", "[]")]), "no oci-layout"),
        (oci.tar([entry("oci-layout", '{"imageLayoutVersion": "2.0.0"}')]), "version 2.0.0"),
        (oci.tar([entry("oci-layout", "[" * 100_000)]), "no JSON"),
        (oci.tar([link("oci-layout", "/etc/passwd")]), "no oci-layout"),
        (oci.tar([folder("oci-layout")]), "no oci-layout"),
    ],
)
def test_what_is_no_image_is_told(read, tmp_path, content, says):
    path = tmp_path / "image.tar"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        read(path)
    assert re.search(r"podman save --format oci-archive", caught.value.next_step)
