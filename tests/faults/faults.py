"""The faults of a campaign: what is done to a running measurement, at a moment that a seed gives."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import psutil
from tests.faults.processes import Command
from tests.faults.proxy import Direction, Trouble
from tests.faults.scene import SHAPES, Life, Scene, Shape, heavy_model

from backbench.domain.run import RunState

HEAVY_BYTES = 4 << 20
_UPLOAD = Shape("upload", ("--frames", "200"))
_LONGEST_S = 4.0
_SHORT_S = 0.3
_NOTICED = tuple(trouble for trouble in Trouble if trouble is not Trouble.CONTROLLER_NOT_TOLD)
_CUT, _INTERRUPTED, _FAILED = {RunState.DONE}, {RunState.DONE, RunState.INTERRUPTED}, {RunState.DONE, RunState.FAILED}


class By(Enum):
    """What a moment is counted in."""

    TIME = "time"
    EVENT = "event"
    BYTES_TO_AGENT = "byte to the agent"
    BYTES_TO_CONTROLLER = "byte to the controller"


@dataclass(frozen=True)
class Fault:
    """One kind: how a run may end after it, what its moments are counted in, and what is done."""

    name: str
    states: set[RunState]
    moments: tuple[By, ...]
    strike: Callable[[Scene, Draw, Command], None]
    trouble: Trouble | None = None
    """What the proxy does, where it is the proxy that strikes; then the moment may be an exact byte."""


@dataclass(frozen=True)
class Draw:
    """Everything random in a trial."""

    fault: Fault
    shape: Shape
    by: By
    share: float
    seconds: float
    collect: bool
    late: bool
    variant: int

    def __str__(self) -> str:
        return f"{self.fault.name} at {self.share:.3f} by {self.by.value} of a {self.shape.name} run"


def draw(seed: int, number: int, faults: Sequence[Fault]) -> Draw:
    """The trial of that number: the kinds take turns in shuffled rounds, all else is uniform."""
    rounds, place = divmod(number, len(faults))
    order = random.Random(f"{seed} round {rounds}").sample(list(faults), len(faults))
    fault = order[place]
    dice = random.Random(f"{seed} trial {number}")
    by, share, variant = dice.choice(fault.moments), dice.random(), dice.randrange(1 << 30)
    shape = _UPLOAD if fault.name == UPLOAD else dice.choice(SHAPES)
    return Draw(
        fault, shape, by, share, dice.uniform(0.5, _LONGEST_S), dice.random() < 0.5, dice.random() < 0.5, variant
    )


def perform(scene: Scene, drawn: Draw, life: Life) -> bool:
    """Start a controller and strike; whether the moment came before the run had ended."""
    if drawn.fault.name == UPLOAD:
        return _cut_in_upload(scene, drawn)
    command = scene.profile(drawn.shape)
    trouble = drawn.fault.trouble
    if trouble is not None and drawn.by in (By.BYTES_TO_AGENT, By.BYTES_TO_CONTROLLER):
        to_agent = drawn.by is By.BYTES_TO_AGENT
        direction = Direction.TO_AGENT if to_agent else Direction.TO_CONTROLLER
        place = 1 + int(drawn.share * (life.to_agent if to_agent else life.to_controller))
        struck = scene.until(scene.proxy.after(direction, place, trouble, drawn.seconds).is_set, command)
    else:
        struck = _moment_came(scene, drawn, life, command)
        if struck:
            drawn.fault.strike(scene, drawn, command)
    _go_on(scene, drawn, command)
    return struck


def _moment_came(scene: Scene, drawn: Draw, life: Life, command: Command) -> bool:
    if drawn.by is By.TIME:
        due_s = time.monotonic() + drawn.share * life.seconds
        return scene.until(lambda: time.monotonic() >= due_s, command)
    wanted, count = 1 + int(drawn.share * (life.events - 1)), scene.journalled()
    return scene.until(lambda: count() >= wanted, command)


def _go_on(scene: Scene, drawn: Draw, command: Command) -> None:
    if drawn.fault.trouble in (Trouble.STALL, Trouble.TRICKLE):
        due_s = time.monotonic() + drawn.seconds
        scene.until(lambda: time.monotonic() >= due_s, command)
    scene.settle(command)
    if drawn.late:
        scene.until(lambda: all(run.state.ended for run in scene.runs()), command)


def _kill_controller(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001 - one form for all
    command.kill()


def _kill_worker(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001
    found: list[psutil.Process] = []

    def there() -> bool:
        found[:] = [worker] if (worker := scene.agent.worker()) else []
        return bool(found)

    scene.until(there, command)
    with contextlib.suppress(psutil.NoSuchProcess):
        for worker in found:
            worker.kill()


def _kill_agent(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001
    scene.kill_agent(signal.SIGKILL)


def _stop_agent(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001
    scene.kill_agent(signal.SIGTERM)


def _cut_power(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001
    workers = scene.agent.children()
    command.kill()
    scene.kill_agent(signal.SIGKILL)
    for worker in workers:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()


def _leave(scene: Scene, drawn: Draw, command: Command) -> None:
    """The device goes away for a while, and so does everything that was on its way."""
    scene.proxy.down()
    due_s = time.monotonic() + drawn.seconds
    scene.until(lambda: time.monotonic() >= due_s, command)
    scene.proxy.up()


def _trouble(scene: Scene, drawn: Draw, command: Command) -> None:  # noqa: ARG001
    assert drawn.fault.trouble is not None
    scene.proxy.trouble(drawn.fault.trouble, drawn.seconds)


def _one_after_the_other(scene: Scene, drawn: Draw, command: Command) -> None:
    """Every trouble that a connection may have, in some order, each once something was journalled since the last."""
    count = scene.journalled()
    for trouble in random.Random(drawn.variant).sample(_NOTICED, len(_NOTICED)):
        scene.proxy.trouble(trouble, _SHORT_S)
        seen, due_s = count(), time.monotonic() + _SHORT_S
        scene.until(lambda seen=seen, due_s=due_s: count() > seen and time.monotonic() > due_s, command)  # type: ignore[misc]


def _cut_in_upload(scene: Scene, drawn: Draw) -> bool:
    """A model that the device has never seen, cut off at an exact byte; it must be there in the end all the same."""
    path = scene.folder / "heavy.onnx"
    heavy_model(path, drawn.variant, HEAVY_BYTES)
    place = 1 + int(drawn.share * HEAVY_BYTES)
    victims: tuple[Callable[[Scene, Draw, Command], None] | Trouble, ...] = (
        Trouble.RESET, Trouble.FINISH, Trouble.STALL, Trouble.AGENT_NOT_TOLD,
        _kill_controller, _kill_agent, _stop_agent, _cut_power,
    )  # fmt: skip
    victim = victims[drawn.variant % len(victims)]
    command = scene.profile(drawn.shape, str(path))
    if isinstance(victim, Trouble):
        done = scene.proxy.after(Direction.TO_AGENT, place, victim, drawn.seconds)
        struck = scene.until(done.is_set, command)
    else:
        struck = scene.until(scene.proxy.hold_after(Direction.TO_AGENT, place).is_set, command)
        if struck:
            victim(scene, drawn, command)
    if victim is Trouble.STALL:
        due_s = time.monotonic() + drawn.seconds
        scene.until(lambda: time.monotonic() >= due_s, command)
    scene.settle(command)
    if command.status != 0:
        again = scene.profile(drawn.shape, str(path))
        scene.settle(again)
        assert again.status == 0, f"the model could not be pushed again: {again.stderr[-300:]}"
    return struck


UPLOAD = "cut during upload"
_ANY, _SEEN = (By.TIME, By.EVENT), (By.EVENT,)
_EXACT = (By.TIME, By.EVENT, By.BYTES_TO_AGENT, By.BYTES_TO_CONTROLLER)
SILENCE = Fault("controller is not told of a cut", _CUT, _EXACT, _trouble, Trouble.CONTROLLER_NOT_TOLD)
"""Noticed by the controller's keepalive, so that a trial lasts half a minute."""
FAULTS = (
    Fault("kill the controller", _CUT, _ANY, _kill_controller),
    Fault("kill the worker", _FAILED, _SEEN, _kill_worker),
    Fault("kill the agent", _INTERRUPTED, _ANY, _kill_agent),
    Fault("terminate the agent", _INTERRUPTED, _ANY, _stop_agent),
    Fault("power cut of everything", _INTERRUPTED, _ANY, _cut_power),
    Fault("device away for seconds", _CUT, _ANY, _leave),
    Fault("connection reset", _CUT, _EXACT, _trouble, Trouble.RESET),
    Fault("connection finished", _CUT, _EXACT, _trouble, Trouble.FINISH),
    Fault("connection stalls", _CUT, _EXACT, _trouble, Trouble.STALL),
    Fault("one byte at a time", _CUT, _EXACT, _trouble, Trouble.TRICKLE),
    Fault("agent is not told of a cut", _CUT, _EXACT, _trouble, Trouble.AGENT_NOT_TOLD),
    SILENCE,
    Fault("one trouble after the other", _CUT, _SEEN, _one_after_the_other),
    Fault(UPLOAD, _CUT, (By.BYTES_TO_AGENT,), _trouble),
)
"""Every kind."""
