"""From the words of the command line to a scenario."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backbench.controller.operations.scenarios import PlannedScenario, ScenarioRequest, plan_scenario
from backbench.domain.errors import InvalidRequest
from backbench.domain.run import QueuePolicy, Scenario, ScenarioName

SECOND = 10**9


def planned(name: str, **words: Any) -> PlannedScenario:
    return plan_scenario(ScenarioRequest(scenario=name, **words))


def scenario(name: str, **words: Any) -> Scenario:
    return planned(name, **words).scenario


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    path = tmp_path / "camera.txt"
    path.write_text("# ns\n1000\n34000000\n\n100000000\n")
    return path


def test_without_a_word_frames_follow_back_to_back_enough_for_a_p99() -> None:
    assert plan_scenario(ScenarioRequest()).scenario == Scenario()


def test_a_camera_keeps_the_newest_frame_and_is_late_after_a_period() -> None:
    paced = scenario("paced", fps=30)
    assert (paced.frame_count, paced.rate_mhz) == (1000, 30_000)
    assert (paced.queue_policy, paced.queue_depth) == (QueuePolicy.LATEST, 1)
    assert paced.deadline_ns == 33_333_333
    other = scenario("paced", fps=30, deadline="50ms", queue_policy="drop-newest", queue_depth=4, frames=7)
    assert (other.deadline_ns, other.queue_policy, other.queue_depth) == (50_000_000, QueuePolicy.DROP_NEWEST, 4)
    assert other.frame_count == 7


@pytest.mark.parametrize(
    ("fps", "rate_mhz"), [(29.97, 29_970), (30, 30_000), (0.001, 1), (1000, 10**6), (59.9404, 59_940)]
)
def test_a_rate_is_kept_in_thousandths_of_a_frame_a_second(fps: float, rate_mhz: int) -> None:
    assert scenario("paced", fps=fps).rate_mhz == rate_mhz


def test_random_arrivals_all_wait_and_have_a_seed_and_no_deadline_of_their_own() -> None:
    poisson = scenario("poisson", fps=12.5, seed=7)
    assert (poisson.rate_mhz, poisson.seed, poisson.deadline_ns) == (12_500, 7, None)
    assert (poisson.queue_policy, poisson.queue_depth) == (QueuePolicy.UNBOUNDED, None)
    assert scenario("poisson", fps=12.5, deadline="1s").deadline_ns == SECOND
    assert scenario("poisson", fps=12.5, queue_policy="latest").queue_depth == 1


def test_a_trace_is_replayed_to_its_end_or_as_far_as_is_asked(trace: Path) -> None:
    whole = planned("trace", trace=trace)
    assert (whole.scenario.frame_count, whole.scenario.queue_policy) == (3, QueuePolicy.UNBOUNDED)
    assert (whole.scenario.trace_sha256, whole.scenario.rate_mhz) == ("", None)
    assert whole.length_ns == 99_999_000
    assert planned("trace", trace=trace, frames=2).length_ns == 33_999_000


def test_a_soak_takes_ten_minutes_back_to_back_or_at_a_rate() -> None:
    soak = scenario("soak")
    assert (soak.frame_count, soak.duration_ns, soak.rate_mhz, soak.queue_policy) == (None, 600 * SECOND, None, None)
    assert not soak.open_loop
    paced = scenario("soak", fps=30, duration="2h")
    assert (paced.duration_ns, paced.queue_policy, paced.deadline_ns) == (7200 * SECOND, QueuePolicy.LATEST, 33_333_333)
    assert paced.open_loop


@pytest.mark.parametrize("words", [{"name": "closed-loop"}, {"name": "paced", "fps": 30}])
def test_a_duration_takes_the_place_of_frames(words: dict[str, Any]) -> None:
    timed = scenario(**words, duration="30s")
    assert (timed.frame_count, timed.duration_ns) == (None, 30 * SECOND)


def test_the_other_scenarios_have_what_they_need_and_nothing_else() -> None:
    assert scenario("offline", frames=64) == Scenario(ScenarioName.OFFLINE, 64)
    assert scenario("streams", streams=4) == Scenario(ScenarioName.STREAMS, streams=4)
    assert scenario("idle-fire") == Scenario(ScenarioName.IDLE_FIRE, 100, idle_gap_ns=SECOND)
    assert scenario("idle-fire", idle_gap="250ms", frames=500).idle_gap_ns == 250_000_000
    sweep = scenario("sweep")
    assert (sweep.miss_ratio_ppm, sweep.rate_mhz, sweep.deadline_ns) == (10_000, None, None)
    assert (sweep.queue_policy, sweep.queue_depth) == (QueuePolicy.LATEST, 1)
    assert scenario("sweep", fps=60, miss_ratio="0.1%", deadline="40ms").miss_ratio_ppm == 1000


@pytest.mark.parametrize(("share", "frames"), [("1%", 1000), ("0.1%", 4603), ("100%", 1000), ("0.0001%", 4_605_168)])
def test_a_sweep_takes_enough_frames_to_show_its_share_of_misses(share: str, frames: int) -> None:
    assert scenario("sweep", miss_ratio=share).frame_count == frames
    assert scenario("sweep", miss_ratio=share, frames=20).frame_count == 20


def test_streams_at_a_rate_are_paced() -> None:
    streams = scenario("streams", streams=2, fps=10)
    assert streams.open_loop
    assert (streams.rate_mhz, streams.queue_policy, streams.deadline_ns) == (10_000, QueuePolicy.LATEST, SECOND // 10)


@pytest.mark.parametrize(
    ("words", "length_ns"),
    [
        ({"name": "closed-loop"}, 0),
        ({"name": "closed-loop", "duration": "30s"}, 30 * SECOND),
        ({"name": "paced", "fps": 0.5}, 2000 * SECOND),
        ({"name": "poisson", "fps": 10}, 100 * SECOND),
        ({"name": "idle-fire", "idle_gap": "5s"}, 500 * SECOND),
        ({"name": "streams", "streams": 3, "fps": 100}, 30 * SECOND),
    ],
)
def test_what_a_launch_takes_at_least_is_told(words: dict[str, Any], length_ns: int) -> None:
    assert planned(**words).length_ns == length_ns


@pytest.mark.parametrize(
    ("name", "option", "takers"),
    [
        ("closed-loop", {"fps": 30}, "that has it: paced, poisson, soak, streams, sweep"),
        ("closed-loop", {"queue_policy": "latest"}, "--queue-policy is of no use in scenario closed-loop"),
        ("closed-loop", {"deadline": "33ms"}, "--deadline is of no use"),
        ("closed-loop", {"trace": Path("x")}, "leave it away, or take a scenario that has it: trace"),
        ("offline", {"streams": 2}, "has it: streams"),
        ("offline", {"duration": "1m"}, "has it: closed-loop, paced, soak"),
        ("poisson", {"fps": 3, "duration": "1m"}, "--duration is of no use in scenario poisson"),
        ("soak", {"frames": 100}, "--frames is of no use in scenario soak"),
        ("soak", {"queue_depth": 2}, "--queue-depth is of no use in scenario soak without --fps; add --fps N"),
        ("streams", {"streams": 2, "deadline": "1s"}, "--deadline is of no use in scenario streams without --fps"),
        ("paced", {"fps": 30, "idle_gap": "1s"}, "--idle-gap is of no use in scenario paced"),
        ("paced", {"fps": 30, "miss_ratio": "1%"}, "--miss-ratio is of no use in scenario paced"),
        ("paced", {"fps": 30, "queue_policy": "unbounded", "queue_depth": 2}, "--queue-depth is of no use with"),
        ("paced", {"fps": 30, "duration": "30s", "frames": 9}, "--frames and --duration both end"),
    ],
)  # fmt: skip
def test_what_a_scenario_does_not_use_is_refused_with_what_takes_it(
    name: str, option: dict[str, Any], takers: str
) -> None:
    refused(name, option, takers)


@pytest.mark.parametrize(
    ("name", "option", "words"),
    [
        ("pased", {}, '--scenario "pased" is not known; did you mean paced?'),
        ("?", {}, "take one of closed-loop, paced, poisson, trace, offline, streams, soak, idle-fire, sweep"),
        ("paced", {}, "scenario paced needs --fps N"),
        ("poisson", {}, "scenario poisson needs --fps N"),
        ("trace", {}, "scenario trace needs --trace FILE"),
        ("streams", {}, "scenario streams needs --streams K"),
        ("paced", {"fps": 0.0}, "--fps is 0; it must be between 0.001 and 1000"),
        ("paced", {"fps": -30.0}, "--fps is -30; it must be between 0.001 and 1000"),
        ("paced", {"fps": float("nan")}, "--fps is nan; it must be between 0.001 and 1000"),
        ("paced", {"fps": float("inf")}, "--fps is inf"),
        ("paced", {"fps": 1000.0001}, "--fps is 1000.0001; it must be between 0.001 and 1000"),
        ("paced", {"fps": 1e9}, "--fps is 1000000000; it must be between 0.001 and 1000"),
        ("paced", {"fps": 30, "frames": 0}, "--frames is 0; it must be at least 1"),
        ("paced", {"fps": 30, "warmup": -1}, "--warmup is -1"),
        ("paced", {"fps": 30, "queue_depth": 0}, "--queue-depth is 0; it must be between 1 and 1024"),
        ("paced", {"fps": 30, "queue_policy": "newest"}, '"newest" is not known; did you mean drop-newest or latest?'),
        ("paced", {"fps": 30, "deadline": "33"}, '--deadline "33": the unit is missing'),
        ("paced", {"fps": 30, "deadline": "0ms"}, "--deadline is 0ms; it must lie between 1us and 1h"),
        ("soak", {"duration": "10"}, 'for example "10s"'),
        ("soak", {"duration": ""}, "is not a duration"),
        ("soak", {"duration": "0s"}, "--duration is 0s; it must lie between 1s and 24h"),
        ("soak", {"duration": "2000h"}, "it must lie between 1s and 24h"),
        ("idle-fire", {"idle_gap": "-1s"}, "--idle-gap is -1s; it must lie between 0s and 1h"),
        ("streams", {"streams": 0}, "--streams is 0; it must be between 1 and 64"),
        ("streams", {"streams": 65}, "--streams is 65"),
        ("sweep", {"miss_ratio": "0.01"}, 'write one of %, for example "0.01%"'),
        ("sweep", {"miss_ratio": "0%"}, "--miss-ratio is 0%; it must lie between 0.0001% and 100%"),
        ("trace", {"trace": Path("no/such.txt")}, "--trace no/such.txt: no such file"),
    ],
)  # fmt: skip
def test_a_word_out_of_its_range_is_refused_with_the_range(name: str, option: dict[str, Any], words: str) -> None:
    refused(name, option, words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("5\n3\n", "camera.txt: line 2: a negative gap"),
        ("soon\n", 'camera.txt: line 1: "soon" is not a whole number'),
        ("", "camera.txt: no arrivals"),
    ],
)
def test_a_trace_that_is_none_is_refused_with_its_name_and_line(trace: Path, text: str, words: str) -> None:
    trace.write_text(text)
    refused("trace", {"trace": trace}, words)


def test_more_frames_than_a_trace_has_are_refused(trace: Path) -> None:
    refused("trace", {"trace": trace, "frames": 4}, "--frames is 4; it must be between 1 and 3")


def refused(name: str, option: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        planned(name, **option)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_status == 2
