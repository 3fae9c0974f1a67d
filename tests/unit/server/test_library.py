"""Loading, reloading and unloading a repository's models, over a real data plane."""

from __future__ import annotations

import asyncio
import itertools
import shutil

import numpy as np
import pytest
import server_support as support

from hedgerow.server.computing import Computing
from hedgerow.server.config import Limits
from hedgerow.server.dataplane import DataPlane
from hedgerow.server.errors import BadRequest, NotFound, Overloaded, Unusable
from hedgerow.server.inference import InferRequest, Wanted

CONFIGURED = """
max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 label_filename: "labels.txt" }
"""


@pytest.fixture
def root(tmp_path):
    support.write_add(tmp_path / "add" / "1", 1.0)
    support.write_add(tmp_path / "add" / "2", 2.0)
    return tmp_path


def with_plane(work, root, **limits) -> None:
    async def main() -> None:
        plane = DataPlane(root, limits=Limits(**limits), computing=Computing(threads=1))
        try:
            await asyncio.wait_for(work(plane), support.PATIENCE_S)
        finally:
            await plane.close()

    asyncio.run(main())


def ones(version: str | None = None, rows: int = 1, **more) -> InferRequest:
    return InferRequest("add", {"x": np.ones((rows, 2), np.float32)}, version, **more)


async def added(plane: DataPlane, version: str | None = None) -> float:
    return float((await plane.infer(ones(version), protocol="t")).outputs["y"][0, 0]) - 1


def test_several_versions_at_once(root) -> None:
    (root / "add" / "config.pbtxt").write_text("version_policy { all { } }")

    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        assert plane.metadata("add").versions == ("1", "2")
        assert [await added(plane, version) for version in (None, "1", "2")] == [2.0, 1.0, 2.0]
        with pytest.raises(NotFound, match="in version 1 and 2, not 3"):
            await added(plane, "3")
        assert [model.version for model in plane.statistics("add")] == ["1", "2"]
        assert [model.version for model in plane.statistics("add", "1")] == ["1"]
        assert len(plane.statistics()) == 2

    with_plane(work, root)


def test_a_reload_takes_what_changed_and_keeps_what_did_not(root) -> None:
    (root / "add" / "config.pbtxt").write_text("version_policy { all { } }")

    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        one, two = plane.served("add", "1"), plane.served("add", "2")
        support.write_add(root / "add" / "2", 20.0)
        support.write_add(root / "add" / "3", 3.0)
        await plane.load("add")
        assert plane.served("add", "1") is one
        assert [await added(plane, version) for version in ("1", "2", "3", None)] == [1.0, 20.0, 3.0, 3.0]
        assert await asyncio.to_thread(two.wait_closed, support.PATIENCE_S)
        (root / "add" / "config.pbtxt").write_text("version_policy { specific { versions: 2 } }")
        await plane.load("add")
        assert plane.metadata("add").versions == ("2",)
        assert await asyncio.to_thread(one.wait_closed, support.PATIENCE_S)
        gauge = plane.metrics.exposition().decode()
        assert [line for line in gauge.splitlines() if "model_info{" in line] == [
            'hedgerow_server_model_info{model="add",sha256="",version="2"} 1.0'
        ]

    with_plane(work, root)


@pytest.mark.parametrize(
    "spoil, says",
    [
        (lambda home: (home / "3" / "model.onnx").write_bytes(b"junk"), "add cannot be served: 3: .*INVALID_PROTOBUF"),
        (lambda home: (home / "config.pbtxt").write_text("input {"), "add/config.pbtxt: line 1"),
        (
            lambda home: (home / "config.pbtxt").write_text("input { name: 'q' data_type: TYPE_FP32 dims: 2 }"),
            "the model has no input 'q'; it has: x",
        ),
        (
            lambda home: (home / "config.pbtxt").write_text("input { name: 'x' data_type: TYPE_INT8 dims: 2 }"),
            "input 'x' is TYPE_FP32, not TYPE_INT8",
        ),
        (
            lambda home: (home / "config.pbtxt").write_text("output { name: 'y' data_type: TYPE_FP32 dims: [2, 3] }"),
            r"output 'y' has dims \[-1, 2\], not \[2, 3\]",
        ),
        (
            lambda home: (home / "config.pbtxt").write_text(CONFIGURED),
            "label_filename labels.txt cannot be read",
        ),
    ],
)
def test_what_cannot_be_loaded_leaves_what_is_served(root, spoil, says: str) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        before = plane.served("add")
        support.write_add(root / "add" / "3", 3.0)
        spoil(root / "add")
        with pytest.raises(Unusable, match=says):
            await plane.load("add")
        assert plane.served("add") is before
        assert await added(plane) == 2.0
        assert plane.ready()

    with_plane(work, root)


def test_a_bundle_whose_golden_inputs_fail_is_not_served(root) -> None:
    support.write_bundle(root / "add" / "3.0.0", "add", "3.0.0", 3.0, answers=99.0)

    async def work(plane: DataPlane) -> None:
        with pytest.raises(Unusable) as caught:
            await plane.open_repository()
        assert caught.value.code == "golden_failed"
        assert not plane.ready()

    with_plane(work, root)


def test_what_is_unloaded_is_gone_and_can_come_back(root) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        model = plane.served("add")
        await plane.unload("add")
        assert model.wait_closed(0)
        with pytest.raises(NotFound, match="model 'add' is not served here"):
            await added(plane)
        with pytest.raises(NotFound):
            await plane.unload("add")
        assert plane.ready()
        assert [(each.version, each.state, each.reason) for each in await plane.index()] == [
            ("1", "UNAVAILABLE", "unloaded"),
            ("2", "UNAVAILABLE", "unloaded"),
        ]
        await plane.load("add")
        assert await added(plane) == 2.0
        assert [(each.version, each.state) for each in await plane.index()] == [("1", "UNAVAILABLE"), ("2", "READY")]

    with_plane(work, root)


def test_a_model_whose_folder_is_gone_is_served_on(root) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        shutil.rmtree(root / "add")
        with pytest.raises(NotFound, match="model 'add' is not in the repository"):
            await plane.load("add")
        assert await added(plane) == 2.0
        assert [(each.version, each.state) for each in await plane.index() if each.version] == [("2", "READY")]

    with_plane(work, root)


def test_an_unload_says_when_something_still_runs(root) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        model = plane.served("add")
        with model.hold():
            with pytest.raises(Overloaded, match="some still run on it"):
                await plane.unload("add")
            assert not model.wait_closed(0)
        assert await asyncio.to_thread(model.wait_closed, support.PATIENCE_S)

    with_plane(work, root, drain_s=0.05)


def test_swaps_under_load_lose_no_request_and_answer_none_wrongly(root) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        done = itertools.count()
        ended = asyncio.Event()
        seen: set[tuple[str, float]] = set()

        async def ask() -> None:
            while not ended.is_set():
                answer = await plane.infer(ones(), protocol="t")
                seen.add((answer.version, float(answer.outputs["y"][0, 0])))
                next(done)

        callers = [asyncio.create_task(ask()) for _ in range(4)]
        for version in range(3, 9):
            support.write_add(root / "add" / str(version), float(version))
            await plane.load("add")
            before = next(done)
            await support.until(lambda before=before: next(done) > before + 20)
        ended.set()
        await asyncio.gather(*callers)
        assert seen == {(str(version), 1.0 + version) for version in range(2, 9)}

    with_plane(work, root)


def test_a_configuration_is_obeyed(root) -> None:
    (root / "add" / "config.pbtxt").write_text(CONFIGURED + "dynamic_batching { max_queue_delay_microseconds: 50 }")
    (root / "add" / "labels.txt").write_text("cat\ndog\n")

    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        config = plane.config("add")
        assert (config.max_batch_size, config.input[0].dims, config.backend) == (4, [2], "onnxruntime")
        batching = plane.served("add").batching
        assert batching is not None
        assert (batching.max_batch, batching.max_delay_s) == (4, pytest.approx(5e-5))
        with pytest.raises(BadRequest, match="the batch has 5 rows; model 'add' takes 4"):
            await plane.infer(ones(rows=5), protocol="t")
        best = await plane.infer(ones(rows=4, outputs=(Wanted("y", 1),)), protocol="t")
        assert best.outputs["y"][0].tolist() == [b"3.000000:0:cat"]

    with_plane(work, root)


def test_where_time_went_is_counted(root) -> None:
    async def work(plane: DataPlane) -> None:
        await plane.open_repository()
        for _ in range(3):
            await added(plane)
        with pytest.raises(BadRequest):
            await plane.infer(InferRequest("add", {}), protocol="t")
        figures = plane.served("add").statistics
        assert (figures.rows, figures.executions, figures.success.count, figures.fail.count) == (3, 3, 3, 1)
        assert figures.success.ns >= figures.compute.ns > 0
        assert figures.queue.count == figures.batches[1].compute.count == 3
        assert figures.last_inference > 1.7e12

    with_plane(work, root)


def test_a_device_is_not_changed_by_load_or_unload(root) -> None:
    async def work() -> None:
        plane = DataPlane(root, model="add")
        for change in (plane.load, plane.unload):
            with pytest.raises(BadRequest, match="hedgerow-device activates"):
                await change("add")
        assert [(each.name, each.state) for each in await plane.index()] == [("add", "UNAVAILABLE")]
        await plane.close()

    asyncio.run(work())
