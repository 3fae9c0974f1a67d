"""A Triton repository, read by Triton's own definition of its configuration."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from hedgerow.errors import RefusedError, UsageError
from hedgerow.registry import bundle as bundles
from hedgerow.registry import export
from hedgerow.registry import manifest as manifests
from hedgerow.registry.manifest import (
    GoldenTensor,
    GoldenTensors,
    Manifest,
    Provenance,
    Requires,
    Source,
    Tensor,
)

FREE = (Tensor("image", "FP32", (-1, 3, 224, 224)),)
SCORES = (Tensor("scores", "FP32", (-1, 5)), Tensor('a "label"', "BYTES", (-1, 1)))


@pytest.fixture
def onnx_bundle(tmp_path):
    def make(*, form="onnx", inputs=FREE, outputs=SCORES, names=("detector.onnx", "weights/detector.data")):
        folder = tmp_path / "bundle"
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(f"content of {name}")
        tensor = GoldenTensor("x", (1,), (1.0,))
        manifest = Manifest(
            schema=1,
            name="detector",
            version="1.2.0",
            format=form,
            license="Apache-2.0",
            files=bundles.describe_files(folder),
            requires=Requires(memory_mb=64),
            provenance=Provenance(sources=(Source("a test"),), builder="a test", tools={}),
            golden=(GoldenTensors((tensor,), (tensor,), 0.0, 0.0),),
            inputs=inputs,
            outputs=outputs,
        )
        (folder / manifests.FILE_NAME).write_bytes(manifests.encode(manifest))
        return bundles.verify_files(folder)

    return make


def configuration(repository):
    return text_format.Parse((repository / "detector" / export.CONFIG).read_text(), model_config_pb2.ModelConfig())


def test_what_triton_reads(onnx_bundle, tmp_path):
    repository = tmp_path / "triton"
    bundle = onnx_bundle()
    place = export.triton(bundle, repository)
    assert place == repository / "detector" / "1"
    found = {path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()}
    expected = [*(file.path for file in bundle.manifest.files), "manifest.json"]
    assert found == {path: (bundle.directory / path).read_bytes() for path in expected}
    read = configuration(repository)
    assert (read.name, read.backend, read.max_batch_size) == ("detector", "onnxruntime", 0)
    assert read.default_model_filename == "detector.onnx"
    assert [(each.name, each.data_type, list(each.dims)) for each in read.input] == [
        ("image", model_config_pb2.TYPE_FP32, [-1, 3, 224, 224])
    ]
    assert [(each.name, each.data_type, list(each.dims)) for each in read.output] == [
        ("scores", model_config_pb2.TYPE_FP32, [-1, 5]),
        ('a "label"', model_config_pb2.TYPE_STRING, [-1, 1]),
    ]
    assert sorted(path.name for path in (repository / "detector").iterdir()) == ["1", "config.pbtxt"]


def test_every_type_is_one_of_tritons():
    assert set(export.TYPES.values()) <= set(model_config_pb2.DataType.keys())
    assert len(set(export.TYPES.values())) == len(export.TYPES) == 14


def test_batches_take_the_first_dimension(onnx_bundle, tmp_path):
    export.triton(onnx_bundle(), tmp_path / "triton", max_batch=8)
    read = configuration(tmp_path / "triton")
    assert read.max_batch_size == 8
    assert list(read.input[0].dims) == [3, 224, 224]


def test_a_whole_shape_cannot_be_batched(onnx_bundle, tmp_path):
    bundle = onnx_bundle(inputs=(Tensor("image", "FP32", (1, 3)),))
    with pytest.raises(UsageError, match="no free first dimension") as caught:
        export.triton(bundle, tmp_path / "triton", max_batch=8)
    assert "--max-batch" in caught.value.next_step
    assert not (tmp_path / "triton").exists()


def test_versions_lie_side_by_side(onnx_bundle, tmp_path):
    bundle = onnx_bundle()
    export.triton(bundle, tmp_path / "triton", number=1)
    with pytest.raises(UsageError, match="version 1 of detector already") as caught:
        export.triton(bundle, tmp_path / "triton", number=1)
    assert "--number 2" in caught.value.next_step
    export.triton(bundle, tmp_path / "triton", number=2)
    with pytest.raises(UsageError, match="another configuration"):
        export.triton(bundle, tmp_path / "triton", number=3, max_batch=4)
    with pytest.raises(UsageError, match="from 1 on"):
        export.triton(bundle, tmp_path / "triton", number=0)


@pytest.mark.parametrize(
    "how,what",
    [
        ({"form": "onnx-genai"}, "Triton serves onnx"),
        ({"names": ("a.onnx", "b.onnx")}, r"has 2 files \*\.onnx"),
        ({"inputs": ()}, "does not say its tensors"),
    ],
)
def test_what_triton_cannot_serve(onnx_bundle, tmp_path, how, what):
    with pytest.raises(RefusedError, match=what):
        export.triton(onnx_bundle(**how), tmp_path / "triton")
    assert not (tmp_path / "triton").exists()


def test_a_copy_that_fails_leaves_no_version(onnx_bundle, tmp_path):
    bundle = onnx_bundle()
    (bundle.directory / "weights/detector.data").unlink()
    with pytest.raises(FileNotFoundError):
        export.triton(bundle, tmp_path / "triton")
    assert list((tmp_path / "triton" / "detector").iterdir()) == []
