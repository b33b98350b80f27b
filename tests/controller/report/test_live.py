"""Live telemetry and a device's sensors, in words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.controller.boards import a_device, printed

from backbench.controller.report.live import (
    Latest,
    Recording,
    identity_rows,
    live_line,
    live_table,
    sensor_table,
    source_table,
)
from backbench.controller.report.units import bars, duration, reading
from backbench.domain.device import DeviceIdentity, SensorChannel, SensorSource
from backbench.domain.telemetry import TelemetryBlock, TelemetryColumn

UNITS = {"temp": "mC", "cpu": "Hz", "power": "mW", "throttle": "flag", "agent": "ns", "mem": "B"}


def block(**values: int | None) -> TelemetryBlock:
    names = {name.replace("__", "."): value for name, value in values.items()}
    columns = tuple(TelemetryColumn(name, UNITS[name.split(".")[0]], (value,)) for name, value in names.items())
    return TelemetryBlock((10**9,), columns)


def latest(*blocks: TelemetryBlock, **device: Any) -> Latest:
    known = Latest(a_device(**device), "pi5")
    for each in blocks:
        known.take(each)
    return known


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (46_062, "mC", "46.1 °C"), (1_344_000_000, "Hz", "1.34 GHz"), (306_000_000, "Hz", "306 MHz"),
        (0, "Hz", "0 MHz"), (5133, "mW", "5.13 W"), (4924, "mV", "4.924 V"), (48, "permille", "4.8 %"),
        (7_990_198_272, "B", "7.99 GB"),
        (412_340_000, "B", "412.3 MB"), (1, "flag", "yes"), (0x50005, "bits", "0x50005"), (23_000_000, "ns", "23.0 ms"),
        (1145, "rpm", "1145 rpm"), (12, "count", "12"), (None, "mW", "—"), (250_000, "uJ", "0.2 J"),
    ],
)  # fmt: skip
def test_a_reading_is_written_as_people_write_it(value: int | None, unit: str, words: str) -> None:
    assert reading(value, unit) == words


def test_short_times_and_bars() -> None:
    assert [duration(each) for each in (900, 12_000, 3_400_000, 2_000_000_000)] == ["1 us", "12 us", "3.4 ms", "2.0 s"]
    assert bars([1.0, None, 8.0]) == ["▁", " ", "█"]
    assert bars([None]) == [" "]
    assert bars([3.0, 3.0]) == ["▄", "▄"]


def test_the_table_has_what_is_read_in_sections_with_its_scope() -> None:
    total = SensorChannel("power.total", "mW", "hwmon", scope="module_input")
    known = latest(
        block(temp__tj=47_906, power__total=5133, throttle__thermal__cooling=0, agent__read__hwmon=900_000),
        sensors=(total,), simulated=True, simulation="orin-thermal",
    )  # fmt: skip
    words = printed(live_table(known))
    for part in ("pi5 (simulated: orin-thermal)", "temp.tj", "47.9 °C", "5.13 W", "module_input", "hwmon 900 us"):
        assert part in words
    assert "not throttled" in words


def test_a_state_that_is_on_and_a_counter_that_grew_are_named() -> None:
    before, now = block(throttle__events__oc_inst=37), block(throttle__events__oc_inst=61, throttle__thermal__cooling=1)
    known = latest(before, now)
    assert known.throttled() == ["thermal.cooling"]
    assert known.events() == {"oc_inst": 24}
    assert live_line(known).endswith("throttled: thermal.cooling; oc_inst +24")


def test_what_is_latched_or_advisory_is_no_state_of_now() -> None:
    known = latest(block(throttle__latched__thermal__firmware=1, throttle__advisory__hot_surface=1))
    assert known.throttled() is None
    assert live_line(known).endswith("no witness of it is read")


def test_a_line_has_the_hottest_zone_and_leaves_out_what_is_not_read() -> None:
    words = live_line(
        latest(block(temp__cpu=46_000, temp__soc=47_500, cpu__clock__policy0=2_400_000_000, mem__used=None))
    )
    assert "47.5 °C, cpu 2.40 GHz" in words
    assert "memory" not in words
    assert "power" not in words


def test_a_recording_keeps_every_sample_and_what_could_not_be_read_as_null() -> None:
    recording = Recording()
    for each in (block(temp__cpu=46_000), block(temp__cpu=None)):
        recording.take(each)
    known = a_device((SensorChannel("temp.cpu", "mC", "thermal zone", scope="cpu"),), simulated=True, simulation="rpi5")
    document = recording.document(known, "pi5")
    assert document["schema"] == "backbench.telemetry/1"
    assert document["device"] == {"name": "pi5", "simulated": True, "simulation": "rpi5"}
    (channel,) = document["channels"]
    assert (channel["name"], channel["unit"], channel["source"]) == ("temp.cpu", "mC", "thermal zone")
    assert (channel["time_ns"], channel["values"]) == ([10**9, 10**9], [46_000, None])


def test_sources_are_listed_with_their_cost_and_what_is_missing() -> None:
    sources = (
        SensorSource("hwmon", "read", period_ns=50_000_000, read_ns=900_000),
        SensorSource("vcio", "denied", "no permission for /dev/vcio; add the agent's user to group video"),
    )
    words = printed(source_table(a_device(sensor_sources=sources)))
    assert "20 Hz" in words
    assert "900 us" in words
    assert "group video" in words


def test_sensors_are_listed_with_unit_scope_and_window() -> None:
    total = SensorChannel(
        "power.total", "mW", "ina3221", scope="module_input", method="measured", window_ns=430_000_000
    )
    lost = SensorChannel("temp.gpu", "mC", "thermal zone", available=False, reason="gated")
    words = printed(sensor_table(a_device((total, lost))))
    assert "measured over 430.0 ms" in words
    assert "not readable: gated" in words


def test_a_device_says_what_it_is_and_in_which_conditions() -> None:
    identity = DeviceIdentity(
        board="Jetson Orin Nano", soc="tegra234", cuda_architecture="8.7", platform_release="L4T 36.4.4",
        jetpack="6.2.1", conditions={"power_mode": "25W"},
    )  # fmt: skip
    rows = dict(identity_rows(replace(a_device(simulated=True, simulation="x"), identity=identity)))
    assert rows["release"] == "L4T 36.4.4 (JetPack 6.2.1)"
    assert rows["CUDA"] == "compute capability 8.7"
    assert rows["power mode"] == "25W"
    assert rows["simulated"].startswith("x: telemetry is replayed")
    assert "firmware" not in rows
