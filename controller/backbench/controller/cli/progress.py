"""Progress on standard error: bars on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from backbench.controller.cli.output import harmless, print_note
from backbench.controller.operations.observer import Observer
from backbench.domain.errors import BackbenchError
from backbench.domain.event import LogLine, Progress, RunEvent
from backbench.domain.frame import OUTCOME_NUMBERS, FrameBlock, FrameOutcome
from backbench.domain.run import RunSpec

if TYPE_CHECKING:
    from rich.progress import TaskID

_LINE_S = 10.0
_MEGABYTE = 10**6
_COOLING = "cooling"
"""A stage whose counts are the hottest zone and the limit, in thousandths of a degree."""
_SHORT_STAGES = ("interpreter", "import", "load", "inputs", "first_inference", "warmup", "ready", "outputs", "start")
"""They come by in every launch and last a moment: a line each would bury the others."""


class Shown(Observer, AbstractContextManager["Shown"]):
    """An observer for the length of a block."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""

    def note(self, text: str) -> None:
        """Print it."""
        print_note(text)

    def cut(self, error: BackbenchError) -> None:
        """Say so once."""
        self.note(f"connection lost, trying again ({error.message})")


def shown() -> Shown:
    """What suits standard error."""
    return Bars() if sys.stderr.isatty() else Lines()


class Lines(Shown):
    """A line for every step, and one every ten seconds within a long one."""

    def __init__(self) -> None:
        self._run = ""
        self._step = (0, "", 0, "")
        self._said_s = 0.0
        self._pushed = ""

    def step(self, text: str) -> None:
        """A line."""
        if text:
            self.note(text)

    def pushing(self, name: str, done_bytes: int, size_bytes: int) -> None:  # noqa: ARG002
        """One line for every file that takes a while."""
        if name != self._pushed and size_bytes >= _MEGABYTE:
            self._pushed = name
            self.note(f"pushing {name} ({size_bytes / _MEGABYTE:.1f} MB)")

    def started(self, spec: RunSpec, place: int, count: int) -> None:
        """Name the run."""
        self._run = spec.run_id[-8:]
        self._step = (0, "", 0, "")
        self.note(f"run {spec.run_id}: {_run_text(spec)}, {place} of {count}")

    def happened(self, event: RunEvent) -> None:
        """Show stages and the device's log."""
        happening = event.event
        if isinstance(happening, Progress):
            now_s = time.monotonic()
            step = (happening.launch, happening.stage, happening.queue_position, happening.holder)
            told = happening.stage not in _SHORT_STAGES and step != self._step
            if told or now_s - self._said_s >= _LINE_S:
                self._step, self._said_s = step, now_s
                self.note(f"run {self._run}: {_progress_text(happening)}")
        elif isinstance(happening, LogLine):
            self.note(f"run {self._run}: {happening.level}: {happening.text}")


class Bars(Shown):
    """A bar for what is going on, gone when it is done."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._pushes: dict[str, TaskID] = {}
        self._task: TaskID | None = None
        self._step: TaskID | None = None
        self._title = ""
        self._p50 = ""
        self._lost = 0

    def __enter__(self) -> Bars:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def note(self, text: str) -> None:
        """Print it above the bars."""
        self._bars.console.print(f"backbench: {harmless(text)}", markup=False, highlight=False)

    def step(self, text: str) -> None:
        """A bar that moves while it lasts, with the step's name."""
        if self._step is not None:
            self._bars.remove_task(self._step)
        self._step = self._bars.add_task(text.replace("[", "\\["), total=None, detail="") if text else None

    def pushing(self, name: str, done_bytes: int, size_bytes: int) -> None:
        """A bar a file."""
        task = self._pushes.get(name)
        if task is None:
            task = self._pushes[name] = self._bars.add_task(f"push {name}", total=size_bytes, detail="")
        detail = f"{done_bytes / _MEGABYTE:.1f}/{size_bytes / _MEGABYTE:.1f} MB"
        self._bars.update(task, completed=done_bytes, detail=detail, visible=done_bytes < size_bytes)

    def started(self, spec: RunSpec, place: int, count: int) -> None:
        """A bar a run."""
        self._p50, self._lost = "", 0
        self._title = f"[{place}/{count}] {_run_text(spec)}".replace("[", "\\[")
        self._task = self._bars.add_task(self._title, total=None, detail="waiting")

    def happened(self, event: RunEvent) -> None:
        """Move the bar."""
        happening = event.event
        if isinstance(happening, FrameBlock):
            self._p50 = _p50_text(happening)
            self._lost += _lost_count(happening)
        elif isinstance(happening, LogLine):
            self.note(f"{happening.level}: {happening.text}")
        elif isinstance(happening, Progress) and self._task is not None:
            lost = f", {self._lost} lost" if self._lost else ""
            detail = _progress_text(happening) + self._p50 + lost
            # temperatures are no share of anything
            total = None if happening.stage == _COOLING else happening.total_count
            self._bars.update(self._task, completed=happening.done_count, total=total, detail=detail)

    def ended(self) -> None:
        """Take the bar away."""
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None


def _run_text(spec: RunSpec) -> str:
    return f"{spec.model.name} at {spec.height}x{spec.width} by {spec.backend.name}"


def _progress_text(progress: Progress) -> str:
    if progress.queue_position or progress.holder:
        place = f", {progress.queue_position} before it" if progress.queue_position else ""
        return f"{progress.stage}{place}" + (f"; the device is used by {progress.holder}" if progress.holder else "")
    if progress.stage == _COOLING:
        now = f"{progress.done_count / 1e3:.1f} °C" if progress.done_count else "temperature not read yet"
        return f"cooling: {now}, waiting for {(progress.total_count or 0) / 1e3:g} °C"
    launch = f"launch {progress.launch + 1}: " if progress.launch else ""
    if progress.total_count:
        return f"{launch}{progress.stage} {progress.done_count}/{progress.total_count}"
    done = f" {progress.done_count}" if progress.done_count else ""
    return f"{launch}{progress.stage.replace('_', ' ')}{done}"


def _lost_count(block: FrameBlock) -> int:
    """Frames that were dropped or failed."""
    return sum(outcome != OUTCOME_NUMBERS[FrameOutcome.COMPLETED] for outcome in block.outcome)


def _p50_text(block: FrameBlock) -> str:
    service = sorted(
        done - begun
        for done, begun in zip(block.done_ns, block.dequeued_ns, strict=False)
        if done is not None and begun is not None
    )
    return f", p50 {service[len(service) // 2] / 1e6:.2f} ms" if service else ""
