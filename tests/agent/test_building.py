"""The process that builds an engine: a real one, with `tests/fakes/built_backend.py`, which needs numpy alone."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from tests.agent.conftest import SIZE
from tests.fakes import built_backend

from backbench.agent.backends.base import OpenRequest
from backbench.agent.building import EngineBuild, builds_engines
from backbench.agent.engines import EngineCache
from backbench.agent.supervisor import Stopped, Watchdog
from backbench.domain.run import FailureReason, LaunchPurpose

MINUTE_NS = 60 * 10**9


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineCache:
    built_backend.install(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    return EngineCache(tmp_path / "engines")


def build_of(cache: EngineCache, model: Path, backend: str = built_backend.NAME, **options: str) -> EngineBuild:
    request = OpenRequest(str(model), (1, 3, SIZE, SIZE), 1, spin=False, options=options)
    return EngineBuild(cache, backend, request, lambda *_: None)


def watchdog(left_ns: int = MINUTE_NS) -> Watchdog:
    return Watchdog(MINUTE_NS, time.perf_counter_ns() + left_ns, asyncio.Event())


def left(cache: EngineCache) -> set[str]:
    return {path.name for path in cache.folder.iterdir()} - {cache.timings.name}


async def test_the_second_build_of_the_same_is_found(cache: EngineCache, model_path: Path) -> None:
    first, second = (build_of(cache, model_path) for _ in range(2))
    for build in (first, second):
        assert await build.perform(watchdog()) is None
    assert (first.cached, second.cached) == (False, True)
    assert first.entry == second.entry
    assert first.entry is not None
    assert left(cache) == {first.entry.path.parent.name}
    assert first.report().purpose is LaunchPurpose.BUILD
    assert first.report().facts["backend"] == built_backend.NAME


@pytest.fixture
def models(model_path: Path, tmp_path: Path) -> list[Path]:
    """A model, the same under another name, and another one."""
    same, other = tmp_path / "same.onnx", tmp_path / "other.onnx"
    same.write_bytes(model_path.read_bytes())
    other.write_bytes(model_path.read_bytes() + b"\x00")
    return [model_path, same, other]


async def test_the_same_bytes_under_another_name_are_the_same_model(cache: EngineCache, models: list[Path]) -> None:
    cached = []
    for path in models:
        build = build_of(cache, path)
        assert await build.perform(watchdog()) is None
        cached.append(build.cached)
    assert cached == [False, True, False]


async def test_a_build_that_takes_too_long_is_ended(cache: EngineCache, model_path: Path) -> None:
    failure = await build_of(cache, model_path, behave="hang").perform(watchdog(left_ns=0))
    assert failure is not None
    assert failure.reason is FailureReason.RUN_TIMED_OUT
    assert "--timeout" in failure.message
    assert left(cache) == set()


async def test_a_build_that_nobody_wants_any_more_is_ended(cache: EngineCache, model_path: Path) -> None:
    stopping = watchdog()
    stopping.stop.set()
    with pytest.raises(Stopped):
        await build_of(cache, model_path, behave="hang").perform(stopping)
    assert left(cache) == set()


async def test_a_backend_that_builds_nothing_says_so(cache: EngineCache, model_path: Path) -> None:
    assert not builds_engines("onnxruntime")
    failure = await build_of(cache, model_path, backend="onnxruntime").perform(watchdog())
    assert failure is not None
    assert (failure.reason, failure.message) == (
        FailureReason.BACKEND_UNAVAILABLE,
        "backend onnxruntime builds no engines",
    )
