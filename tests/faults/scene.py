"""Where trials happen: one agent behind a proxy, one store, both used again by every trial so that leaks add up."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.faults.checks import Compared, LogKeeper, Payloads, Sides, compare, journal, litter
from tests.faults.processes import DEADLINE_S, POLL_S, Agent, Backbench, Command, descendants, strays
from tests.faults.proxy import Direction, Proxy

from backbench.agent.journal import JournalReader
from backbench.controller.client import AgentClient
from backbench.controller.store import RunRecord, Store
from backbench.domain.errors import BackbenchError
from backbench.domain.event import RunResult
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import Run, RunSpec, RunState, Scenario, ScenarioName

DEVICE = "dut"
_HARMLESS = {".ses"}
"""What ONNX Runtime leaves in a folder for temporary files."""
_CLIENT_PATIENCE_S = 20.0
_PROBE_FRAMES = 5


@dataclass(frozen=True)
class Shape:
    """What a trial profiles."""

    name: str
    arguments: tuple[str, ...]


SHAPES = (
    Shape("closed-loop", ("--frames", "1500")),
    Shape("paced", ("--scenario", "paced", "--fps", "200", "--frames", "300")),
    Shape("two launches", ("--launches", "2", "--frames", "500")),
)


@dataclass(frozen=True)
class Life:
    """How an undisturbed run of a shape went: what moments are drawn from."""

    seconds: float
    events: int
    to_agent: int
    to_controller: int


class Scene:
    """The processes and folders of a campaign. Close it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._others = descendants()
        self.agent = Agent(folder)
        self.agent.start()
        self.proxy = Proxy(self.agent.address)
        self.proxy.__enter__()
        self.backbench = Backbench(folder)
        self.keeper = LogKeeper(self.backbench.store, folder / "logs")
        self.commands: list[Command] = []
        self.before: Payloads = {}
        self._known: set[str] = set()
        self._usual: RunSpec | None = None
        self._done("device", "add", DEVICE, self.proxy.address)

    def close(self) -> None:
        """End everything that was started."""
        for command in self.commands:
            if not command.ended:
                command.kill()
        self.proxy.__exit__(None, None, None)
        if self.agent.alive:
            self.agent.end(signal.SIGTERM)

    # What happens in a trial

    def begin(self) -> None:
        """Before a trial: what is there by now is none of its business."""
        self._known = {path.name for path in self._folders()}
        self.before = {}
        self.commands = []

    def profile(self, shape: Shape, model: str = "mobilenetv3_small_100") -> Command:
        """A controller that measures."""
        fixed = ("--device", DEVICE, "--size", "32", "--threads", "1", "--no-memory-pass", "--telemetry-rate", "10")
        return self._started("profile", model, *fixed, *shape.arguments, "--json")

    def life(self, shape: Shape) -> Life:
        """Measure one undisturbed run."""
        self.begin()
        passed, started_s = dict(self.proxy.passed), time.monotonic()
        command = self.profile(shape)
        command.wait()
        seconds = time.monotonic() - started_s
        assert command.status == 0, command.stderr
        (folder,) = self._new()
        moved = {way: self.proxy.passed[way] - passed[way] for way in Direction}
        to_agent, to_controller = moved[Direction.TO_AGENT], moved[Direction.TO_CONTROLLER]
        return Life(seconds, len(journal(self.agent.data_dir, folder.name)), to_agent, to_controller)

    def until(self, condition: Callable[[], bool], command: Command) -> bool:
        """Poll until it holds; False when the command has ended before."""
        while not condition():
            self.keeper.look()
            if command.ended:
                return condition()
            time.sleep(POLL_S)
        return True

    def journalled(self) -> Callable[[], int]:
        """How many events the trial's run has in its journal by now; call it again and again."""
        reader: JournalReader | None = None
        count = 0

        def look() -> int:
            nonlocal reader, count
            if reader is None and (folders := self._new()):
                reader = JournalReader(folders[-1])
            if reader is not None:
                count += sum(1 for _ in reader.read())
            return count

        return look

    def kill_agent(self, number: signal.Signals) -> None:
        """End the agent; what its journal holds then must still be there later."""
        self.proxy.down()
        self.agent.end(number)
        for folder in self._new():
            self.before = journal(self.agent.data_dir, folder.name)

    def settle(self, command: Command) -> None:
        """Start again what died, let the controller end, and fetch what it did not live to see."""
        self.proxy.release()
        if not self.agent.alive:
            self.agent.start()
            self.proxy.up()
        self._until_ended(command)

    def fetch(self, collect: bool) -> list[str]:
        """Bring every run that is unfinished here to its end, as a user would; what went wrong with that."""
        problems = []
        if collect:
            self._until_ended(self._started("run", "collect", "--device", DEVICE))
            for run in self.runs():  # one that ended since was not collected
                stored = self.record(run.spec.run_id) is not None
                if stored and run.acknowledged_sequence < run.last_sequence:
                    problems.append(f"run {run.spec.run_id} was collected and is not acknowledged")
        for run_id in self.unfinished():
            command = self._started("run", "follow", run_id, "--json")
            self._until_ended(command)
            if self.record(run_id) is None:
                problems.append(f"run follow {run_id} gave {command.status}: {command.stderr[-300:]}")
        return problems

    # What is checked after it

    def problems(self, states: set[RunState], compared: Compared) -> Iterator[str]:
        """Everything that is not as it must be, after `settle` and `fetch`."""
        Store.open(self.backbench.store).close()  # tidies up, as every command does at its start
        for run in self.runs():
            run_id = run.spec.run_id
            if run_id in self._known:
                continue
            if run.spec.model.source == "skeleton":
                self._usual = run.spec
            record = self.record(run_id)
            if record is None or record.state is not run.state:
                yield f"run {run_id} is {run.state.value} on the device and not finished in the store"
                continue
            if run.state not in states:
                yield f"run {run_id} is {run.state.value}: {run.failure}"
            sides = Sides(
                run, journal(self.agent.data_dir, run_id), self.backbench.store / "runs" / run_id,
                self.keeper.take(run_id), self.before,
            )  # fmt: skip
            yield from compare(sides, compared)
        yield from self._said_by_commands()
        yield from self._left_over()
        yield from self._usable()

    def runs(self) -> tuple[Run, ...]:
        """Runs of the device."""
        with self.client() as client:
            return client.list_runs()

    def ended_as(self) -> list[str]:
        """How the trial's runs stand on the device."""
        return [run.state.value for run in self.runs() if run.spec.run_id not in self._known]

    def unfinished(self) -> list[str]:
        """Runs of the store that have no document, those included that never reached the device."""
        with Store.open(self.backbench.store) as store:
            return [record.run_id for record in store.runs(10_000) if record.document is None]

    def record(self, run_id: str) -> RunRecord | None:
        """A finished run of the store."""
        with Store.open(self.backbench.store) as store:
            try:
                record = store.run(run_id)
            except BackbenchError:
                return None
            return record if record.document is not None else None

    def client(self) -> AgentClient:
        """The agent, without the proxy between."""
        return AgentClient(self.agent.address, patience_s=_CLIENT_PATIENCE_S)

    def _said_by_commands(self) -> Iterator[str]:
        for command in self.commands:
            if "Traceback" in command.stderr or "a bug in Backbench" in command.stderr:
                yield f"{' '.join(command.arguments)}: {command.stderr[-1500:]}"
        log = self.agent.log.read_text(errors="replace")
        if "Traceback" in log or "mistake" in log:
            yield f"the agent's log: {log[-1500:]}"
            self.agent.log.write_text("")
        if not self.agent.alive:
            yield "the agent has ended by itself"

    def _left_over(self) -> Iterator[str]:
        for line in strays({self.agent.pid}, self._others):
            yield f"process {line} was left"
        yield from litter(self.agent.data_dir, self.backbench.store)
        for name in set(self.agent.leftovers()) - _HARMLESS:
            yield f"temporary file {name} of the agent was left"

    def _usable(self) -> Iterator[str]:
        """Whether the device can be had, and does a run."""
        with self.client() as client:
            try:
                client.release_lease(client.acquire_lease("campaign", 5.0))
            except BackbenchError as error:
                yield f"the device cannot be had: {error}"
                return
            if self._usual is None:
                return
            probe = _short(self._usual)
            client.submit_run(probe)
            events = [event.event for event in client.watch_run(probe.run_id)]
            result = events[-1]
            if not isinstance(result, RunResult) or result.state is not RunState.DONE:
                yield f"the next run is not done: {result}"
            client.delete_run(probe.run_id)

    def _done(self, *arguments: str) -> None:
        command = self.backbench(*arguments)
        assert command.status == 0, command.stderr

    def _started(self, *arguments: str) -> Command:
        command = self.backbench.start(*arguments)
        self.commands.append(command)
        return command

    def _until_ended(self, command: Command) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not command.ended and time.monotonic() < deadline:
            self.keeper.look()
            time.sleep(POLL_S)
        command.wait()

    def _folders(self) -> list[Path]:
        return sorted((self.agent.data_dir / "runs").glob("*-*-*-*-*"))

    def _new(self) -> list[Path]:
        return [path for path in self._folders() if path.name not in self._known]


def _short(spec: RunSpec) -> RunSpec:
    scenario = Scenario(ScenarioName.CLOSED_LOOP, frame_count=_PROBE_FRAMES, warmup_frame_count=0)
    return replace(spec, run_id=new_run_id(), scenario=scenario, launches=1, group_id="", group_size=0)


def heavy_model(path: Path, seed: int, weight_bytes: int) -> None:
    """A model of one product whose weights make it so heavy, unlike that of any other seed."""
    columns = weight_bytes // (3 * 4)
    weights = np.random.Generator(np.random.PCG64(seed)).standard_normal((3, columns), np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["image"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["features"]),
            helper.make_node("MatMul", ["features", "weights"], ["product"]),
            helper.make_node("ReduceMax", ["product"], ["output"], axes=[1]),
        ],
        "heavy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 32, 32])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 1])],
        [numpy_helper.from_array(weights, "weights")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
