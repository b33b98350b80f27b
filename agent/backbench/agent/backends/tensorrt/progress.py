"""How far a build is, and stopping it: both by IProgressMonitor, from TensorRT 9 on."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

Progress = Callable[[str, int, int | None], None]
"""Takes a stage in words, how much of it is done, and of how much."""
_PERIOD_NS = 100_000_000
"""No two steps of one stage are told faster than this: some stages have thousands."""


class Termination:
    """Context in which SIGTERM is noticed, though the main thread is inside the library for minutes.

    Python runs a handler only between two steps of the main thread, so a thread of its own waits for the signal, which
    is blocked in this one and in all that are started from it. A thread from before takes it as the process always did.
    """

    def __init__(self, *, watched: bool) -> None:
        self._watched = watched and threading.current_thread() is threading.main_thread()
        self._asked = threading.Event()
        self._left = threading.Event()
        self._waiter: threading.Thread | None = None

    def asked(self) -> bool:
        """Whether the process was asked to end since."""
        return self._asked.is_set()

    def __enter__(self) -> Termination:
        if self._watched:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            self._waiter = threading.Thread(target=self._wait, name="termination", daemon=True)
            self._waiter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._waiter is not None:
            self._left.set()
            self._waiter.join()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    def _wait(self) -> None:
        while not self._left.is_set():
            if signal.sigtimedwait({signal.SIGTERM}, 0.05) is not None:
                self._asked.set()
                return


def make_monitor(module: Any, progress: Progress, stopped: Callable[[], bool]) -> Any:
    """An IProgressMonitor of that module, which tells `progress` and ends the build once `stopped` says so.

    Stages nest and may run in several threads at once; each is told by itself.
    """

    class Monitor(module.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            module.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told_ns = 0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:  # noqa: ARG002
            self._steps[phase_name] = num_steps
            self._tell(phase_name, 0)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._tell(phase_name, step + 1)
            return not stopped()

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

        def _tell(self, phase: str, done: int) -> None:
            now_ns = time.monotonic_ns()
            if now_ns - self._told_ns >= _PERIOD_NS or done == self._steps.get(phase):
                self._told_ns = now_ns
                with contextlib.suppress(OSError):  # who listened is gone, and ends this process by other means
                    progress(phase, done, self._steps.get(phase))

    return Monitor()
