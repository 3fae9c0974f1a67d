"""A model in a process of its own: it answers as in ours, and its end is nobody else's.

The nursery is what ``hedgerow serve --isolate`` forks of itself; pytest has threads, so here it is started as a
program.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import server_support as support
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from server_support import wait

from hedgerow.server import backends, config, errors, loading
from hedgerow.server.backends import TextRequest
from hedgerow.server.computing import Computing
from hedgerow.server.errors import BadRequest, ContextExceeded, Overloaded, ServingError, Unusable
from hedgerow.server.isolation import backend as isolated
from hedgerow.server.isolation import wire
from hedgerow.server.isolation.nursery import Nursery
from hedgerow.server.tensors import BF16, DTYPES
from hedgerow.server.workers import Workers

ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 1.0]}]}
TEND = """
import socket, sys
from hedgerow.server.isolation.nursery import tend
tend(socket.socket(fileno=int(sys.argv[1])))
"""


@pytest.fixture(scope="module")
def grown():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen([sys.executable, "-c", TEND, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        nursery = Nursery(ours)
        yield nursery
        nursery.close()
        assert child.wait(support.PATIENCE_S) == 0


@pytest.fixture
def nursery(grown):
    """It, and what it was told of in ``told``."""
    grown.told = []
    grown.ended = lambda name, how: grown.told.append((name, how))
    return grown


@pytest.fixture
def load(nursery):
    """``load(folder)`` → the backend in a process of its own."""
    with contextlib.ExitStack() as stack:

        def load(folder: Path, **given):
            backend = isolated.load(nursery, "m", folder, threads=1, **given)
            stack.callback(backend.close)
            return backend

        yield load


def pid_of(backend) -> int:
    return backend._supervised.process().pid


def there_is(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def x(*values: float) -> dict[str, np.ndarray]:
    return {"x": np.array([values], np.float32)}


# ── what is said between the two ────────────────────────────────────────────


def passed(message: wire.Message, arrays=None, kind=wire.Asked):
    """What comes out of a pair of sockets."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        parts = [] if arrays is None else wire.described(arrays)[1]
        sending = threading.Thread(target=wire.send, args=(ours, message, parts))
        sending.start()
        found = wire.receive(theirs, kind)
        sending.join()
    return found


_PLAIN = [dtype for name, dtype in DTYPES.items() if name not in {"BYTES", "BF16"}]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(_PLAIN).flatmap(
            lambda dtype: arrays_of.arrays(dtype, arrays_of.array_shapes(min_dims=0, min_side=0, max_side=5))
        ),
        max_size=4,
    )
)
def test_arrays_come_out_as_they_went_in(given: list[np.ndarray]) -> None:
    arrays = {f"a{index}": array for index, array in enumerate(given)}
    message = wire.Infer(outputs=("y",), run=3, tensors=wire.described(arrays)[0])
    said, found = passed(message, arrays)
    assert said == message
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([b"", b"\xff\x00", b"abc"], dtype=np.object_),
        np.array(["", "größer", "\U0001f33f"], dtype=np.object_),
        np.array([["a"], ["b"]], dtype=np.object_),
        np.zeros(0, dtype=np.object_),
        np.arange(12, dtype=np.float32).reshape(3, 4).T,
        np.arange(6, dtype="<u2").view(BF16),
        np.zeros((0, 5), np.int8),
        np.zeros(3_000_000, np.float64),
    ],
    ids=["bytes", "texts", "rows", "none", "transposed", "bf16", "no-rows", "24MB"],
)
def test_other_arrays_do_too(array: np.ndarray) -> None:
    arrays = {"a": array, "b": np.ones(1, np.int64)}
    _, found = passed(wire.Infer(outputs=(), tensors=wire.described(arrays)[0]), arrays)
    assert found["a"].dtype == array.dtype
    assert found["a"].tolist() == array.tolist()
    assert [type(item) for item in found["a"].ravel()] == [type(item) for item in array.ravel()]
    assert found["b"].tolist() == [1]
    assert all(each.flags.aligned for each in found.values())


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no", field="x"),
        ContextExceeded("too long", field="prompt"),
        Overloaded("later", retry_after_s=7),
        errors.Busy("later", retry_after_s=3),
        Unusable("golden_failed", "wrong"),
        errors.DeadlineExceeded("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_one_behind_it(error: ServingError) -> None:
    said, _ = passed(wire.failure(error), kind=wire.Answered)
    again = wire.raised(said)
    assert type(again) is type(error)
    assert vars(again) == vars(error)


def test_an_error_of_nobody_we_know_is_the_servers() -> None:
    again = wire.raised(wire.failure(ZeroDivisionError("by zero")))
    assert type(again) is ServingError
    assert again.text == "ZeroDivisionError: by zero"


@pytest.mark.parametrize("data", [b"\1", wire._SIZES.pack(3, 0) + b"ab", wire._SIZES.pack(2, 9) + b"\x80\xc0"])
def test_a_frame_that_is_cut_off_is_an_error_and_none_is_none(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises((ConnectionError, ValueError)):
            wire.receive(theirs, wire.Answered)
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        assert wire.receive(theirs, wire.Answered) is None


# ── tensor models ───────────────────────────────────────────────────────────


def test_it_answers_as_in_our_process(load, tmp_path) -> None:
    folder = support.write_add(tmp_path, 2.0)
    ours, theirs = backends.load(folder, threads=1), load(folder)
    assert (theirs.platform, theirs.inputs, theirs.outputs) == (ours.platform, ours.inputs, ours.outputs)
    assert theirs.infer(x(1, 2), [])["y"].tolist() == ours.infer(x(1, 2), [])["y"].tolist() == [[3.0, 4.0]]
    assert list(theirs.infer(x(1, 2), ["y"])) == ["y"]
    assert not getattr(theirs, "inline", False)
    assert pid_of(theirs) != os.getpid()
    assert theirs.memory > 1 << 20
    ours.close()


def test_what_the_model_refuses_is_the_callers_fault_there_too(load, tmp_path) -> None:
    ours, theirs = (
        make(support.write_add(tmp_path, 2.0)) for make in (lambda each: backends.load(each, threads=1), load)
    )
    said = []
    for each in (ours, theirs):
        with pytest.raises(BadRequest, match="the model refuses these inputs") as caught:
            each.infer({"x": np.ones((1, 3), np.float32)}, [])
        said.append(str(caught.value))
    assert said[0] == said[1]
    assert theirs.infer(x(1, 2), [])["y"].tolist() == [[3.0, 4.0]]
    ours.close()


def test_several_callers_have_their_own_answers(load, tmp_path) -> None:
    backend = load(support.write_add(tmp_path, 0.5))
    wrong: list[object] = []

    def ask(value: int) -> None:
        for _ in range(50):
            answer = backend.infer(x(value, -value), [])["y"].tolist()
            if answer != [[value + 0.5, -value + 0.5]]:
                wrong.append(answer)

    callers = [threading.Thread(target=ask, args=(value,)) for value in range(6)]
    for each in callers:
        each.start()
    for each in callers:
        each.join()
    assert wrong == []


def test_a_run_can_be_stopped(load, tmp_path) -> None:
    backend = load(support.write_endless(tmp_path))
    forever = {"go": np.array([True]), "x": np.ones(1, np.float32)}

    async def work() -> dict[str, np.ndarray]:
        workers = Workers(threads=1, queue=4, on_batch=lambda *_: None)
        model = support.served(backend)
        with pytest.raises(errors.DeadlineExceeded):
            await workers.infer(model, forever, [], timeout_s=0.2)
        # One thread: it answers only once the other has ended.
        answer = await workers.infer(model, forever | {"go": np.array([False])}, [])
        workers.close()
        return answer

    assert asyncio.run(work())["y"].tolist() == [1.0]
    stopped = backend.begin_run()
    stopped.terminate = True
    with pytest.raises(errors.DeadlineExceeded):
        backend.infer(forever, [], stopped)


def test_a_run_that_does_not_stop_ends_with_its_process(load, nursery, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(isolated, "_STOP_S", 0.2)
    backend = load(support.write_endless(tmp_path))
    pid = pid_of(backend)
    run = backend.begin_run()
    failed: list[ServingError] = []

    def ask() -> None:
        try:
            backend.infer({"go": np.array([True]), "x": np.ones(1, np.float32)}, [], run)
        except ServingError as error:
            failed.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    wait(lambda: backend._supervised.process()._free.qsize() == 1)  # it is asked
    os.kill(pid, signal.SIGSTOP)  # as a runtime that hangs in a driver
    run.terminate = True
    caller.join(support.PATIENCE_S)
    assert [error.text for error in failed] == ["the model's process ended by SIGKILL while it computed"]
    assert f"process {pid} does not stop a run that nobody waits for, so it is killed" in caplog.text
    wait(lambda: nursery.told == [("m", "SIGKILL")])


def test_golden_inputs_are_put_to_it(nursery, tmp_path) -> None:
    computing = Computing(threads=1, nursery=nursery)
    right = support.write_bundle(tmp_path / "right", "m", "1.0.0", 1.0)
    loaded = loading.load("m", right, computing=computing, check_golden=True)
    assert loaded.golden == 1
    loaded.model.backend.close()
    wrong = support.write_bundle(tmp_path / "wrong", "m", "1.0.0", 1.0, answers=99.0)
    with pytest.raises(Unusable, match="differs from the golden one"):
        loading.load("m", wrong, computing=computing, check_golden=True)


@pytest.mark.parametrize("content", [b"junk", None])
def test_what_cannot_be_loaded_says_the_same(nursery, tmp_path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "model.onnx").write_bytes(content)
    said = []
    for make in (lambda: backends.load(tmp_path, threads=1), lambda: isolated.load(nursery, "m", tmp_path, threads=1)):
        with pytest.raises(Unusable) as caught:
            make()
        said.append((caught.value.code, caught.value.text))
    assert said[0] == said[1]
    assert nursery.told == []


# ── text models ─────────────────────────────────────────────────────────────


def say(backend, **request) -> tuple[str, int, bool]:
    asked = {"messages": ({"role": "user", "content": "hello"},), "max_tokens": 12, "temperature": 0.0} | request
    decoding = backend.begin(TextRequest(**asked))
    try:
        while not decoding.read():
            pass
        pieces = []
        while (piece := decoding.step()) is not None:
            pieces.append((piece, round(decoding.logprob, 6) if asked.get("logprobs") else None))
        return pieces, decoding.prompt_tokens, decoding.truncated
    finally:
        decoding.close()


@pytest.mark.parametrize("kind", ["all", "last"])
def test_a_text_model_says_the_same(load, tiny_text, kind: str) -> None:
    ours, theirs = backends.load(tiny_text[kind], threads=1), load(tiny_text[kind])
    assert (theirs.platform, theirs.logprobs, theirs.adapters) == (ours.platform, ours.logprobs, ours.adapters)
    assert not hasattr(theirs, "infer")
    assert not hasattr(theirs, "generations")
    for request in ({}, {"messages": None, "prompt": "a" * 60}, {"logprobs": True}, {"temperature": 1.5, "seed": 11}):
        assert say(theirs, **request) == say(ours, **request)
    for each in (ours, theirs):
        with pytest.raises(ContextExceeded, match=r"the prompt has 200 tokens"):
            each.begin(TextRequest(prompt="a" * 200))
    ours.close()


def test_two_generations_in_turn_do_not_mix(load, tiny_text) -> None:
    backend = load(tiny_text["all"])
    prompts = ("hello hello", "something else")
    alone = ["".join(piece for piece, _ in say(backend, messages=None, prompt=prompt)[0]) for prompt in prompts]
    decodings = [backend.begin(TextRequest(prompt=each, max_tokens=12, temperature=0.0)) for each in prompts]
    for decoding in decodings:
        while not decoding.read():
            pass
    said = ["", ""]
    for _ in range(12):
        for index, decoding in enumerate(decodings):
            said[index] += decoding.step() or ""
    for decoding in decodings:
        decoding.close()
    assert said == alone


def test_a_generation_whose_process_ends_fails_and_the_next_one_does_not(load, tiny_text) -> None:
    backend = load(tiny_text["all"])
    decoding = backend.begin(TextRequest(prompt="hello", max_tokens=50, temperature=0.0))
    while not decoding.read():
        pass
    decoding.step()
    os.kill(pid_of(backend), signal.SIGKILL)
    wait(lambda: not there_is(decoding._process.pid))
    with pytest.raises(Overloaded, match="the model's process ended by SIGKILL; it is begun again"):
        decoding.step()  # nobody was there to ask
    decoding.close()
    wait(lambda: _answers(lambda: say(backend)))


def _answers(ask) -> bool:
    try:
        ask()
    except Overloaded:
        return False
    return True


# ── ends that nobody asked for ──────────────────────────────────────────────


def test_a_process_that_ends_takes_what_ran_on_it_and_is_begun_again(load, nursery, tmp_path, caplog) -> None:
    backend = load(support.write_endless(tmp_path / "endless"))
    other = load(support.write_add(tmp_path / "add", 1.0))
    first = pid_of(backend)
    forever = {"go": np.array([True]), "x": np.ones(1, np.float32)}
    failed: list[Exception] = []

    def ask() -> None:
        try:
            backend.infer(forever, [])
        except ServingError as error:
            failed.append(error)

    caller = threading.Thread(target=ask)
    caller.start()
    wait(lambda: backend._supervised.process()._free.qsize() == 1)  # it is asked
    os.kill(first, signal.SIGSEGV)
    caller.join(support.PATIENCE_S)
    (error,) = failed
    assert error.text == "the model's process ended by SIGSEGV while it computed"
    assert (error.status, error.cause) == (500, errors.Cause.RUNTIME)
    # It had run for less than a minute, so a second passes; whoever asks meanwhile is told so.
    wait(lambda: nursery.told)
    with pytest.raises(Overloaded, match="the model's process ended by SIGSEGV; it is begun again") as caught:
        backend.infer(forever, [])
    assert caught.value.retry_after_s == 1
    assert other.infer(x(1, 1), [])["y"].tolist() == [[2.0, 2.0]]
    wait(lambda: _answers(lambda: backend.infer(forever | {"go": np.array([False])}, [])))
    assert pid_of(backend) != first
    assert nursery.told == [("m", "SIGSEGV")]
    assert f"m: its process {first} ended by SIGSEGV and is begun again" in caplog.text


def test_one_that_keeps_ending_is_begun_more_and_more_seldom() -> None:
    assert [isolated._pause_s(tries) for tries in range(10)] == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_what_cannot_be_begun_again_is_tried_until_it_can(load, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(isolated, "_pause_s", lambda tries: 0.1 * bool(tries))
    folder = support.write_add(tmp_path / "model", 1.0)
    backend = load(folder)
    (folder / "model.onnx").rename(tmp_path / "aside")
    os.kill(pid_of(backend), signal.SIGKILL)

    def refusal() -> str:
        try:
            backend.infer(x(1, 1), [])
        except ServingError as error:
            return error.text
        return ""

    wait(lambda: "cannot be begun again" in refusal())
    # Another model in its place is none: whoever checked a request did so by the first one's tensors.
    support.write_identity(folder, 1)
    wait(lambda: "its files are another model's" in refusal())
    (tmp_path / "aside").replace(folder / "model.onnx")
    wait(lambda: not refusal())
    assert backend.infer(x(1, 1), [])["y"].tolist() == [[2.0, 2.0]]


def test_a_process_that_says_what_nobody_can_read_is_ended(load, tmp_path) -> None:
    backend = load(support.write_add(tmp_path, 1.0))
    process = backend._supervised.process()
    ours, theirs = socket.socketpair()
    taken = [process._free.get() for _ in range(process._free.qsize())]
    process._free.put(ours)
    theirs.sendall(wire._SIZES.pack(4, 0) + b"junk")
    with theirs, pytest.raises(ServingError, match="ended by SIGKILL"):
        backend.infer(x(1, 1), [])
    ours.close()
    for each in taken:
        process._free.put(each)
    wait(lambda: _answers(lambda: backend.infer(x(1, 1), [])))


def test_one_that_says_so_when_it_is_loaded_is_none(nursery, tmp_path, monkeypatch) -> None:
    def unreadable(*_: object) -> None:
        raise ValueError("no such message")

    monkeypatch.setattr(wire, "receive", unreadable)
    with pytest.raises(Unusable, match="the process that loaded it ended by SIGKILL"):
        isolated.load(nursery, "m", support.write_add(tmp_path, 1.0), threads=1)


def test_closing_returns_when_the_process_is_gone(nursery, tmp_path) -> None:
    backend = isolated.load(nursery, "m", support.write_add(tmp_path, 1.0), threads=1)
    pid = pid_of(backend)
    assert there_is(pid)
    backend.close()
    assert not there_is(pid)
    assert nursery.told == []


def test_a_process_that_does_not_let_go_is_killed(nursery, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(isolated, "_CLOSE_S", 0.2)
    backend = isolated.load(nursery, "m", support.write_add(tmp_path, 1.0), threads=1)
    pid = pid_of(backend)
    os.kill(pid, signal.SIGSTOP)
    backend.close()
    assert not there_is(pid)
    assert "m: its process does not end, so it is killed" in caplog.text


def test_closing_while_it_is_begun_again(nursery, tmp_path, monkeypatch) -> None:
    backend = isolated.load(nursery, "m", support.write_add(tmp_path, 1.0), threads=1)
    os.kill(pid_of(backend), signal.SIGKILL)
    wait(lambda: nursery.told)
    started = time.monotonic()
    monkeypatch.setattr(isolated, "_pause_s", lambda _: 60.0)
    backend.close()
    assert time.monotonic() - started < support.PATIENCE_S


def test_a_nursery_that_is_gone_is_told(tmp_path) -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with ours, pytest.raises(Unusable, match="no process can be had for it"):
        isolated.load(Nursery(ours), "m", support.write_add(tmp_path, 1.0), threads=1)


def test_a_process_with_threads_is_not_forked() -> None:
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    with pytest.raises(RuntimeError, match="with threads"):
        Nursery.fork()
    stop.set()
    other.join()


# ── a server with such models ───────────────────────────────────────────────


def children(pid: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def tree(server: int) -> tuple[int, list[int]]:
    """The nursery, and the models' processes."""
    (nursery,) = children(server)
    return nursery, children(nursery)


@pytest.fixture
def server(tmp_path, running):
    """``server(*options)`` → the process and its port, serving ``add`` and ``more``."""

    def start(*options: str):
        for name, addend in (("add", 1.0), ("more", 2.0)):
            support.write_add(tmp_path / "models" / name / "1", addend)
        port = support.free_port()
        process = support.Process(
            tmp_path,
            *("--repository", str(tmp_path / "models"), "--http", f"127.0.0.1:{port}", "--grpc", "none"),
            *("--isolate", *options),
        )
        running.append(process)
        process.until(lambda: support.answers(port) == 200, "ready")
        return process, port

    return start


def ask(port: int, path: str, body=None):
    return support.ask(http.client.HTTPConnection("127.0.0.1", port, timeout=support.PATIENCE_S), path, body)


def test_a_server_with_a_process_for_each_model(server) -> None:
    process, port = server()
    nursery, models = tree(process.child.pid)
    assert len(models) == 2
    assert {Path(f"/proc/{pid}/comm").read_text().strip() for pid in models} == {"hedgerow-model"}
    for name, sum_ in (("add", 2.0), ("more", 3.0)):
        status, answer = ask(port, f"/v2/models/{name}/infer", ROW)
        assert (status, answer["outputs"][0]["data"]) == (200, [sum_, sum_])
    # Unloaded is gone: the kernel has all of its memory.
    assert ask(port, "/v2/repository/models/add/unload", {})[0] == 200
    (left,) = children(nursery)
    assert ask(port, "/v2/models/more/infer", ROW)[0] == 200
    assert ask(port, "/v2/repository/models/add/load", {})[0] == 200
    assert ask(port, "/v2/models/add/infer", ROW)[0] == 200
    (again,) = set(children(nursery)) - {left}
    os.kill(again, signal.SIGABRT)
    process.until(lambda: "its process" in process.log, "told of")
    process.until(lambda: ask(port, "/v2/models/add/infer", ROW)[0] == 200, "begun again")
    told = 'hedgerow_server_model_process_ends_total{how="SIGABRT",model="add"} 1.0'
    assert told in ask(port, "/metrics")[1]
    # As a terminal's Ctrl-C and systemd do it, to all of them.
    pids = [nursery, *children(nursery)]
    for pid in (*pids, process.child.pid):
        os.kill(pid, signal.SIGTERM)
    assert process.wait() == 0
    wait(lambda: not any(there_is(pid) for pid in pids))


def test_nothing_outlives_a_server_that_is_killed(server) -> None:
    process, _ = server()
    nursery, models = tree(process.child.pid)
    process.signal(signal.SIGKILL)
    process.wait()
    wait(lambda: not any(there_is(pid) for pid in (nursery, *models)))


def test_what_a_model_takes_is_measured_in_its_process(server) -> None:
    process, port = server("--memory-budget", "4000")
    assert tree(process.child.pid)[1] == []
    assert ask(port, "/v2/models/add/infer", ROW)[0] == 200
    lines = ask(port, "/metrics")[1].splitlines()
    (taken,) = [float(line.split()[-1]) for line in lines if line.startswith("hedgerow_server_model_memory_bytes{")]
    # Python's half of onnxruntime, for a graph of a hundred bytes.
    assert 2 << 20 < taken < 200 << 20


def test_a_device_has_it_where_its_configuration_says_so(tmp_path, unit_ca, running) -> None:
    support.write_bundle(tmp_path / "models" / "assistant" / "1.0.0", "assistant", "1.0.0", 1.0)
    support.write_bundle(tmp_path / "models" / "assistant" / "2.0.0", "assistant", "2.0.0", 2.0)
    device = support.start_device(tmp_path, unit_ca, isolate=True)
    running.append(device.process)
    device.process.until(lambda: support.answers(device.http) == 200, "ready")
    nursery, (model,) = tree(device.process.child.pid)
    assert device.plain("/v2/models/assistant/infer", ROW)[1]["outputs"][0]["data"] == [2.0, 2.0]
    assert device.control("prepare", "2.0.0")[0] == 200
    assert len(children(nursery)) == 2
    assert device.control("switch", "2.0.0")[0] == 200
    assert device.plain("/v2/models/assistant/infer", ROW)[1]["outputs"][0]["data"] == [3.0, 3.0]
    device.process.until(lambda: not there_is(model), "the old one is gone")


def test_by_default_models_are_in_the_servers_process() -> None:
    text = b"host: pi-1\nserial: '10000000aabbccdd'\nfleet: copse\nsite: north\nmodel: m\n"
    assert config.decode(text, where="server.yml").isolate is False
    assert config.decode(text + b"isolate: true\n", where="server.yml").isolate is True
    assert Computing().nursery is None
