from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing

import pytest
import server_support as support
from server_support import Script, served

from hedgerow.server.backends import TextRequest
from hedgerow.server.errors import BadRequest, Busy, DeadlineExceeded, Overloaded, ServingError
from hedgerow.server.scheduler import Scheduler


@pytest.fixture
def scheduler():
    scheduler = Scheduler(active=2, queue=2)
    yield scheduler
    scheduler.close()


@pytest.fixture
def single():
    """One place: whoever comes while a token is made can only wait."""
    scheduler = Scheduler(active=1, queue=3)
    yield scheduler
    scheduler.close()


async def everything(scheduler: Scheduler, model, **request) -> tuple[str, object]:
    pieces = [piece async for batch in scheduler.generate(model, TextRequest(**request)) for piece in batch]
    return "".join(piece.text for piece in pieces), pieces[-1]


def run(work):
    return asyncio.run(asyncio.wait_for(work, support.PATIENCE_S))


@pytest.mark.parametrize(
    "script, request_, answer",
    [
        (Script(["a", "b", "c"]), {}, ("abc", "stop", 3)),
        (Script(["a", "b", "c"]), {"max_tokens": 2}, ("ab", "length", 2)),
        (Script(["a", "b"], truncated=True), {}, ("ab", "length", 2)),
        (Script(["a", "", "b"]), {}, ("ab", "stop", 3)),
        (Script(["He", "llo wor", "ld"]), {"stop": ("lo w",)}, ("Hel", "stop", 2)),
        (Script(["x", "EN"]), {"stop": ("END",)}, ("xEN", "stop", 2)),
        (Script(["x", "EN", "y"]), {"stop": ("END",), "max_tokens": 2}, ("xEN", "length", 2)),
        (Script([]), {}, ("", "stop", 0)),
    ],
)
def test_how_answers_end(scheduler, script, request_, answer) -> None:
    said, last = run(everything(scheduler, served(script), **request_))
    assert (said, last.finish, last.tokens) == answer
    assert last.prompt_tokens == 7
    assert script.open == 0


def test_two_take_turns_and_a_long_prompt_does_not_stop_the_other(scheduler) -> None:
    script = Script(["x"] * 4, prompt_parts=3, gate=threading.Semaphore(0))
    together, begin = threading.Event(), script.begin
    # Neither gets ahead while the other is still on its way.
    script.begin = lambda request: begin(request) if together.wait(support.PATIENCE_S) else None

    async def both() -> None:
        model = served(script)
        work = [asyncio.create_task(everything(scheduler, model)) for _ in range(2)]
        await support.until(lambda: scheduler.active + scheduler.queue_depth == 2)
        together.set()
        # Both prompts are read, except for the last part of one that came a round later.
        await support.until(lambda: len(script.log) >= 5)
        script.gate.release(20)
        await asyncio.gather(*work)

    run(both())
    turns = [entry for entry in script.log if "step" in entry]
    # The first step of all may have been made in the round before.
    assert turns[1:7] in (["1:step", "2:step"] * 3, ["2:step", "1:step"] * 3)


def test_a_caller_who_leaves_stops_it_within_a_token(scheduler) -> None:
    script = Script(["x"] * 100, gate=threading.Semaphore(0))

    async def leave() -> None:
        async with aclosing(scheduler.generate(served(script), TextRequest())) as batches:
            script.gate.release()
            await anext(batches)
        script.gate.release(100)
        await support.until(lambda: not script.open)

    run(leave())
    assert script.steps <= 2


def test_what_is_over_the_bound_is_refused_and_those_who_left_make_room(single) -> None:
    scheduler = single
    script = Script(["x"], gate=threading.Semaphore(0))

    async def fill() -> None:
        model = served(script)
        work = [asyncio.create_task(everything(scheduler, model))]
        await support.until(lambda: scheduler.active == 1)
        work += [asyncio.create_task(everything(scheduler, model)) for _ in range(3)]
        await asyncio.sleep(0)
        assert scheduler.queue_depth == 3
        with pytest.raises(Busy, match="3 requests wait already") as caught:
            await everything(scheduler, model)
        assert caught.value.retry_after_s >= 1
        work.pop().cancel()
        await asyncio.sleep(0)
        work.append(asyncio.create_task(everything(scheduler, model)))
        await asyncio.sleep(0)
        script.gate.release(100)
        assert [text for text, _ in await asyncio.gather(*work)] == ["x"] * 4

    run(fill())


def test_a_runtime_that_breaks_ends_one_answer_and_not_the_thread(scheduler) -> None:
    broken = Script(["a", "b"], fails_at=1)

    async def both() -> str:
        with pytest.raises(ServingError, match="generation failed: the runtime broke") as caught:
            await everything(scheduler, served(broken))
        assert caught.value.status == 500
        return (await everything(scheduler, served(Script(["fine"]))))[0]

    assert run(both()) == "fine"
    assert broken.open == 0


def test_what_was_said_before_it_broke_is_delivered_first(scheduler) -> None:
    script = Script(["a", "b"], fails_at=2)

    async def listen() -> list[str]:
        said = []
        try:
            async for batch in scheduler.generate(served(script), TextRequest()):
                said += [piece.text for piece in batch]
        except ServingError:
            return [*said, "and it broke"]
        return said

    assert run(listen()) == ["a", "b", "and it broke"]


def test_a_prompt_that_is_refused(scheduler) -> None:
    class Refusing(Script):
        def begin(self, request):
            raise BadRequest("too long", field="messages")

    with pytest.raises(BadRequest, match="too long"):
        run(everything(scheduler, served(Refusing([]))))


def test_pieces_that_are_ready_together_come_together(scheduler) -> None:
    script = Script(["x"] * 50, gate=threading.Semaphore(0))

    async def slowly() -> list[int]:
        sizes = []
        async for batch in scheduler.generate(served(script), TextRequest()):
            sizes.append(len(batch))
            script.gate.release(60)
            await support.until(lambda: not script.open)  # the reader is busy until all of it is said
        return sizes

    async def main() -> list[int]:
        script.gate.release()
        return await slowly()

    sizes = run(main())
    assert len(sizes) == 2
    assert sum(sizes) == 51  # and the last piece, which says how it ended


def test_a_model_is_closed_when_its_last_generation_is_and_not_before(scheduler) -> None:
    script = Script(["x"] * 10, gate=threading.Semaphore(0))
    model = served(script)

    async def leave_while_it_runs() -> None:
        async with aclosing(scheduler.generate(model, TextRequest())) as batches:
            script.gate.release()
            await anext(batches)
            model.retire()
        assert not script.closed.is_set()  # the thread waits inside of a step
        script.gate.release(10)
        await asyncio.to_thread(model.wait_closed, support.PATIENCE_S)

    run(leave_while_it_runs())
    assert script.closed.is_set()


def test_stopping_ends_what_runs_with_an_error() -> None:
    scheduler = Scheduler(active=1, queue=2)
    script = Script(["x"] * 1000)

    async def stop() -> None:
        work = [asyncio.create_task(everything(scheduler, served(script), max_tokens=10**6)) for _ in range(2)]
        await asyncio.sleep(0)
        script.gate = threading.Semaphore(0)
        closing = asyncio.create_task(asyncio.to_thread(scheduler.close))
        await support.until(lambda: scheduler._closing)
        script.gate.release(2000)
        await closing
        results = await asyncio.gather(*work, return_exceptions=True)
        assert any(isinstance(result, Overloaded) for result in results)
        with pytest.raises(Overloaded, match="stopping"):
            await everything(scheduler, served(script))

    run(stop())
    assert script.open == 0


def test_as_many_as_there_is_room_for_may_come_at_once() -> None:
    """Two may run and two may wait: whoever asks again when its answer has come is never refused."""
    scheduler = Scheduler(active=2, queue=2)

    async def again(model) -> None:
        for _ in range(200):
            assert (await everything(scheduler, model))[0] == "xy"

    async def main() -> None:
        model = served(Script(["x", "y"]))
        await asyncio.gather(*(again(model) for _ in range(4)))

    try:
        run(main())
    finally:
        scheduler.close()


def test_a_slow_model_takes_no_turn_from_another(single) -> None:
    """Its thread stands still within a token and its queue is full: the other model answers all the same."""
    scheduler = single
    slow = Script(["x"], gate=threading.Semaphore(0))

    async def both() -> None:
        model = served(slow, "slow")
        stuck = [asyncio.create_task(everything(scheduler, model)) for _ in range(4)]
        await support.until(lambda: scheduler.active == 1 and scheduler.queue_depth == 3)
        with pytest.raises(Busy):
            await everything(scheduler, model)
        for _ in range(5):
            assert (await everything(scheduler, served(Script(["quick"]), "other")))[0] == "quick"
        slow.gate.release(100)
        await asyncio.gather(*stuck)

    run(both())


def test_who_is_more_urgent_begins_first() -> None:
    scheduler = Scheduler(active=1, queue=8)
    script = Script(["x"], gate=threading.Semaphore(0))

    async def main() -> None:
        model = served(script)
        work = [asyncio.create_task(everything(scheduler, model, prompt="first"))]
        await support.until(lambda: scheduler.active == 1)
        for prompt, priority in (("low", 3), ("usual", 0), ("high", 1), ("usual too", 2)):
            work.append(asyncio.create_task(everything(scheduler, model, prompt=prompt, priority=priority)))
            await asyncio.sleep(0)
        script.gate.release(100)
        await asyncio.gather(*work)

    try:
        run(main())
    finally:
        scheduler.close()
    assert [request.prompt for request in script.begun] == ["first", "high", "usual", "usual too", "low"]


def test_past_its_deadline_a_generation_ends_and_one_that_waits_never_begins() -> None:
    scheduler = Scheduler(active=1, queue=8)
    script = Script(["x"] * 100, gate=threading.Semaphore(0))

    async def main() -> None:
        model = served(script)
        work = [asyncio.create_task(everything(scheduler, model, timeout_s=0.05)) for _ in range(2)]
        says = ["before its end: 0 tokens were made", "before its turn"]
        for task, text in zip(work, says, strict=True):
            with pytest.raises(DeadlineExceeded, match=text) as caught:
                await task
            assert caught.value.status == 504
        script.gate.release(1000)
        await support.until(lambda: not script.open and not scheduler.queue_depth)
        assert (await everything(scheduler, model, max_tokens=2))[0] == "xx"

    try:
        run(main())
    finally:
        scheduler.close()
    assert len(script.begun) == 2
    assert script.steps <= 1 + 2


def test_a_model_that_waits_for_nothing_has_no_thread(scheduler) -> None:
    assert run(everything(scheduler, served(Script(["a"]), "short-lived")))[0] == "a"
    support.wait(lambda: not any(thread.name == "generate-short-lived" for thread in threading.enumerate()))
    assert run(everything(scheduler, served(Script(["b"]), "short-lived")))[0] == "b"
