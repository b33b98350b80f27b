"""From the words of the command line to a scenario: how frames arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from backbench.controller.operations.ranges import nanoseconds_within, one_of, quantity_within, within
from backbench.domain.arrivals import HIGHEST_RATE_MHZ, LOWEST_RATE_MHZ, MAX_ARRIVALS, constant_due_ns, parse_trace
from backbench.domain.errors import InvalidArgument, InvalidRunSpec
from backbench.domain.run import QueuePolicy, Scenario, ScenarioName

DEFAULT_FRAMES = 1000
"""Enough for a p99 with its upper bound, where frames depend on each other a little."""
DEFAULT_IDLE_FRAMES = 100
"""Fewer, as each frame waits for a gap; too few for a p99."""
DEFAULT_SOAK = "10m"
DEFAULT_IDLE_GAP = "1s"
DEFAULT_MISS_RATIO = "1%"
MOST_STREAMS = 64
DEEPEST_QUEUE = 1024
# A line has at most 21 characters of time; comments may take as many again.
_LARGEST_TRACE_BYTES = 42 * MAX_ARRIVALS

_ARRIVING = (
    ScenarioName.PACED,
    ScenarioName.POISSON,
    ScenarioName.TRACE,
    ScenarioName.SOAK,
    ScenarioName.STREAMS,
    ScenarioName.SWEEP,
)
_TAKEN_BY: dict[str, tuple[ScenarioName, ...]] = {
    "frames": tuple(name for name in ScenarioName if name is not ScenarioName.SOAK),
    "duration": (ScenarioName.CLOSED_LOOP, ScenarioName.PACED, ScenarioName.SOAK),
    "fps": tuple(name for name in _ARRIVING if name is not ScenarioName.TRACE),
    "queue_policy": _ARRIVING,
    "queue_depth": _ARRIVING,
    "deadline": _ARRIVING,
    "trace": (ScenarioName.TRACE,),
    "streams": (ScenarioName.STREAMS,),
    "idle_gap": (ScenarioName.IDLE_FIRE,),
    "miss_ratio": (ScenarioName.SWEEP,),
}
_NEEDED = {
    ScenarioName.PACED: ("fps", "--fps N, the frames that arrive a second"),
    ScenarioName.POISSON: ("fps", "--fps N, the frames that arrive a second on average"),
    ScenarioName.TRACE: ("trace", "--trace FILE, one arrival in nanoseconds a line"),
    ScenarioName.STREAMS: ("streams", f"--streams K, up to so many at once, 1 to {MOST_STREAMS}"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ScenarioRequest:
    """How frames arrive, as it was written. None leaves a choice to the scenario, which refuses what it has no use for.

    Lengths of time have their unit ("33ms", "10m"), `miss_ratio` is a percentage ("0.1%"), `fps` arrivals a second.
    """

    scenario: str = "closed-loop"
    frames: int | None = None
    warmup: int = 20
    duration: str | None = None
    fps: float | None = None
    queue_policy: str | None = None
    queue_depth: int | None = None
    deadline: str | None = None
    trace: Path | None = None
    streams: int | None = None
    idle_gap: str | None = None
    miss_ratio: str | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class PlannedScenario:
    """A scenario, but for the digest of its trace, and what it needs of time.

    `length_ns` is the least that one launch takes.
    """

    scenario: Scenario
    length_ns: int


def plan_scenario(request: ScenarioRequest) -> PlannedScenario:
    """The scenario that the words state; the file of a trace is read. Raises InvalidArgument, InvalidRunSpec.

    A rate is rounded to thousandths of a frame a second. The deadline is the period where frames arrive at a constant
    rate and none is given; a sweep without one takes the period of each rate that it tries.
    """
    name = ScenarioName(one_of("--scenario", request.scenario, [each.value for each in ScenarioName]))
    _refuse_unused(request, name)
    arrivals = () if request.trace is None else _read_trace(request.trace)
    within("--warmup", request.warmup, 0, math.inf)
    miss_ratio_ppm = _miss_ratio_ppm(request) if name is ScenarioName.SWEEP else None
    scenario = Scenario(
        name=name,
        frame_count=_frame_count(request, name, len(arrivals), miss_ratio_ppm),
        warmup_frame_count=request.warmup,
        duration_ns=_duration_ns(request, name),
        rate_mhz=_rate_mhz(request.fps),
        streams=_streams(request.streams),
        idle_gap_ns=_idle_gap_ns(request) if name is ScenarioName.IDLE_FIRE else None,
        seed=(request.seed or 0) if name is ScenarioName.POISSON else 0,
        miss_ratio_ppm=miss_ratio_ppm,
    )
    if scenario.open_loop:
        scenario = _queued(request, scenario)
    return PlannedScenario(scenario, _length_ns(scenario, arrivals))


def _refuse_unused(request: ScenarioRequest, name: ScenarioName) -> None:
    if name in _NEEDED and getattr(request, _NEEDED[name][0]) is None:
        raise InvalidRunSpec(f"scenario {name.value} needs {_NEEDED[name][1]}")
    for option, takers in _TAKEN_BY.items():
        if getattr(request, option) is None:
            continue
        flag = _flag(option)
        if name not in takers:
            names = ", ".join(each.value for each in takers)
            raise InvalidRunSpec(
                f"{flag} is of no use in scenario {name.value}; leave it away, or take a scenario that has it: {names}"
            )
        at_a_rate = option in ("queue_policy", "queue_depth", "deadline")
        if at_a_rate and name in (ScenarioName.SOAK, ScenarioName.STREAMS) and request.fps is None:
            raise InvalidRunSpec(f"{flag} is of no use in scenario {name.value} without --fps; add --fps N")


def _flag(option: str) -> str:
    return "--" + option.replace("_", "-")


def _read_trace(path: Path) -> tuple[int, ...]:
    if not path.is_file():
        raise InvalidArgument(f"--trace {path}: no such file; check the path")
    if path.stat().st_size > _LARGEST_TRACE_BYTES:
        raise InvalidArgument(f"--trace {path}: too large for a trace, which has at most {MAX_ARRIVALS} arrivals")
    try:
        return parse_trace(path.read_text(encoding="utf-8", errors="replace"))
    except InvalidArgument as error:
        raise InvalidArgument(f"--trace {path}: {error.message}") from error


def _frame_count(request: ScenarioRequest, name: ScenarioName, recorded: int, miss_ratio_ppm: int | None) -> int | None:
    if request.frames is not None:
        within("--frames", request.frames, 1, recorded or math.inf)
        if request.duration is not None:
            raise InvalidRunSpec("--frames and --duration both end the timed window; leave one of them away")
        return request.frames
    if request.duration is not None or name is ScenarioName.SOAK:
        return None
    if name is ScenarioName.IDLE_FIRE:
        return DEFAULT_IDLE_FRAMES
    return recorded or max(DEFAULT_FRAMES, _frames_for(miss_ratio_ppm))


def _frames_for(miss_ratio_ppm: int | None) -> int:
    """The fewest frames that show a share with 99 % confidence when none is a miss: n >= ln(0.01) / ln(1 - share)."""
    if miss_ratio_ppm is None or miss_ratio_ppm >= 10**6:
        return 0
    return math.ceil(math.log(0.01) / math.log1p(-miss_ratio_ppm / 1e6))


def _duration_ns(request: ScenarioRequest, name: ScenarioName) -> int | None:
    default = DEFAULT_SOAK if name is ScenarioName.SOAK else None
    text = default if request.duration is None else request.duration
    return None if text is None else nanoseconds_within("--duration", text, "1s", "24h")


def _rate_mhz(fps: float | None) -> int | None:
    if fps is None:
        return None
    within("--fps", fps, LOWEST_RATE_MHZ / 1000, HIGHEST_RATE_MHZ / 1000)
    return round(fps * 1000)


def _streams(streams: int | None) -> int | None:
    within("--streams", 1 if streams is None else streams, 1, MOST_STREAMS)
    return streams


def _idle_gap_ns(request: ScenarioRequest) -> int:
    text = DEFAULT_IDLE_GAP if request.idle_gap is None else request.idle_gap
    return nanoseconds_within("--idle-gap", text, "0s", "1h")


def _miss_ratio_ppm(request: ScenarioRequest) -> int:
    text = DEFAULT_MISS_RATIO if request.miss_ratio is None else request.miss_ratio
    return round(quantity_within("--miss-ratio", text, "share", "0.0001%", "100%") * 10_000)


def _queued(request: ScenarioRequest, scenario: Scenario) -> Scenario:
    """The same, with what happens to a frame that finds the worker busy, and when it is late."""
    unsteady = scenario.name in (ScenarioName.POISSON, ScenarioName.TRACE)
    policy = QueuePolicy.UNBOUNDED if unsteady else QueuePolicy.LATEST
    if request.queue_policy is not None:
        policy = QueuePolicy(one_of("--queue-policy", request.queue_policy, [each.value for each in QueuePolicy]))
    within("--queue-depth", 1 if request.queue_depth is None else request.queue_depth, 1, DEEPEST_QUEUE)
    if policy is QueuePolicy.UNBOUNDED and request.queue_depth is not None:
        raise InvalidRunSpec("--queue-depth is of no use with --queue-policy unbounded; leave one of them away")
    depth = None if policy is QueuePolicy.UNBOUNDED else request.queue_depth or 1
    deadline_ns = None
    if request.deadline is not None:
        deadline_ns = nanoseconds_within("--deadline", request.deadline, "1us", "1h")
    elif scenario.rate_mhz is not None and not unsteady and scenario.name is not ScenarioName.SWEEP:
        deadline_ns = constant_due_ns(1, scenario.rate_mhz)
    return replace(scenario, queue_policy=policy, queue_depth=depth, deadline_ns=deadline_ns)


def _length_ns(scenario: Scenario, arrivals: tuple[int, ...]) -> int:
    count = scenario.frame_count or 0
    if arrivals:
        return arrivals[count - 1]
    per_frame_ns = scenario.idle_gap_ns or _period_ns(scenario)
    return (scenario.duration_ns or count * per_frame_ns) * (scenario.streams or 1)


def _period_ns(scenario: Scenario) -> int:
    return 0 if scenario.rate_mhz is None else constant_due_ns(1, scenario.rate_mhz)
