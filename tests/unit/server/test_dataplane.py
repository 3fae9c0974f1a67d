from __future__ import annotations

import asyncio

import numpy as np
import pytest
import server_support as support

from hedgerow.server.config import Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import BadRequest, Draining, NotFound, Overloaded, Starting, Unusable
from hedgerow.server.inference import InferRequest

ONE = InferRequest("assistant", {"x": np.ones((1, 2), np.float32)})


def with_plane(work, folder, **options) -> None:
    async def main() -> None:
        plane = DataPlane(folder, **options)
        try:
            await asyncio.wait_for(work(plane), support.PATIENCE_S)
        finally:
            await plane.close()

    asyncio.run(main())


@pytest.fixture
def folder(tmp_path):
    for name in ("assistant", "other"):
        support.write_bundle(tmp_path / name / "1.0.0", name, "1.0.0", 1.0)
        support.write_bundle(tmp_path / name / "2.0.0", name, "2.0.0", 2.0)
    (tmp_path / "assistant" / "current").symlink_to("1.0.0")
    return tmp_path


def test_a_device_serves_one_name_and_another_changes_nothing(folder) -> None:
    async def work(plane: DataPlane) -> None:
        assert not plane.ready()
        assert await plane.open_current()
        assert plane.ready()
        with pytest.raises(Unusable, match="this server serves assistant, not other") as caught:
            await plane.prepare("other", "1.0.0")
        assert caught.value.code == "other_model"
        with pytest.raises(BadRequest, match="was not prepared"):
            await plane.switch("other", "1.0.0")
        await plane.discard("other")
        assert plane.ready()
        assert plane.names == ["assistant"]
        assert not plane.ready("other")

    with_plane(work, folder, model="assistant")


def test_a_prepared_version_and_its_discard_leave_readiness_alone(folder) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        done = await plane.prepare("assistant", "2.0.0")
        assert done.golden == 1
        assert plane.ready()
        prepared = plane.prepared("assistant")
        await plane.discard("assistant")
        assert plane.ready()
        assert await asyncio.to_thread(prepared.wait_closed, support.PATIENCE_S)
        with pytest.raises(BadRequest, match="was not prepared"):
            await plane.switch("assistant", "2.0.0")

    with_plane(work, folder, model="assistant")


def test_whoever_is_sent_away_by_a_start_or_a_drain_says_nothing_of_the_release(folder) -> None:
    link = folder / "assistant" / "current"
    before = link.readlink()
    link.unlink()

    async def work(plane: DataPlane) -> None:
        with pytest.raises(Starting):
            await plane.infer(ONE, protocol="t")
        link.symlink_to(before)
        assert await plane.open_current()
        plane.stopping = True
        with pytest.raises(Draining):
            await plane.infer(ONE, protocol="t")
        plane.stopping = False
        assert plane.serving_figures(restarts=None).requests == 0
        with pytest.raises(BadRequest):
            await plane.infer(InferRequest("assistant", {}), protocol="t")
        await plane.infer(ONE, protocol="t")
        figures = plane.serving_figures(restarts=None)
        assert (figures.requests, figures.errors) == (2, 0)

    with_plane(work, folder, model="assistant")


def test_a_first_model_comes_by_activation(folder) -> None:
    (folder / "assistant" / "current").unlink()

    async def work(plane: DataPlane) -> None:
        assert not await plane.open_current()
        assert plane.error("assistant") is None
        with pytest.raises(Overloaded, match="no model is in service here yet"):
            plane.served("assistant")
        await plane.prepare("assistant", "1.0.0")
        assert not plane.ready()
        serving, before = await plane.switch("assistant", "1.0.0")
        assert (serving.version, before, plane.ready()) == ("1.0.0", None, True)

    with_plane(work, folder, model="assistant")


def test_a_folder_serves_all_and_is_ready_when_all_are(folder) -> None:
    async def work(plane: DataPlane) -> None:
        assert not plane.ready()
        await plane.load("other")
        assert not plane.ready()
        await plane.open_repository()
        assert plane.ready()
        support.write_add(folder / "third" / "1", 3.0)
        (folder / "third" / "1" / "model.onnx").write_bytes(b"junk")
        with pytest.raises(Unusable, match="third cannot be served: 1: "):
            await plane.load("third")
        assert plane.ready()
        assert not plane.ready("third")

    with_plane(work, folder)


def test_an_unreadable_manifest_is_the_models_fault(folder) -> None:
    (folder / "assistant" / "1.0.0" / "manifest.json").write_text("{")

    async def work(plane: DataPlane) -> None:
        assert not await plane.open_current()
        assert "manifest is not valid" in (plane.error("assistant") or "")

    with_plane(work, folder, model="assistant")


def test_a_golden_input_that_the_model_cannot_take(folder) -> None:
    home = folder / "assistant" / "2.0.0"
    graph = support.helper.make_node("Identity", ["q"], ["r"])
    sides = [[(name, support.TensorProto.FLOAT, ["n", 2])] for name in "qr"]
    golden = support.manifests.decode((home / "manifest.json").read_bytes(), where="x").golden
    support.write_graph(home, [graph], *sides)
    support.write_manifest(home, "assistant", "2.0.0", golden)

    async def work(plane: DataPlane) -> None:
        with pytest.raises(Unusable, match="a golden input could not be put to it") as caught:
            await plane.prepare("assistant", "2.0.0")
        assert caught.value.code == "golden_failed"

    with_plane(work, folder, model="assistant")


def test_a_request_ends_on_the_version_it_began_with(folder) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        old = plane.served("assistant")
        entered, go = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        infer = old.backend.infer

        def slow(*arguments):
            loop.call_soon_threadsafe(entered.set)
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(support.PATIENCE_S)
            return infer(*arguments)

        old.backend.infer = slow
        running = asyncio.create_task(plane.infer(ONE, protocol="t"))
        await entered.wait()
        await plane.prepare("assistant", "2.0.0")
        await plane.switch("assistant", "2.0.0")
        assert not old.wait_closed(0)
        fresh = await plane.infer(ONE, protocol="t")
        go.set()
        result = await running
        assert (result.version, result.outputs["y"].tolist()) == ("1.0.0", [[2.0, 2.0]])
        assert (fresh.version, fresh.outputs["y"].tolist()) == ("2.0.0", [[3.0, 3.0]])
        assert await asyncio.to_thread(old.wait_closed, support.PATIENCE_S)

    with_plane(work, folder, model="assistant")


def test_a_caller_who_leaves_frees_no_thread_that_still_computes(folder) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_current()
        model = plane.served("assistant")
        go = asyncio.Event()
        loop = asyncio.get_running_loop()
        infer = model.backend.infer

        def slow(*arguments):
            asyncio.run_coroutine_threadsafe(go.wait(), loop).result(support.PATIENCE_S)
            return infer(*arguments)

        model.backend.infer = slow
        tasks = [asyncio.create_task(plane.infer(ONE, protocol="t")) for _ in range(2)]
        await support.until(lambda: plane._workers.running == 2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert plane._workers.running == 2
        with pytest.raises(Overloaded):
            await plane.infer(ONE, protocol="t")
        go.set()
        await support.until(lambda: plane._workers.running == 0)
        assert (await plane.infer(ONE, protocol="t")).outputs["y"].tolist() == [[2.0, 2.0]]

    with_plane(work, folder, model="assistant", limits=Limits(queue=0))


def test_names_of_versions_are_no_paths(folder) -> None:
    async def work(plane: DataPlane) -> None:
        for version in ("", ".", "..", "../assistant/1.0.0", "1.0.0/"):
            with pytest.raises(NotFound):
                await plane.prepare("assistant", version)

    with_plane(work, folder, model="assistant")
