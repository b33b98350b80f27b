"""What must hold after a trial: both sides have the same, and nothing is left over."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from backbench.agent.journal import JournalReader
from backbench.controller.store.columns import frame_table, telemetry_table
from backbench.domain.event import RunEvent, RunResult
from backbench.domain.frame import FrameBlock
from backbench.domain.run import Run
from backbench.domain.telemetry import TelemetryBlock
from backbench.wire.event import event_from_bytes
from backbench.wire.records import read_records

Payloads = dict[int, bytes]
_TEMPORARY = (".part", ".tmp")
_OF_UNFINISHED = ("events.log", "events.lock")


@dataclass
class Compared:
    """What was found equal on both sides."""

    runs: int = 0
    events: int = 0
    frames: int = 0
    records: int = 0
    """Events of which the store's own log was seen before it became files, and compared as bytes."""

    def add(self, other: Compared) -> None:
        """Count these too."""
        self.runs += other.runs
        self.events += other.events
        self.frames += other.frames
        self.records += other.records


class LogKeeper:
    """Holds on to the logs of a store: a second name for each, so that their bytes outlive the store's own."""

    def __init__(self, store: Path, folder: Path) -> None:
        self._store = store
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def look(self) -> None:
        """Take a name for every log that is there now."""
        for log in self._store.glob("runs/*/events.log"):
            kept = self._folder / f"{log.parent.name}.log"
            if not kept.exists():
                try:
                    os.link(log, kept)
                except FileNotFoundError:
                    continue

    def take(self, run_id: str) -> Payloads | None:
        """What the store's log of a run held at its end; None where it was not seen in time. Can be taken once."""
        kept = self._folder / f"{run_id}.log"
        if not kept.exists():
            return None
        payloads = {sequence: payload for sequence, payload, _ in read_records(kept)}
        kept.unlink()
        return payloads


def journal(data_dir: Path, run_id: str) -> Payloads:
    """The events of a run in the agent's journal, by number."""
    reader = JournalReader(data_dir / "runs" / run_id)
    payloads: Payloads = {}
    while batch := reader.read():
        payloads.update(batch)
    return payloads


@dataclass
class Sides:
    """One run as the device and the store have it."""

    run: Run
    journal: Payloads
    folder: Path
    log: Payloads | None
    before: Mapping[int, bytes] = field(default_factory=dict)
    """What the journal held when something was killed."""


def compare(sides: Sides, compared: Compared) -> Iterator[str]:
    """Every way in which the store does not have exactly what was journalled."""
    name = f"run {sides.run.spec.run_id}"
    if not sides.run.state.ended:
        yield f"{name} is {sides.run.state.value} on the device"
        return
    numbers = sorted(sides.journal)
    if numbers != list(range(1, len(numbers) + 1)) or sides.run.last_sequence != len(numbers):
        yield f"{name}: the journal holds {len(numbers)} events, numbers {numbers[:1]} to {numbers[-1:]}, the device"
        yield f"{name} says {sides.run.last_sequence}"
    for sequence, payload in sides.before.items():
        if sides.journal.get(sequence) != payload:
            yield f"{name}: event {sequence} was in the journal before the kill and is not now"
    events = [event_from_bytes(sides.journal[number]) for number in numbers]
    results = [event.event for event in events if isinstance(event.event, RunResult)]
    if len(results) != 1 or results[0].state is not sides.run.state or not isinstance(events[-1].event, RunResult):
        yield f"{name}: {len(results)} results in the journal, the device says {sides.run.state.value}"
    yield from _frames_in_order(name, events)
    if sides.log is not None:
        different = [number for number in numbers if sides.log.get(number) != sides.journal[number]]
        if different or len(sides.log) != len(numbers):
            yield f"{name}: {len(sides.log)} events in the store, {len(numbers)} on the device, unlike: {different[:5]}"
        compared.records += len(numbers)
    yield from _tables(name, events, sides.folder, compared)
    compared.runs += 1
    compared.events += len(numbers)


def _frames_in_order(name: str, events: list[RunEvent]) -> Iterator[str]:
    indices: dict[tuple[int, int], list[int]] = defaultdict(list)
    for event in events:
        if isinstance(event.event, FrameBlock):
            indices[event.event.launch, event.event.stream].extend(event.event.index)
    for (launch, _), found in indices.items():
        if found != list(range(len(found))):
            yield f"{name}: the frames of launch {launch} are not 0 to {len(found) - 1}, each once"


def _tables(name: str, events: list[RunEvent], folder: Path, compared: Compared) -> Iterator[str]:
    frames = [event.event for event in events if isinstance(event.event, FrameBlock)]
    telemetry = [event.event for event in events if isinstance(event.event, TelemetryBlock)]
    tables: dict[str, pa.Table] = {"frames": frame_table(frames), "telemetry": telemetry_table(telemetry)}
    for kind, expected in tables.items():
        path = folder / f"{kind}.parquet"
        if not path.is_file():
            yield f"{name}: the store has no {path.name}"
            continue
        stored = pyarrow.parquet.read_table(path)
        stored = stored.select(expected.column_names)  # what the store adds of its own was not journalled
        if not stored.equals(expected):
            yield f"{name}: {stored.num_rows} rows of {kind} in the store are not the {expected.num_rows} journalled"
    compared.frames += sum(len(block.index) for block in frames)


def litter(data_dir: Path, store: Path) -> Iterator[str]:
    """Files that only something unfinished may have."""
    for root in (data_dir, store):
        for path in sorted(root.rglob("*")):
            relative = path.relative_to(root)
            unfinished = path.name in _OF_UNFINISHED or relative.parent.name == "uploads"
            if unfinished or path.suffix in _TEMPORARY:
                yield f"{root.name}/{relative} was left"
