"""The noise floor of a device, out of runs that are made by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from backbench.controller.operations import noise as noise_module
from backbench.controller.operations.noise import NoiseRequest, measure_noise, noise_document, plan_noise
from backbench.controller.operations.observer import Observer
from backbench.controller.operations.stop import Stop
from backbench.controller.store import DeviceRecord, RunRecord, Store
from backbench.domain.errors import BackendUnavailable, InvalidRunSpec
from backbench.domain.identifiers import new_run_id
from backbench.domain.run import ModelRef, RunSpec, RunState


def document(medians: Sequence[float | None], rate_hz: float = 2.0, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": new_run_id(),
        "state": "done",
        "device": {"name": "pi"},
        "model": {"name": "resnet50", "size": [224, 224], "precision": "fp32", "source": "skeleton"},
        "scenario": {"frame_count": 500},
        "contract": {"telemetry_rate_hz": rate_hz},
        "launches": {"rows": [{"launch": number, "p50_ms": p50} for number, p50 in enumerate(medians)]},
        "counters": {"loop_overhead_p50_ns": 1200, "loop_period_p50_ns": 3000},
        **changes,
    }


def test_the_noise_floor_is_how_far_apart_two_equal_runs_are() -> None:
    same = document([10.0, 9.9, 10.5]), document([10.0, 10.2, 10.4])
    observed = document([10.0]), document([10.0], 0.0)
    found = noise_document(same, observed, 5)
    assert (found["schema"], found["device"], found["measured_unix_ns"]) == ("backbench.noise/1", "pi", 5)
    assert (found["launches"], found["frames"]) == (3, 500)
    assert found["same"]["ratio"] == pytest.approx(1.02)
    assert found["noise_floor"] == found["same"]["difference"] == pytest.approx(0.02)
    assert found["same"]["spread"] == pytest.approx(10.5 / 9.9 - 1)
    assert found["loop"] == {"overhead_p50_ns": 1200, "period_p50_ns": 3000}
    assert found["runs"] == [each["run_id"] for each in (*same, *observed)]


def test_the_noise_floor_has_no_sign() -> None:
    pair = document([10.0]), document([10.0], 0.0)
    slower = noise_document((document([10.0]), document([12.5])), pair, 5)["noise_floor"]
    faster = noise_document((document([12.5]), document([10.0])), pair, 5)["noise_floor"]
    assert slower == pytest.approx(0.25)
    assert faster == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("second", "observing", "flagged"),
    [(10.0, 10.05, False), (10.0, 10.2, True), (10.5, 10.2, False), (10.0, 9.5, False)],
)
def test_telemetry_is_flagged_when_it_costs_more_than_noise_and_a_hundredth(
    second: float, observing: float, flagged: bool
) -> None:
    same = document([10.0]), document([second])
    found = noise_document(same, (document([observing]), document([10.0], 0.0)), 5)["telemetry"]
    assert found["rate_hz"] == 2.0
    assert found["p50_ms"] == {"with": observing, "without": 10.0}
    assert found["difference"] == pytest.approx(observing / 10 - 1)
    assert found["flagged"] is flagged


def test_counters_that_no_run_reported_are_not_told() -> None:
    same = document([10.0], counters=None), document([10.0], counters={})
    found = noise_document(same, (document([10.0], counters={}), document([10.0], counters={})), 5)
    assert found["loop"] == {"overhead_p50_ns": None, "period_p50_ns": None}


def test_runs_without_medians_have_no_noise_floor() -> None:
    good, empty = document([10.0]), document([None])
    with pytest.raises(BackendUnavailable, match="as no launch of run"):
        noise_document((good, empty), (good, good), 5)


def test_two_pairs_of_the_same_model_take_turns_the_second_with_and_without_telemetry() -> None:
    plan = plan_noise(NoiseRequest("pi", launches=4, frames=100))
    assert plan.request.models == ("mobilenetv3_small_100",) * 2
    assert (plan.request.launches, plan.scenario.frame_count, plan.request.take_turns) == (4, 100, True)


@pytest.mark.parametrize("request_", [NoiseRequest("pi", launches=1), NoiseRequest("pi", frames=19)])
def test_too_few_launches_or_frames_are_refused(request_: NoiseRequest) -> None:
    with pytest.raises(InvalidRunSpec):
        plan_noise(request_)


class Profiles:
    """Takes the place of profiling; the runs of the nth call have the nth state."""

    def __init__(self, *states: str) -> None:
        self._states = list(states)
        self.rates: list[list[float]] = []
        self.reservations: set[Any] = set()

    def __call__(
        self,
        store: Store,  # noqa: ARG002
        plan: Any,  # noqa: ARG002
        observer: Any,  # noqa: ARG002
        stop: Stop,
        insecure: bool,  # noqa: ARG002
        change: Any,
        reservation: Any,
    ) -> Any:
        self.reservations.add(reservation)
        spec = RunSpec(new_run_id(), ModelRef("m", "a" * 64, "file"), 8, 8)
        specs = [change(place, spec) if change else spec for place in range(2)]
        self.rates.append([each.telemetry_rate_hz for each in specs])
        state = self._states.pop(0)
        if state == "stopped":
            stop.requested = True
            return []
        failure = None if state == "done" else {"message": "the worker died"}
        return [
            replace(
                RunRecord(each.run_id, "pi", None, each, RunState(state), (), 1),
                document=document([10.0], each.telemetry_rate_hz, state=state, failure=failure),
            )
            for each in specs
        ]


def test_the_newest_result_is_kept(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_device(DeviceRecord("pi", "127.0.0.1:1", 1, None))
    profiles = Profiles("done", "done")
    monkeypatch.setattr(noise_module, "profile", profiles)
    found = measure_noise(store, plan_noise(NoiseRequest("pi")), Observer(), Stop())
    assert profiles.rates == [[10.0, 10.0], [10.0, 0.0]]
    assert len(profiles.reservations) == 1
    assert found is not None
    assert store.noise("pi") == found
    assert found["noise_floor"] == 0


def test_a_stop_keeps_nothing_and_a_failed_run_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_device(DeviceRecord("pi", "127.0.0.1:1", 1, None))
    monkeypatch.setattr(noise_module, "profile", Profiles("done", "stopped"))
    assert measure_noise(store, plan_noise(NoiseRequest("pi")), Observer(), Stop()) is None
    monkeypatch.setattr(noise_module, "profile", Profiles("failed"))
    with pytest.raises(BackendUnavailable, match="pi has no noise floor, as a run failed: the worker died"):
        measure_noise(store, plan_noise(NoiseRequest("pi")), Observer(), Stop())
    assert store.noise("pi") is None
