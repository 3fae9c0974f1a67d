"""Tensor requests on real threads: bounds, fairness, deadlines, batches."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import types
import weakref

import numpy as np
import pytest
import server_support as support
from server_support import served

from hedgerow.registry.manifest import GoldenTensor, GoldenTensors
from hedgerow.server import golden
from hedgerow.server import workers as workers_module
from hedgerow.server.backends import TensorSpec
from hedgerow.server.backends.onnx import OnnxBackend
from hedgerow.server.batching import Batching
from hedgerow.server.errors import BadRequest, Busy, DeadlineExceeded, Overloaded
from hedgerow.server.pace import PROOF
from hedgerow.server.progress import Progress
from hedgerow.server.workers import Workers

TOGETHER = Batching(max_batch=8)


class Adder:
    """``y = x + 1`` once ``gate`` lets it; a negative value is refused. ``runs`` holds the rows of each run."""

    platform = "test"
    inputs = (TensorSpec("x", "FP32", (-1, 2)),)
    outputs = (TensorSpec("y", "FP32", (-1, 2)),)

    def __init__(self, gate: threading.Semaphore | None = None) -> None:
        self.gate = gate
        self.runs: list[int] = []
        self.order: list[float] = []
        self.closed = False
        self.begun = threading.Event()

    def infer(self, inputs, outputs):
        del outputs
        self.begun.set()
        if self.gate is not None:
            assert self.gate.acquire(timeout=support.PATIENCE_S)
        x = inputs["x"]
        self.runs.append(x.shape[0])
        self.order.extend(x[:, 0].tolist())
        if (x < 0).any():
            raise BadRequest(f"negative: {x.tolist()}")
        return {"y": x + 1}

    def close(self) -> None:
        self.closed = True


def rows(value: float, count: int = 1) -> dict[str, np.ndarray]:
    return {"x": np.full((count, 2), value, np.float32)}


def run(work, **options):
    """``await work(workers)``."""

    async def main():
        workers = Workers(**{"threads": 1, "queue": 8, **options})
        try:
            return await asyncio.wait_for(work(workers), support.PATIENCE_S)
        finally:
            await asyncio.to_thread(workers.close)

    return asyncio.run(main())


async def eventually(condition) -> None:
    async with asyncio.timeout(support.PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what a thread counts
            await asyncio.sleep(0.005)


def ask(workers: Workers, model, value: float, count: int = 1, **options) -> asyncio.Task:
    return asyncio.create_task(workers.infer(model, rows(value, count), [], **options))


@pytest.mark.parametrize("batching", [Batching(), TOGETHER])
@pytest.mark.parametrize("gone", ["answered", "refused", "left"])
def test_a_request_is_forgotten_with_its_answer(gone: str, batching: Batching) -> None:
    """Not when Python's collector next looks for what refers to each other: sixteen callers' bodies are megabytes."""
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model, forgotten = served(backend), []
        for value in (1, 2):
            inputs = rows(-value if gone == "refused" else value)
            forgotten.append(weakref.ref(inputs["x"]))
            asked = asyncio.create_task(workers.infer(model, inputs, [], batching=batching))
            del inputs
            await support.until(backend.begun.is_set)
            backend.begun.clear()
            if gone == "left":
                asked.cancel()
            backend.gate.release()
            await asyncio.wait([asked])
            assert asked.cancelled() if gone == "left" else bool(asked.exception()) == (gone == "refused")
            await support.until(lambda: workers.running == 0)
            del asked
        await support.until(lambda: not any(each() is not None for each in forgotten))

    gc.collect()
    gc.disable()
    try:
        run(work)
    finally:
        gc.enable()


def test_a_slow_model_keeps_nobody_else_waiting() -> None:
    """Its threads stand still and its queue is full: the other model answers at once."""
    slow, quick = Adder(threading.Semaphore(0)), Adder()

    async def work(workers: Workers) -> None:
        stuck = [ask(workers, served(slow, "slow"), 0) for _ in range(9)]
        await support.until(lambda: workers.running == 1 and workers.queue_depth == 8)
        with pytest.raises(Busy, match="8 requests wait already"):
            await workers.infer(served(slow, "slow"), rows(0), [])
        for _ in range(20):
            assert (await workers.infer(served(quick, "quick"), rows(1), []))["y"].tolist() == [[2.0, 2.0]]
        assert not any(each.done() for each in stuck)
        slow.gate.release(9)
        await asyncio.gather(*stuck)

    run(work)


def test_who_is_more_urgent_goes_first_and_equals_in_turn() -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        first = ask(workers, model, 0)
        await support.until(lambda: workers.running == 1)
        others = [ask(workers, model, value, priority=int(value) % 4) for value in (3, 2, 1, 5, 0, 7)]
        await asyncio.sleep(0)
        backend.gate.release(10)
        await asyncio.gather(first, *others)

    run(work)
    assert backend.order == [0, 1, 5, 2, 0, 3, 7]  # 0 names no priority: as 2


def test_past_its_deadline_what_waits_is_dropped_and_what_runs_is_answered() -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        running = ask(workers, model, 1, timeout_s=0.05)
        await support.until(lambda: workers.running == 1)
        waiting = ask(workers, model, 2, timeout_s=0.05)
        for late in (running, waiting):
            with pytest.raises(DeadlineExceeded, match=r"not done within 0\.05 s") as caught:
                await late
            assert caught.value.status == 504
        assert (workers.running, workers.queue_depth) == (1, 0)
        backend.gate.release(5)
        await support.until(lambda: workers.running == 0)
        assert (await workers.infer(model, rows(3), []))["y"].tolist() == [[4.0, 4.0]]

    run(work)
    assert backend.order == [1, 3]


def test_who_leaves_while_it_waits_is_never_computed_and_makes_room() -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        first = ask(workers, model, 0)
        await support.until(lambda: workers.running == 1)
        leaving = ask(workers, model, 1)
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await workers.infer(model, rows(2), [])
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        staying = ask(workers, model, 3)
        backend.gate.release(5)
        await asyncio.gather(first, staying)

    run(work, queue=1)
    assert backend.order == [0, 3]


def test_a_model_is_held_until_its_thread_is_done_with_it() -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        running = ask(workers, model, 0)
        await support.until(lambda: workers.running == 1)
        model.retire()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        assert not backend.closed
        backend.gate.release()
        assert await asyncio.to_thread(model.wait_closed, support.PATIENCE_S)

    run(work)


def test_what_waits_together_runs_together_and_each_gets_his_own() -> None:
    backend = Adder(threading.Semaphore(0))
    told: list[int] = []

    async def work(workers: Workers) -> None:
        model = served(backend)
        calls = [ask(workers, model, 0, batching=TOGETHER)]
        await support.until(lambda: workers.running == 1)
        calls += [ask(workers, model, value, count=value, batching=TOGETHER) for value in (1, 2, 3)]
        await asyncio.sleep(0)
        backend.gate.release(10)
        for value, answer in enumerate(await asyncio.gather(*calls)):
            assert answer["y"].tolist() == [[value + 1.0] * 2] * max(1, value)

    run(work, on_batch=lambda _model, count: told.append(int(count)))
    assert backend.runs == told == [1, 6]


def test_the_first_waits_for_others_as_long_as_the_model_says() -> None:
    backend = Adder()

    async def work(workers: Workers) -> None:
        model = served(backend)
        long = ask(workers, model, 1, batching=Batching(max_batch=2, max_delay_s=30.0))
        await asyncio.sleep(0.02)
        assert (backend.runs, workers.running) == ([], 0)
        await asyncio.gather(long, ask(workers, model, 2, batching=Batching(max_batch=2, max_delay_s=30.0)))
        assert backend.runs == [2]
        await ask(workers, model, 3, batching=Batching(max_batch=2, max_delay_s=0.01))

    run(work)
    assert backend.runs == [2, 1]


def test_two_versions_never_share_a_batch() -> None:
    old, new = Adder(threading.Semaphore(0)), Adder()

    async def work(workers: Workers) -> None:
        before, after = served(old, version="1"), served(new, version="2")
        calls = [ask(workers, before, 0, batching=TOGETHER)]
        await support.until(lambda: workers.running == 1)
        calls += [ask(workers, model, 1, batching=TOGETHER) for model in (before, after, before, after)]
        await asyncio.sleep(0)
        old.gate.release(10)
        await asyncio.gather(*calls)

    run(work)
    assert (old.runs, new.runs) == ([1, 2], [2])


def test_what_is_wrong_with_one_is_answered_to_him_alone() -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        calls = [ask(workers, model, 0, batching=TOGETHER)]
        await support.until(lambda: workers.running == 1)
        calls += [ask(workers, model, value, batching=TOGETHER) for value in (1, -5, 3)]
        await asyncio.sleep(0)
        backend.gate.release(10)
        _, one, refused, three = await asyncio.gather(*calls, return_exceptions=True)
        assert (one["y"].tolist(), three["y"].tolist()) == ([[2.0, 2.0]], [[4.0, 4.0]])
        assert isinstance(refused, BadRequest)
        assert str(refused) == "negative: [[-5.0, -5.0]]"

    run(work)


def test_outputs_that_are_no_batch_are_computed_one_by_one() -> None:
    class Summing(Adder):
        def infer(self, inputs, outputs):
            return {"y": super().infer(inputs, outputs)["y"].sum(keepdims=True)}

    backend = Summing(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        calls = [ask(workers, model, 0, batching=TOGETHER)]
        await support.until(lambda: workers.running == 1)
        calls += [ask(workers, model, value, batching=TOGETHER) for value in (1, 2)]
        await asyncio.sleep(0)
        backend.gate.release(10)
        assert [answer["y"].tolist() for answer in await asyncio.gather(*calls)] == [[[2.0]], [[4.0]], [[6.0]]]

    run(work)
    assert backend.runs == [1, 2, 1, 1]


def test_how_long_to_stay_away_grows_with_what_waits(monkeypatch) -> None:
    backend = Adder(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        clock = [time.perf_counter_ns()]
        monkeypatch.setattr(
            workers_module, "time", types.SimpleNamespace(**{**vars(time), "perf_counter_ns": lambda: clock[0]})
        )
        calls = [ask(workers, model, 0)]
        await support.until(backend.begun.is_set)
        clock[0] += 10 * 10**9  # the first run takes ten seconds of this clock
        backend.gate.release()
        await asyncio.gather(*calls)
        calls = [ask(workers, model, 0) for _ in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(Busy) as caught:
            await workers.infer(model, rows(0), [])
        assert caught.value.retry_after_s == 20
        backend.gate.release(10)
        await asyncio.gather(*calls)

    run(work, queue=2)


def test_a_thread_that_has_done_one_takes_the_next_itself() -> None:
    """Nobody lets the event loop run in between."""
    last = threading.Event()

    class Telling(Adder):
        def infer(self, inputs, outputs):
            answer = super().infer(inputs, outputs)
            if len(self.runs) == 4:
                last.set()
            return answer

    backend = Telling(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        calls = [ask(workers, model, value) for value in range(4)]
        await support.until(lambda: workers.running == 1)
        backend.gate.release(4)
        assert last.wait(support.PATIENCE_S)
        assert not any(call.done() for call in calls)
        answers = await asyncio.gather(*calls)
        assert [answer["y"][0, 0] for answer in answers] == [1, 2, 3, 4]
        assert (workers.running, workers.queue_depth) == (0, 0)
        assert (model.statistics.executions, model.statistics.queue.count) == (4, 4)

    run(work)


class Quick(Adder):
    """Computes on the thread that calls; ``where`` are these."""

    inline = True

    def __init__(self, gate: threading.Semaphore | None = None) -> None:
        super().__init__(gate)
        self.where: list[int] = []

    def infer(self, inputs, outputs):
        self.where.append(threading.get_ident())
        return super().infer(inputs, outputs)


def proven(backend: Adder):
    """A model whose runs on one row have been quick."""
    model = served(backend)
    for _ in range(PROOF):
        model.pace.ran(rows(0)["x"].nbytes, 0)
    return model


def test_a_quick_model_runs_on_the_event_loop_and_is_told_of_alike() -> None:
    backend = Quick()
    told: list[int] = []

    async def work(workers: Workers) -> None:
        model, progress = proven(backend), Progress()
        assert (await workers.infer(model, rows(1), [], progress=progress))["y"].tolist() == [[2.0, 2.0]]
        assert backend.where == [threading.get_ident()]
        assert (progress.began is not None, progress.rows) == (True, 1)
        figures = model.statistics
        assert (figures.executions, figures.rows, figures.queue.count, figures.compute.count) == (1, 1, 1, 1)
        with pytest.raises(BadRequest, match="negative"):
            await workers.infer(model, rows(-1), [])
        assert (workers.running, workers.queue_depth, figures.executions) == (0, 0, 2)

    run(work, on_batch=lambda _model, count: told.append(count))
    assert told == [1, 1]


def test_what_is_larger_or_may_wait_for_others_or_says_nothing_runs_on_a_thread() -> None:
    backend, other = Quick(), Adder()

    async def work(workers: Workers) -> None:
        model = proven(backend)
        await workers.infer(model, rows(1, count=2), [])
        await workers.infer(model, rows(1), [], batching=TOGETHER)
        await workers.infer(proven(other), rows(1), [])
        assert threading.get_ident() not in backend.where
        assert len(backend.where) == 2

    run(work)


def test_a_caller_who_never_waits_does_not_have_the_event_loop_for_himself() -> None:
    async def work(workers: Workers) -> None:
        model, others_turn = proven(Quick()), asyncio.Event()
        asyncio.get_running_loop().call_soon(others_turn.set)
        for _ in range(100):
            await workers.infer(model, rows(1), [])
        assert others_turn.is_set()

    run(work)


def test_nobody_who_waits_is_overtaken_on_the_event_loop() -> None:
    backend = Quick(threading.Semaphore(0))

    async def work(workers: Workers) -> None:
        model = served(backend)
        calls = [ask(workers, model, 0)]
        await support.until(lambda: workers.running == 1)
        calls.append(ask(workers, model, 1))
        await support.until(lambda: workers.queue_depth == 1)
        for _ in range(PROOF):
            model.pace.ran(rows(0)["x"].nbytes, 0)
        calls.append(ask(workers, model, 2))
        await support.until(lambda: workers.queue_depth == 2)
        backend.gate.release(3)
        await asyncio.gather(*calls)

    run(work)
    assert backend.order == [0, 1, 2]


@pytest.fixture
def endless(tmp_path):
    backend = OnnxBackend(support.write_endless(tmp_path) / "model.onnx", threads=1)
    yield backend
    backend.close()


def go(*, on: bool):
    return {"go": np.array([on]), "x": np.ones(1, np.float32)}


def test_past_its_deadline_what_runs_is_stopped_and_its_place_is_free(endless) -> None:
    model = served(endless)

    async def work(workers: Workers):
        with pytest.raises(DeadlineExceeded):
            await workers.infer(model, go(on=True), [], timeout_s=0.2)
        left = asyncio.create_task(workers.infer(model, go(on=True), []))
        await eventually(lambda: workers.running == 1)
        left.cancel()
        # One thread: it answers only once both have ended.
        answer = await workers.infer(model, go(on=False), [])
        await eventually(lambda: workers.running == 0)
        return answer

    assert run(work)["y"].tolist() == [1.0]


def test_a_golden_input_that_is_never_answered_is_a_wrong_one(endless, monkeypatch) -> None:
    monkeypatch.setattr(golden, "WITHIN_S", 0.2)
    x, y = GoldenTensor("x", (1,), (1.0,)), GoldenTensor("y", (1,), (1.0,))
    asked = {on: GoldenTensors((GoldenTensor("go", (1,), (on,)), x), (y,), atol=0.0, rtol=0.0) for on in (False, True)}
    assert golden.failures(types.SimpleNamespace(golden=(asked[False],)), endless) == []
    with pytest.raises(BadRequest, match="terminate flag"):
        golden.failures(types.SimpleNamespace(golden=(asked[True],)), endless)


def test_past_its_deadline_an_answer_of_the_event_loop_is_none_either(monkeypatch) -> None:
    clock = [0]

    class Late(Quick):
        def infer(self, inputs, outputs):
            clock[0] += 10**9
            return super().infer(inputs, outputs)

    async def work(workers: Workers) -> None:
        monkeypatch.setattr(
            workers_module, "time", types.SimpleNamespace(**{**vars(time), "perf_counter_ns": lambda: clock[0]})
        )
        model = proven(Late())
        assert await workers.infer(model, rows(1), [], timeout_s=1.0)
        with pytest.raises(DeadlineExceeded, match=r"not done within 0\.9 s"):
            await workers.infer(model, rows(1), [], timeout_s=0.9)

    run(work)


def test_stopping_ends_what_waits() -> None:
    backend = Adder(threading.Semaphore(0))

    async def main() -> None:
        workers = Workers(threads=1, queue=8)
        model = served(backend)
        calls = [ask(workers, model, value) for value in range(3)]
        await support.until(backend.begun.is_set)
        closing = asyncio.create_task(asyncio.to_thread(workers.close))
        await support.until(calls[2].done)
        backend.gate.release()
        await closing
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert answers[0]["y"].tolist() == [[1.0, 1.0]]
        assert all(isinstance(answer, Overloaded) and answer.status == 503 for answer in answers[1:])

    asyncio.run(asyncio.wait_for(main(), support.PATIENCE_S))
    assert backend.order == [0]
