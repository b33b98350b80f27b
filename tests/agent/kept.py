"""An agent's runs without anything that carries them out, and ways to damage what it keeps of them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from backbench.agent.registry import Registry
from backbench.agent.retention import Retention
from backbench.agent.run_store import RunStore
from backbench.domain.event import RunEvent, StateChange
from backbench.domain.frame import FrameBlock
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Owner, Run, RunSpec, RunState
from backbench.wire.event import event_from_bytes
from backbench.wire.records import RecordWriter

ANA = Owner("ana", "lab")


def frames(first: int, count: int = 10) -> FrameBlock:
    times = tuple(range(count))
    return FrameBlock(
        launch=0, index=tuple(range(first, first + count)), due_ns=times, dequeued_ns=times, done_ns=times,
        outcome=(1,) * count, tags=(0,) * count, input=(0,) * count,
    )  # fmt: skip


@dataclass
class Agent:
    """The part of an agent that keeps runs; `again` is one after a kill."""

    folder: Path
    free_bytes: int = 1 << 40

    def __post_init__(self) -> None:
        self.registry = Registry(self.folder / "agent.sqlite")
        self.retention = Retention(
            self.folder / "runs", self.registry, 1 << 30, 1 << 20, lambda _: self.free_bytes
        )  # fmt: skip
        self.store = RunStore(self.folder, self.registry, 0, self.retention)

    def run(self, *, ended: bool = False, blocks: int = 6) -> str:
        """A run of that many blocks, one to a segment."""
        run = Run(RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8), RunState.QUEUED, 1, owner=ANA)
        recording = self.store.begin(run)
        self.store.emit(recording, StateChange(RunState.RUNNING))
        for number in range(blocks):
            recording.journal.begin_segment()
            self.store.emit(recording, frames(10 * number))
        recording.sync()
        if ended:
            self.store.end(recording, RunState.DONE, None)
        return run.spec.run_id

    def segments(self, run_id: str) -> list[Path]:
        return sorted((self.folder / "runs" / run_id).glob("*.seg"))

    async def events(self, run_id: str, from_sequence: int = 1) -> list[RunEvent]:
        watching = self.store.watch(run_id, from_sequence)
        return [event_from_bytes(payload) async for payload in watching]

    def kill(self) -> None:
        self.store.close()
        self.registry.close()

    def again(self) -> Agent:
        self.kill()
        after = Agent(self.folder)
        after.store.recover()
        return after


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-10] ^= 1
    path.write_bytes(data)


def garbage_record(path: Path) -> None:
    """An event that does not parse, in a record whose checksum is right."""
    number = int(path.stem.removeprefix("events-"))
    path.unlink()
    with RecordWriter(path, after=number - 1) as writer:
        writer.append(number, b"\xff\xff no event")


def folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped byte": flip,
    "a missing segment": Path.unlink,
    "an empty segment": lambda path: path.write_bytes(b""),
    "a shortened segment": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "a segment of garbage": lambda path: path.write_bytes(os.urandom(3000)),
    "an event that does not parse": garbage_record,
    "a folder in place of a segment": folder_in_its_place,
}
# Events: 1 queued, 2 running, 3 to 8 frames, 9 the result; each block of frames begins a segment.
