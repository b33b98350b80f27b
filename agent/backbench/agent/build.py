"""Makes an engine of a model in a process of its own: `python -m backbench.agent.build`, told on standard input.

The vendor's library may take the process down, and takes memory that neither the agent nor a measuring worker is to
carry. It answers with one JSON document a line: "progress", and at last "built" or "failure". It is asked to end with
SIGTERM; whatever moment that comes at, no engine is visible that is not whole.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from backbench.agent.backends.base import Buildable, OpenRequest, WorkerFailure
from backbench.agent.backends.table import backend_named
from backbench.agent.engines import EngineCache, NothingBuilt, engine_digest, entry_fields, file_sha256
from backbench.agent.isolation import isolate
from backbench.agent.worker.memory import lack_of_memory
from backbench.domain.errors import DiskFull, StoreUnusable
from backbench.domain.run import FailureReason

_LARGEST_FILE = 16 << 30
_PROGRESS_NS = 200_000_000
"""Progress of the same stage is told so often at most."""
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def main() -> int:
    """Find the engine or build it; 0 when it is there, whole."""
    isolate(_LARGEST_FILE)
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints must not mix with the events
    told = json.loads(sys.stdin.readline())
    if os.getppid() != told["parent_pid"]:
        return 1  # the agent is gone already
    build = _Build(told, stream)
    try:
        build.perform()
    except Exception as error:
        failure = _failure(error, build)
        if failure is None:
            raise
        build.send("failure", reason=failure[0].value, message=failure[1])
        return 1
    return 0


class _Build:
    """One engine, found or built."""

    def __init__(self, told: Mapping[str, Any], stream: TextIO) -> None:
        self.backend: str = told["backend"]
        self._stream = stream
        self._cache = EngineCache(Path(told["engines"]))
        self._part = Path(told["part"])
        request = {**told["request"], "input_shape": tuple(told["request"]["input_shape"])}
        self._request = OpenRequest(**{**request, "cache_folder": str(self._cache.timings)})
        self._told_ns = 0
        self.stage = "load"

    def send(self, event: str, **fields: Any) -> None:
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()

    def perform(self) -> None:
        backend = backend_named(self.backend)
        if not isinstance(backend, Buildable):
            raise WorkerFailure(FailureReason.BACKEND_UNAVAILABLE, f"backend {self.backend} builds no engines")
        backend.load()
        depends_on = dict(backend.engine_key(self._request))
        digest = engine_digest(self.backend, file_sha256(Path(self._request.model_path)), depends_on)
        entry = self._cache.find(digest)
        cached = entry is not None
        if entry is None:
            facts = {**depends_on, "backend": self.backend, "engine": digest}
            entry = self._cache.add(digest, self._part, facts, lambda path: self._timed(backend, path))
        self.send("built", cached=cached, entry=entry_fields(entry))

    def _timed(self, backend: Buildable, path: Path) -> dict[str, int]:
        self._progress("build", 0, None)
        start = time.perf_counter_ns()
        counters = backend.build(self._request, path, self._progress)
        return {**counters, "build_ns": time.perf_counter_ns() - start}

    def _progress(self, stage: str, done: int, total: int | None) -> None:
        now = time.perf_counter_ns()
        if stage != self.stage or now - self._told_ns >= _PROGRESS_NS or done == total:
            self.stage, self._told_ns = stage, now
            self.send("progress", stage=stage, done=done, total=total)


def _failure(error: Exception, build: _Build) -> tuple[FailureReason, str] | None:
    """The failure that an error is, and its words; None for what nobody foresaw."""
    lacking = lack_of_memory(error)
    if lacking is not None:
        words = " ".join(str(lacking).split()).rstrip(".")[:300] or type(lacking).__name__
        remedy = "use a smaller model or size, or stop what else needs memory on the device"
        return FailureReason.OUT_OF_MEMORY, f"out of memory in stage {build.stage} of the engine: {words}; {remedy}"
    if isinstance(error, WorkerFailure):
        return error.reason, str(error)
    if isinstance(error, NothingBuilt):
        words = f"backend {build.backend} built no engine and gave no reason; see the agent's log"
        return FailureReason.ENGINE_BUILD_FAILED, words
    if isinstance(error, DiskFull | StoreUnusable):
        return FailureReason.DISK_FULL, str(error)
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        return FailureReason.DISK_FULL, f"the engine cannot be kept: {error.strerror}; free some room on the device"
    return None


if __name__ == "__main__":
    sys.exit(main())
