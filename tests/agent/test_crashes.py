"""A kill or a power cut between any two steps by which a run gets onto the disk: nothing that was shown is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.agent.kept import ANA, Agent, frames

from backbench.agent.registry import Registry
from backbench.domain.event import LogLine, RunResult, StateChange
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, Run, RunSpec, RunState


class Crash(BaseException):
    """The end of the agent."""


class Disk:
    """Counts what is done to the disk, crashes at step `last`, and knows what a power cut then leaves there."""

    def __init__(self, last: int) -> None:
        self._left = last
        self._sizes: dict[str, int] = {}
        self._names: dict[str, set[str]] = {}

    def around(self, real: Callable[..., Any], done: Callable[..., None]) -> Callable[..., Any]:
        """The same call, before which the agent may end."""

        def called(*arguments: Any, **options: Any) -> Any:
            self._step()
            result = real(*arguments, **options)
            done(*arguments)
            return result

        return called

    def synced(self, descriptor: int) -> None:
        path = str(Path(f"/proc/self/fd/{descriptor}").readlink())
        if Path(path).is_dir():
            self._names[path] = {each.name for each in Path(path).iterdir()}
        else:
            self._sizes[path] = Path(path).stat().st_size

    def renamed(self, before: Path, after: Path) -> None:
        for known in (self._sizes, self._names):
            for path in [each for each in known if Path(each).is_relative_to(before)]:
                known[str(after / Path(path).relative_to(before))] = known.pop(path)  # type: ignore[assignment]
        names = self._names.get(str(before.parent), set())
        if before.name in names:
            names.symmetric_difference_update({before.name, after.name})

    def cut_power(self, folder: Path, copy: Path) -> None:
        """Take from the copy what no order to sync had put onto the disk. SQLite sees to its own files."""
        for below in (copy / "runs", *(copy / "runs").iterdir()):
            names = self._names.get(str(folder / below.relative_to(copy)), set())
            for each in below.glob("*"):
                if each.name not in names:
                    shutil.rmtree(each) if each.is_dir() else each.unlink()
        for each in [*copy.rglob("*.seg"), *copy.rglob("*.rec")]:
            kept = self._sizes.get(str(folder / each.relative_to(copy)), 0)
            os.truncate(each, min(kept, each.stat().st_size))

    def _step(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash


def quick(folder: Path) -> Agent:
    """An agent whose registry waits for no disk: what a power cut leaves is made here."""
    agent = Agent(folder)
    agent.registry._db.execute("PRAGMA synchronous = OFF")
    return agent


class Story:
    """What an agent does, and what it had told the outside of it when it ended."""

    def __init__(self, agent: Agent) -> None:
        self._store = agent.store
        self.shown: dict[str, int] = {}
        self.ended: dict[str, RunState] = {}

    def go(self) -> None:
        kept, dropped = self._done(), self._done()
        self._store.acknowledge(kept, 1)
        self._store.acknowledge(dropped, 99)
        del self.shown[dropped], self.ended[dropped]
        self._store.delete(dropped)
        self._begun()
        self._end(self._begun(), RunState.CANCELLED)

    def _begun(self) -> str:
        spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
        self._store.begin(Run(spec, RunState.QUEUED, 1, owner=ANA))
        self.shown[spec.run_id] = 1
        return spec.run_id

    def _done(self) -> str:
        run_id = self._begun()
        recording = self._store.recordings[run_id]
        self._store.emit(recording, StateChange(RunState.RUNNING))
        for number in range(2):
            self._store.emit(recording, frames(20 * number))
            recording.journal.begin_segment()
            self._store.emit(recording, frames(20 * number + 10))
            recording.sync()
            self.shown[run_id] = recording.durable_sequence
        self._end(run_id, RunState.DONE)
        return run_id

    def _end(self, run_id: str, state: RunState) -> None:
        self._store.end(self._store.recordings[run_id], state, None)
        self.shown[run_id] = self._store.get(run_id).last_sequence
        self.ended[run_id] = state


async def found_whole(folder: Path, story: Story) -> None:
    """Start again over what is left, and hold it against what was told."""
    after = quick(folder)
    queued = {recording.spec.run_id for recording in after.store.recover()}
    runs = {run.spec.run_id: run for _, run in after.store.page()}
    assert set(story.shown) <= set(runs)
    assert {path.name for path in (folder / "runs").iterdir()} == set(runs)
    assert not any(path.suffix == ".damaged" for run_id in runs for path in after.retention.path(run_id).iterdir())
    for run_id, run in runs.items():
        assert run.state is story.ended.get(run_id, run.state)
        assert run.state.ended != (run_id in queued)
        if run.state.ended:
            events = await asyncio.wait_for(after.events(run_id), 10)
            assert [each.sequence for each in events] == list(range(1, run.last_sequence + 1))
            assert len(events) >= story.shown.get(run_id, 0)
            assert isinstance(events[-1].event, RunResult)
            assert not any("damage" in each.event.text for each in events if isinstance(each.event, LogLine))
    assert after.store.get(after.run(ended=True)).state is RunState.DONE
    after.kill()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_crash_at_any_step_loses_nothing_that_was_shown_and_leaves_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)
    crashed, last = True, 0
    while crashed:
        last += 1
        folder, disk = tmp_path / str(last), Disk(last)
        folder.mkdir()
        agent = quick(folder)
        agent.store.recover()
        story = Story(agent)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", disk.around(os.fsync, disk.synced))
            patched.setattr(os, "fdatasync", disk.around(os.fdatasync, disk.synced))
            patched.setattr(os, "unlink", disk.around(os.unlink, lambda *_: None))
            patched.setattr(Path, "replace", disk.around(Path.replace, disk.renamed))
            patched.setattr(Registry, "_write", disk.around(Registry._write, lambda *_: None))
            try:
                story.go()
                crashed = False
            except Crash:
                pass
        for kind in ("kill", "power"):
            copy = tmp_path / f"{last} after {kind}"
            shutil.copytree(folder, copy)
            if kind == "power":
                disk.cut_power(folder, copy)
            try:
                await found_whole(copy, story)
            except AssertionError as error:
                raise AssertionError(f"{kind} at step {last}") from error
            shutil.rmtree(copy)
        agent.kill()
        shutil.rmtree(folder)
    assert last > 40
