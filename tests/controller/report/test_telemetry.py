"""What sensors say of a run: in its document, its validity, its budgets, and in words."""

from __future__ import annotations

from typing import Any

import pytest
from tests.controller.boards import a_device, after, codes, constant, document, frames, printed, read

from backbench.controller.analysis.comparison import compare
from backbench.controller.report.text import ratios, run_summary
from backbench.domain.device import SensorChannel, SensorSource
from backbench.domain.event import CoolGate
from backbench.domain.run import Scenario, ScenarioName

SECONDS = 12.0
NO_EFFECT = {"run": "", "ratio": None, "low": None, "high": None, "noise_floor": None, "verdict": None}
SCENARIO = Scenario(frame_count=1200, warmup_frame_count=0)
POWER = SensorChannel("power.total", "mW", "hwmon", scope="module_input", method="measured", window_ns=430_000_000)
HOT = (
    read(
        "thermal", SECONDS, 5,
        temp__tj=lambda time: round(90_000 + 1000 * time), throttle__thermal__cooling=after(8, 0, 1),
    ),
    read(
        "freq", SECONDS, 10,
        cpu__clock__policy0=after(8, 1_728_000_000, 1_113_600_000),
        cpu__clock_max__policy0=after(8, 1_728_000_000, 1_113_600_000),
        mode__clocks_pinned=constant(1),
    ),
)  # fmt: skip
COOL = (
    read(
        "thermal",
        SECONDS,
        5,
        temp__tj=constant(50_000),
        temp__cpu=constant(48_000),
        throttle__thermal__cooling=constant(0),
    ),
    read("freq", SECONDS, 10, cpu__clock__policy0=constant(1_728_000_000), mode__clocks_pinned=constant(1)),
)


def slowing(time: float) -> float:
    return 5.0 if time < 8 else 7.5


def made(*telemetry: Any, block: Any = None, **changes: Any) -> dict[str, Any]:
    return document(block or frames(SECONDS), telemetry, **{"scenario": SCENARIO, **changes})


def test_a_board_that_heats_up_and_throttles_is_invalid_where_clocks_were_to_be_locked() -> None:
    found = made(*HOT, block=frames(SECONDS, service_ms=slowing), regime="locked")
    assert found["thermal"]["throttled"] is True
    assert found["thermal"]["time_to_throttle_s"]["value"] == pytest.approx(8.0, abs=0.3)
    assert found["thermal"]["throttled_frames"] == pytest.approx(400, abs=40)
    assert found["validity"]["status"] == "invalid"
    assert codes(found)[0] == "throttled"
    assert "clock_policy_changed" not in codes(found)  # the cap is the throttling
    words = printed(run_summary(found))
    assert "yes after 8." in words
    assert "throttle.thermal.cooling" in words


def test_the_same_board_as_shipped_is_unstable() -> None:
    found = made(*HOT)
    assert (found["validity"]["status"], found["regime"]) == ("unstable", "as-shipped")
    assert "throttled" in codes(found)


def test_a_cool_board_has_a_verdict_and_nothing_speaks_against_the_run() -> None:
    found = made(*COOL, regime="locked")
    assert found["thermal"]["throttled"] is False
    assert found["thermal"]["throttled_frames"] == 0
    assert codes(found) == []
    assert found["validity"]["status"] == "ok"
    assert found["thermal"]["temperatures"]["temp.tj"] == {"start": 50.0, "end": 50.0, "max": 50.0, "unit": "C"}
    assert "no, by 1 witness" in printed(run_summary(found))


def test_without_a_witness_the_verdict_is_missing_and_says_so() -> None:
    found = made(read("thermal", SECONDS, 5, temp__cpu=constant(50_000)))
    assert found["thermal"]["throttled"] is None
    assert codes(found) == ["throttle_not_observed"]
    assert made()["thermal"] is None


@pytest.mark.parametrize(
    ("pinned", "code"),
    [
        (constant(0), "clocks_not_pinned"),
        (constant(None), "clocks_not_observed"),
        (after(6, 1, 0), "clocks_not_pinned"),
    ],
)
def test_locked_clocks_must_be_pinned_all_the_time(pinned: Any, code: str) -> None:
    clocks = read("freq", SECONDS, 10, cpu__clock__policy0=constant(10**9), mode__clocks_pinned=pinned)
    found = made(COOL[0], clocks, regime="locked")
    assert code in codes(found)
    assert code not in codes(made(COOL[0], clocks))


def test_a_limit_that_changes_without_heat_is_a_policy_and_no_throttling() -> None:
    clocks = read("freq", SECONDS, 10, cpu__clock_max__policy0=after(5, 1_728_000_000, 1_113_600_000))
    found = made(COOL[0], clocks)
    assert found["thermal"]["throttled"] is False
    assert found["clocks"]["policy_changes"][0]["to"] == 1_113_600_000
    assert (found["validity"]["status"], codes(found)) == ("invalid", ["clock_policy_changed"])


@pytest.mark.parametrize("cool", [True, False])
def test_a_gate_that_was_not_met_makes_the_run_invalid(cool: bool) -> None:
    gate = CoolGate(45_000, 62_000, 44_000 if cool else 51_000, 600 * 10**9, cool)
    found = made(*COOL, gate=gate)
    assert found["cool_gate"] == {
        "limit_c": 45.0, "start_c": 62.0, "end_c": 44.0 if cool else 51.0, "waited_s": 600.0, "cool": cool,
    }  # fmt: skip
    assert codes(found) == ([] if cool else ["not_cool"])
    assert ("not cool enough" in printed(run_summary(found))) == (not cool)


def test_a_source_that_falls_silent_makes_the_run_unverified() -> None:
    found = made(*COOL, read("hwmon", 2.0, 20, power__total=constant(5000)))
    assert codes(found) == ["telemetry_gaps"]
    assert found["energy_j_per_frame"] is None
    assert found["energy_missing"].startswith("power was not read for")


def test_energy_is_told_with_what_it_covers_and_judged() -> None:
    power = read("hwmon", SECONDS, 20, power__total=constant(5000))
    budgets = ("energy<=60mJ", "energy<=0.03J", "power<=10W", "power<=4.5W", "temp<=85C", "temp<=45C")
    found = made(*COOL, power, device=a_device((POWER,)), budgets=budgets)
    energy = found["energy_j_per_frame"]
    assert energy["value"] == pytest.approx(0.05, rel=1e-3)
    assert (energy["scope"], energy["method"], energy["window_s"]) == ("module_input", "measured", 0.43)
    assert found["power_w"]["mean"] == pytest.approx(5.0)
    assert [row["verdict"] for row in found["budgets"]] == ["pass", "reject", "pass", "over", "pass", "over"]
    words = printed(run_summary(found))
    assert "50 mJ a frame" in words
    assert "at the module's input, measured over 0.43 s, idle included" in words


def test_a_board_without_a_sensor_of_power_has_no_energy_and_no_zero() -> None:
    found = made(*COOL, budgets=("energy<=1J",))
    assert (found["energy_j_per_frame"], found["power_w"]) == (None, None)
    assert found["verdict"] == "unknown"
    assert "energy<=1J: not measured; nothing that measures power was read" in printed(run_summary(found))


@pytest.mark.parametrize(
    ("source", "changes", "words"),
    [
        (SensorSource("pmic", "off"), {}, "add --sensor pmic"),
        (SensorSource("powercap", "denied", "only root may read it"), {}, "powercap: only root may read it"),
        (SensorSource("pmic", "off"), {"telemetry_rate_hz": 0.0}, "telemetry was off"),
    ],
)
def test_where_power_could_be_read_the_way_to_it_is_said(
    source: SensorSource, changes: dict[str, Any], words: str
) -> None:
    found = made(device=a_device(sensor_sources=(source,)), **changes)
    assert words in found["energy_missing"]


def test_sources_that_were_asked_for_are_in_the_contract_and_no_others_are() -> None:
    assert made(extra_sources=("tegrastats", "jtop"))["contract"]["extra_sources"] == ["jtop", "tegrastats"]
    plain = made()["contract"]
    assert (plain["extra_sources"], plain["wait_cool_c"], plain["set_clocks"]) == (None, None, None)


def test_a_simulated_device_is_named_everywhere_and_is_only_a_note() -> None:
    device = a_device(simulated=True, simulation="rpi5-bookworm")
    found = made(*COOL, device=device)
    assert found["device"]["simulation"] == "rpi5-bookworm"
    assert (found["validity"]["status"], codes(found)) == ("ok", ["simulated"])
    assert "(simulated: rpi5-bookworm)" in printed(run_summary(found)).replace("\n", " ")


def test_a_simulated_device_never_compares_with_a_real_one_or_another_recording() -> None:
    names = ("", "rpi5-bookworm", "orin-thermal")
    real, pi, orin = (made(*COOL, device=a_device(simulated=bool(name), simulation=name)) for name in names)
    for others in ((real, pi), (pi, orin)):
        found = compare(others)
        assert (found["comparable"], found["simulation_differs"]) == (False, True)
        assert "a simulated device never compares" in printed(ratios({**found, "effects": [NO_EFFECT]}, others))
    assert compare((pi, made(*COOL, device=a_device(simulated=True, simulation="rpi5-bookworm"))))["comparable"]


def test_energies_that_cover_different_things_have_no_ratio() -> None:
    power = read("hwmon", SECONDS, 20, power__total=constant(5000))
    others = (made(*COOL, power, device=a_device((POWER,))), made(*COOL, power))
    rows = {row["metric"]: row for row in compare(others)["rows"]}
    assert rows["energy"]["values"][1] == pytest.approx(0.05, rel=1e-3)
    assert rows["energy"]["ratios"] == [None, None]
    old = {name: value for name, value in others[0].items() if name not in ("power_w", "energy_j_per_frame")}
    assert compare((old, old))["rows"][-1]["values"] == [None, None]


def test_a_soak_shows_latency_beside_temperature_clock_and_power() -> None:
    scenario = Scenario(ScenarioName.SOAK, None, 0, duration_ns=12 * 10**9)
    power = read("hwmon", SECONDS, 20, power__total=constant(5000))
    found = made(*HOT, power, block=frames(SECONDS, service_ms=slowing), scenario=scenario, device=a_device((POWER,)))
    (launch,) = found["soak"]["launches"]
    rows = launch["slices"]
    assert [row["at_s"] for row in rows] == list(range(12))
    assert sum(row["n"] for row in rows) == 1200
    assert rows[3]["temp_c"] == pytest.approx(93.4, abs=0.3)
    assert (rows[3]["cpu_mhz"], rows[10]["cpu_mhz"]) == (1728.0, 1113.6)
    assert (rows[3]["throttled"], rows[10]["throttled"]) == (0.0, 1.0)
    assert rows[3]["power_w"] == 5.0
    assert launch["sustained"]["by"] == "throttling"
    assert launch["sustained"]["ratio"] == pytest.approx(1.5, rel=0.01)
    assert launch["minutes"][0]["minute"] == 0
    words = printed(run_summary(found), width=140)
    assert "CPU MHz" in words
    assert "+50.0 % once it throttled" in words


def test_a_long_run_without_throttling_compares_its_first_ten_seconds_with_its_last_third() -> None:
    scenario = Scenario(ScenarioName.SOAK, None, 0, duration_ns=60 * 10**9)
    block = frames(60, fps=20, service_ms=lambda time: 5.0 + time / 60)
    heat = read(
        "thermal", 60, 1, temp__tj=lambda time: round(40_000 + 500 * time), throttle__thermal__cooling=constant(0)
    )
    found = document(block, (heat,), scenario=scenario)
    lasting = found["soak"]["launches"][0]["sustained"]
    assert lasting["by"] == "the first 10 s against the last third"
    assert lasting["ratio"] == pytest.approx(5.83 / 5.08, rel=0.01)
    assert found["thermal"]["hottest_c"]["per_minute"] == pytest.approx(30.0, rel=0.01)


def test_a_document_of_an_older_version_is_shown_as_it_was() -> None:
    found = made(*COOL)
    new = ("clocks", "power_w", "energy_missing", "spikes", "regime", "cool_gate", "clocks_set", "telemetry_gaps_s")
    old = {name: value for name, value in found.items() if name not in new}
    old["thermal"] = {"temperature.cpu": {"start": 40.0, "end": 45.0, "max": 46.0, "unit": "C"}}
    old["device"] = {"name": "lab1", "board": None, "simulated": False}
    assert "cpu 40 to 45 °C, at most 46" in printed(run_summary(old))
