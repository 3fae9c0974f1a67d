"""From picture to detections: with a model in memory whose input and answer are known, and with a real one."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest
import server_support as support
import vision_support as vision
from hailo_double import install

from hedgerow.server.backends import load as load_backend
from hedgerow.server.protocols import oip
from hedgerow.vision.client import Answer, Metadata, ModelClient, Refused, Spec, Unavailable
from hedgerow.vision.config import Model, Preprocess
from hedgerow.vision.detector import Detector, ModelInput

# ── what the model is given ─────────────────────────────────────────────────


def test_the_picture_reaches_the_model_as_it_was_trained():
    left, right = [200, 100, 50], [10, 20, 30]
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, :32], image[:, 32:] = left, right
    asked = vision.Answering(lambda _: [])
    Detector(vision.model(preprocess=Preprocess(mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.25))), asked).detect(
        vision.frame(image)
    )
    (tensor,) = asked.seen
    assert (tensor.shape, tensor.dtype) == ((1, 3, 64, 64), np.float32)
    for column, colour in ((0, left), (63, right)):
        expected = (np.array(colour) / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.5, 0.25]
        np.testing.assert_allclose(tensor[0, :, 32, column], expected, atol=1e-6)
    np.testing.assert_allclose(
        tensor[0, :, 0, 0], (114 / 255 - np.array([0.1, 0.2, 0.3])) / [0.5, 0.5, 0.25], atol=1e-6
    )


def test_another_order_and_integers():
    given = ModelInput("x", "UINT8", (4, 2), planar=False)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert (given.tensor(picture, vision.model(), 255.0) == picture[None]).all()
    planar = ModelInput("x", "FP16", (4, 2), planar=True).tensor(picture, vision.model(), 1.0)
    assert (planar.dtype, planar.shape) == (np.float16, (1, 3, 2, 4))
    assert planar[0, 2].tolist() == picture[:, :, 2].tolist()


def test_bgr_for_yolox():
    class Asked(vision.Answering):
        def infer(self, name, tensor):
            super().infer(name, tensor)
            return Answer("1", {"out": np.zeros((1, 84, 6), np.float32)})

    asked = Asked(lambda _: [])
    image = np.full((64, 64, 3), [255, 128, 0], np.uint8)
    Detector(vision.model(decoder="yolox"), asked).detect(vision.frame(image))
    assert asked.seen[0][0, :, 10, 10].tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    "specs,settings,text",
    [
        ([("x", "FP32", (1, 10))], {}, "a picture is"),
        ([("x", "FP32", (4, 3, 64, 64))], {}, "a picture is"),
        ([("x", "INT64", (1, 3, 64, 64))], {}, "UINT8 or a float"),
        ([("x", "FP32", (1, 3, 64, 64)), ("y", "FP32", (1,))], {}, "one picture"),
        ([("x", "FP32", (-1, 3, -1, -1))], {}, "model.preprocess.size"),
    ],
)
def test_models_that_take_no_picture(specs, settings, text):
    metadata = Metadata(tuple(Spec(*each) for each in specs), ())
    with pytest.raises(Refused, match=text):
        ModelInput.of(metadata, vision.model(**settings))


def test_a_free_size_is_the_configurations():
    metadata = Metadata((Spec("x", "FP32", (-1, 3, -1, -1)),), ())
    assert ModelInput.of(metadata, vision.model(preprocess=Preprocess(size=(320, 192)))).size == (320, 192)
    assert ModelInput.of(Metadata((Spec("x", "UINT8", (-1, 480, 640, 3)),), ()), vision.model()).size == (640, 480)


# ── what is made of its answer ──────────────────────────────────────────────


def test_boxes_are_in_the_pictures_own_pixels():
    # 128 × 64 into 64 × 64: halved, 16 rows of grey above.
    asked = vision.Answering(lambda _: [(32, 32, 16, 8, 0.9), (33, 32, 16, 8, 0.6), (10, 20, 4, 4, 0.5)])
    result = Detector(vision.model(labels=("cat",)), asked).detect(vision.frame(vision.plain(0, (128, 64))))
    first, second = result.detections
    assert (first.label, first.box) == ("cat", (48, 24, 80, 40))
    assert first.confidence == pytest.approx(0.9)
    assert second.box == (16, 4, 24, 12)


def test_a_class_without_a_name_is_told():
    asked = vision.Answering(lambda _: [(32, 32, 16, 8, 0.1, 0.9)])
    with pytest.raises(Refused, match=r"class 1; model.labels has 1 names"):
        Detector(vision.model(labels=("cat",)), asked).detect(vision.frame(vision.plain(0)))


def test_metadata_is_asked_again_for_another_version():
    asked = vision.Answering(lambda _: [])
    detector = Detector(vision.model(), asked)
    picture = vision.frame(vision.plain(0))
    for _ in range(3):
        detector.detect(picture)
    assert asked.asked == 1
    asked.version, asked.size = "2", (32, 32)
    assert detector.detect(picture).version == "2"
    detector.detect(picture)
    assert asked.asked == 2
    assert asked.seen[-1].shape == (1, 3, 32, 32)


# ── a real network, through the real server ─────────────────────────────────

CHARACTERS = [("A", 40, 60, 4), ("8", 150, 220, 5), ("H", 300, 80, 4), ("E", 290, 300, 5)]
YOLOX = Model(name="detector", decoder="yolox", labels=("character",), confidence=0.3)


@pytest.fixture(scope="module")
def server(real_model):
    server = vision.serve(real_model)
    yield server
    server.close()


@pytest.fixture
def client(server):
    client = ModelClient(server.url, "detector", timeout_s=30)
    yield client
    client.close()


def overlap(one, other) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(each[2] - each[0]) * (each[3] - each[1]) for each in (one, other)]
    return width * height / (sum(areas) - width * height)


@pytest.mark.parametrize("scale", [1, 2])
def test_a_real_model_finds_characters_where_they_are(client, scale):
    scaled = [(letter, left * scale, top * scale, dot * scale) for letter, left, top, dot in CHARACTERS]
    image, truth = vision.picture((416 * scale, 400 * scale), scaled)
    found = Detector(YOLOX, client).detect(vision.frame(image)).detections
    assert len(found) == len(truth)
    assert {each.label for each in found} == {"character"}
    for box in truth:
        assert max(overlap(box, each.box) for each in found) > 0.5, box


def test_no_characters_no_detections(client):
    assert Detector(YOLOX, client).detect(vision.frame(vision.plain(255, (416, 416)))).detections == ()


def test_as_the_models_authors_compute_it(client, real_model):
    """Their formulas (yolox/utils/demo_utils.py), box by box, straight on ONNX Runtime."""
    image, _ = vision.picture((416, 416), CHARACTERS)
    session = ort.InferenceSession(real_model / "detector" / "1" / "model.onnx", providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"images": image[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)})
    boxes, row = [], 0
    for stride in (8, 16, 32):
        for y in range(416 // stride):
            for x in range(416 // stride):
                cx, cy, w, h, objectness, probability = output[0, row].astype(float)
                cx, cy, w, h = (cx + x) * stride, (cy + y) * stride, np.exp(w) * stride, np.exp(h) * stride
                boxes.append((objectness * probability, (cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2)))
                row += 1
    assert row == output.shape[1]
    expected = []
    for score, box in sorted(boxes, reverse=True):
        if score >= YOLOX.confidence and all(overlap(box, other) <= YOLOX.overlap for _, other in expected):
            expected.append((score, box))
    found = Detector(YOLOX, client).detect(vision.frame(image)).detections
    assert [each.confidence for each in found] == pytest.approx([score for score, _ in expected], rel=1e-4)
    for each, (_, box) in zip(found, expected, strict=True):
        np.testing.assert_allclose(each.box, np.clip(box, 0, 416), atol=0.01)


def test_its_requests_count_as_any(server, client):
    Detector(YOLOX, client).detect(vision.frame(vision.plain(255)))
    counted = server.plane.metrics.registry.get_sample_value(
        "hedgerow_server_requests_total",
        {"model": "detector", "version": "1", "protocol": oip.PROTOCOL, "code": "200"},
    )
    assert counted >= 1


def test_the_wrong_family_is_refused(client):
    # 3549 rows of 6 could be 6 boxes of 3545 classes; those have no names.
    with pytest.raises(Refused, match=r"labels has 1 names: is model.decoder right"):
        Detector(Model(name="detector", decoder="yolov8", labels=("character",)), client).detect(
            vision.frame(vision.picture((416, 416), CHARACTERS)[0])
        )


def test_what_the_server_refuses_and_what_it_cannot_now(server):
    unknown = ModelClient(server.url, "none", timeout_s=5)
    with pytest.raises(Refused, match="404"):
        unknown.metadata()
    unknown.close()
    known = ModelClient(server.url, "detector", timeout_s=5)
    with pytest.raises(Refused, match=r"400.*no input"):
        known.infer("wrong", np.zeros((1, 3, 416, 416), np.float32))
    known.close()
    gone = ModelClient(f"http://127.0.0.1:{support.free_port()}", "detector", timeout_s=5)
    with pytest.raises(Unavailable, match="does not answer"):
        gone.metadata()
    gone.close()


def test_drained_is_worth_another_try(server, client):
    server.plane.stopping = True
    try:
        with pytest.raises(Unavailable, match="503") as refused:
            client.infer("images", np.zeros((1, 3, 416, 416), np.float32))
    finally:
        server.plane.stopping = False
    assert refused.value.retry_after_s == 5


# ── an accelerator's network, on the double of its library ──────────────────


def test_a_hef_answers_by_the_same_interface(monkeypatch, tmp_path):
    """UINT8 rows of frames in; what the backend hands on as detections is decoded as HailoRT lays them out."""
    install(monkeypatch)
    hef = {"inputs": {"image": [64, 64, 3]}, "outputs": {"scores": [2]}}
    (tmp_path / "model.hef").write_text(json.dumps(hef))
    backend = load_backend(tmp_path)
    try:
        spec = backend.inputs[0]
        given = ModelInput.of(Metadata((Spec(spec.name, spec.datatype, spec.shape),), ()), vision.model())
        assert (given.datatype, given.size, given.planar) == ("UINT8", (64, 64), False)
        tensor = given.tensor(vision.plain(7, (64, 64)), vision.model(), 255.0)
        answer = backend.infer({given.name: tensor}, ())
        assert float(answer["scores"][0, 0]) == 7
    finally:
        backend.close()
