"""The accelerator's backend on a double of its library."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import server_support as support
from hailo_double import (
    HailoCommunicationClosedException,
    HailoRTStatusException,
    HailoRTTimeout,
    install,
    status,
)

from hedgerow.server import backends, loading
from hedgerow.server.backends import TextRequest, hailo_status
from hedgerow.server.computing import Computing
from hedgerow.server.errors import BadRequest, Overloaded, ServingError, Unusable
from hedgerow.server.isolation.nursery import Nursery
from hedgerow.server.scheduler import Scheduler

NETWORK = {"inputs": {"image": [4, 4, 3]}, "outputs": {"scores": [2], "more": [1, 1, 2]}}
HELLO = ({"role": "user", "content": "hello"},)


@pytest.fixture
def chip(monkeypatch):
    chip = install(monkeypatch)
    yield chip
    assert chip.owner is None, "a backend was closed and the device not given back"


def write(folder: Path, hef: dict | str, *, language: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.hef").write_text(hef if isinstance(hef, str) else json.dumps(hef))
    if language:
        (folder / "hailo_llm.json").write_text("{}")
    return folder


@pytest.fixture
def network(chip, tmp_path):
    backend = backends.load(write(tmp_path / "network", NETWORK))
    yield backend
    backend.close()


@pytest.fixture
def language(chip, tmp_path):
    backend = backends.load(write(tmp_path / "llm", {"says": ["Hi", " there", "."]}, language=True))
    yield backend
    backend.close()


def frames(*values: int) -> dict[str, np.ndarray]:
    return {"image": np.stack([np.full((4, 4, 3), value, np.uint8) for value in values])}


def test_it_is_in_the_servers_process_whatever_is_said(chip, tmp_path, caplog) -> None:
    """Two processes would each want the device: statuses 73 and 74."""
    caplog.set_level("INFO")
    ours, theirs = socket.socketpair()
    theirs.close()  # nobody is there to fork anything
    with ours:
        computing = Computing(nursery=Nursery(ours))
        folder = write(tmp_path / "network", NETWORK)
        model = loading.load("seeing", folder, computing=computing, check_golden=True).model
        assert chip.owner is not None
        model.backend.close()
    assert "seeing is computed in the server's process: those of hailo share their device there" in caplog.text


# ── networks ────────────────────────────────────────────────────────────────


def test_frames_go_in_as_rows_and_results_come_out_as_rows(network, chip) -> None:
    assert [(spec.datatype, spec.shape) for spec in network.inputs] == [("UINT8", (-1, 4, 4, 3))]
    assert [(spec.datatype, spec.shape) for spec in network.outputs] == [("FP32", (-1, 2)), ("FP32", (-1, 1, 1, 2))]
    results = network.infer(frames(3, 5), ["scores"])
    assert list(results) == ["scores"]
    assert results["scores"].tolist() == [[3, 3], [5, 5]]
    assert network.infer(frames(7), [])["more"].shape == (1, 1, 1, 2)
    assert chip.runs == [2, 1]


def test_no_rows_reach_no_chip(network, chip) -> None:
    empty = {"image": np.zeros((0, 4, 4, 3), np.uint8)}
    assert network.infer(empty, ["scores"])["scores"].shape == (0, 2)
    assert chip.runs == []


def test_what_is_not_contiguous_is_made_so(network) -> None:
    image = np.asfortranarray(np.full((1, 4, 4, 3), 9, np.uint8))
    assert network.infer({"image": image}, ["scores"])["scores"].tolist() == [[9, 9]]


def test_detections_have_a_shape(chip, tmp_path) -> None:
    hef = {"inputs": NETWORK["inputs"], "outputs": {"nms": [31]}}
    backend = backends.load(write(tmp_path, hef))
    assert backend.infer(frames(1, 2), [])["nms"].shape == (2, 2, 5, 3)
    backend.close()


@pytest.mark.parametrize(
    "failure, kind, says",
    [
        (HailoRTTimeout("Received a timeout"), ServingError, "status 4: the accelerator did not answer in time"),
        (HailoCommunicationClosedException("closed"), ServingError, "status 62: the link to the accelerator is closed"),
        (status(73, "HAILO_DEVICE_IN_USE"), Overloaded, "status 73: another process uses the accelerator"),
        (status(87, "HAILO_DRIVER_TIMEOUT"), ServingError, "status 87: the driver did not answer in time"),
        (status(5, "HAILO_INTERNAL_FAILURE"), ServingError, "libhailort failed with error: 5"),
        (OSError("else"), ServingError, "HailoRT: else"),
    ],
)
def test_status_codes_while_it_runs(network, chip, failure, kind, says: str) -> None:
    chip.fails = failure
    with pytest.raises(kind, match=says) as caught:
        network.infer(frames(1), [])
    assert caught.value.status == (503 if kind is Overloaded else 500)
    assert network.infer(frames(1), [])["scores"].tolist() == [[1, 1]]


def test_a_frame_that_does_not_fit_is_the_callers_fault(network) -> None:
    with pytest.raises(BadRequest, match="the model refuses these inputs"):
        network.infer({"image": np.zeros((1, 5, 4, 3), np.uint8)}, [])


# ── loading and the lease ───────────────────────────────────────────────────


@pytest.mark.parametrize(
    "failure, says",
    [
        (status(74, "HAILO_OUT_OF_PHYSICAL_DEVICES"), "status 74: another process owns the accelerator"),
        (status(76, "HAILO_INVALID_DRIVER_VERSION"), "status 76: driver and library differ in version"),
        (status(64, "HAILO_DRIVER_NOT_INSTALLED"), "status 64: no driver is loaded"),
        (status(81, "HAILO_OUT_OF_HOST_CMA_MEMORY"), "status 81: the host's contiguous memory is used up"),
    ],
)
def test_a_chip_that_cannot_be_had(chip, tmp_path, failure, says: str) -> None:
    chip.fails = failure
    with pytest.raises(Unusable, match=says) as caught:
        backends.load(write(tmp_path, NETWORK))
    assert caught.value.code == "load_failed"
    backend = backends.load(tmp_path)
    backend.close()
    assert chip.owner is None


@pytest.mark.parametrize(
    "hef, says",
    [
        ("junk", "status 26: the file is no valid HEF"),
        ({**NETWORK, "arch": "HAILO8"}, "status 93: the HEF is not for this accelerator"),
    ],
)
@pytest.mark.parametrize("language", [True, False])
def test_a_hef_that_is_none(chip, tmp_path, hef, says: str, language) -> None:
    with pytest.raises(Unusable, match=says):
        backends.load(write(tmp_path, hef, language=language))
    assert chip.owner is None


def test_an_exception_of_the_bindings_tells_its_code_too(chip, tmp_path) -> None:
    write(tmp_path, {"says": []}, language=True)
    good = backends.load(write(tmp_path / "other", NETWORK))
    chip.fails = Exception("81")
    with pytest.raises(Unusable, match="status 81"):
        backends.load(tmp_path)
    good.close()
    assert chip.owner is None
    assert hailo_status.status_of(HailoRTStatusException("76")) == 76
    assert hailo_status.status_of(ValueError("no number 5 here")) is None


def test_vision_and_language_share_the_one_device(network, language, chip) -> None:
    decoding = language.begin(TextRequest(messages=HELLO))
    assert decoding.read()
    assert decoding.step() == "Hi"
    assert network.infer(frames(3), ["scores"])["scores"].tolist() == [[3, 3]]
    assert decoding.step() == " there"
    decoding.close()
    assert chip.owner is not None


def test_without_the_library_it_says_what_to_install(tmp_path, monkeypatch) -> None:
    for name in ("hailo", "hailo_device"):
        monkeypatch.delitem(sys.modules, f"hedgerow.server.backends.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "hailo_platform", None)
    with pytest.raises(Unusable, match="hailo_platform is not installed: apt install python3-h10-hailort"):
        backends.load(write(tmp_path, NETWORK))


# ── language ────────────────────────────────────────────────────────────────


def say(backend, **request) -> tuple[str, bool, int]:
    decoding = backend.begin(TextRequest(**{"messages": HELLO, "temperature": 0.0} | request))
    try:
        while not decoding.read():
            pass
        text = ""
        while (piece := decoding.step()) is not None:
            text += piece
        return text, decoding.truncated, decoding.prompt_tokens
    finally:
        decoding.close()


def test_an_answer_and_how_it_ends(language, chip) -> None:
    assert say(language) == ("Hi there.", False, 5)
    assert say(language, max_tokens=2) == ("Hi there", True, 5)
    assert chip.generating == 0


def test_each_request_begins_with_an_empty_context(language, chip) -> None:
    assert say(language) == say(language)
    assert chip.llm.asked[0] == chip.llm.asked[1]


def test_how_it_draws(language, chip) -> None:
    say(language, prompt="raw", messages=None, temperature=0.7, top_p=0.9, seed=3, max_tokens=5)
    say(language)
    sampled, greedy = chip.llm.asked
    options = {"temperature": 0.7, "top_p": 0.9, "seed": 3, "max_generated_tokens": 5, "do_sample": True}
    assert sampled == ("raw", options)
    assert greedy[0] == [{"role": "user", "content": "hello"}]
    assert (greedy[1]["do_sample"], greedy[1]["temperature"]) == (False, None)


def test_prompts_that_do_not_fit(language) -> None:
    with pytest.raises(BadRequest, match="the prompt has 64 tokens; the model's context holds 64") as caught:
        language.begin(TextRequest(prompt="x" * 64))
    assert caught.value.field == "prompt"
    with pytest.raises(BadRequest, match="the prompt is empty"):
        language.begin(TextRequest(prompt=""))


def test_a_chip_that_fails_within_an_answer_is_free_again(language, chip) -> None:
    decoding = language.begin(TextRequest(messages=HELLO))
    assert decoding.read()
    decoding.step()
    chip.fails = HailoRTTimeout("Received a timeout")
    with pytest.raises(ServingError, match="status 4"):
        decoding.step()
    decoding.close()
    assert say(language)[0] == "Hi there."


def test_two_models_never_generate_at_once(language, chip, tmp_path) -> None:
    other = backends.load(write(tmp_path / "second", {"says": ["Me", " too"]}, language=True))
    first, second = (each.begin(TextRequest(messages=HELLO)) for each in (language, other))
    assert first.read()
    assert not second.read()
    first.close()
    assert second.read()
    assert (second.step(), chip.generating) == ("Me", 1)
    second.close()
    other.close()


def test_under_the_scheduler_each_answer_is_whole(language, chip) -> None:
    scheduler = Scheduler(active=4, queue=16)

    async def ask() -> str:
        batches = scheduler.generate(support.served(language), TextRequest(messages=HELLO))
        return "".join([piece.text async for batch in batches for piece in batch])

    async def main() -> list[str]:
        return await asyncio.wait_for(asyncio.gather(*(ask() for _ in range(8))), support.PATIENCE_S)

    try:
        assert asyncio.run(main()) == ["Hi there."] * 8
    finally:
        scheduler.close()
    assert chip.generating == 0
