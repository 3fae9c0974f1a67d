from __future__ import annotations

import pytest

from hedgerow.errors import PublisherError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import manifest as manifests


def test_a_whole_bundle(make_bundle):
    folder = make_bundle()
    seen = []
    bundle = bundles.verify_files(folder, on_bytes=seen.append)
    assert bundle.sha256 == manifests.digest((folder / "manifest.json").read_bytes())
    assert [file.path for file in bundle.manifest.files] == ["model.onnx", "tokens/tokenizer.json"]
    assert sum(seen) == bundle.manifest.size


def truncate(folder):
    (folder / "model.onnx").write_text("weights")


def lengthen(folder):
    with (folder / "model.onnx").open("a") as file:
        file.write("x")


def alter(folder):
    (folder / "model.onnx").write_text("Weights" + "weights" * 99)


def remove(folder):
    (folder / "model.onnx").unlink()


def add(folder):
    (folder / "tokens" / "extra.bin").write_bytes(b"")


def link(folder):
    (folder / "model.onnx").rename(folder.parent / "elsewhere")
    (folder / "model.onnx").symlink_to(folder.parent / "elsewhere")


def link_folder(folder):
    (folder / "tokens").rename(folder.parent / "elsewhere")
    (folder / "tokens").symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "damage, says",
    [
        (truncate, "model.onnx is truncated: 7 bytes, the manifest says 700"),
        (lengthen, "model.onnx is too long: 701 bytes, the manifest says 700"),
        (alter, "model.onnx was altered: sha256 "),
        (remove, "model.onnx is missing"),
        (add, "tokens/extra.bin is in the folder but not in the manifest"),
        (link, "model.onnx is no regular file"),
        (link_folder, "tokens is in the folder but not in the manifest"),
    ],
)
def test_damage_is_named(damage, says, make_bundle):
    folder = make_bundle()
    damage(folder)
    with pytest.raises(PublisherError) as caught:
        bundles.verify_files(folder)
    assert caught.value.what.startswith(says)
    assert str(folder) in caught.value.where
    assert caught.value.next_step


def test_no_bundle_there(tmp_path):
    with pytest.raises(UsageError, match=r"manifest\.json is missing"):
        bundles.load(tmp_path)
    with pytest.raises(UsageError):
        bundles.load(tmp_path / "nowhere")
