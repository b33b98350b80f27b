"""Thermal zones and cooling devices."""

from __future__ import annotations

import errno

import pytest
from tests.fakes.trees import Content, Files

from backbench.agent.sensors.base import Unread, Value
from backbench.agent.sensors.thermal import ThermalZones

_CLASS = "sys/class/thermal"


def zone(place: int, kind: str | Content, temperature: str | Content) -> dict[str, str | Content]:
    return {f"{_CLASS}/thermal_zone{place}/type": kind, f"{_CLASS}/thermal_zone{place}/temp": temperature}


def device(place: int, kind: str | Content, state: str | Content) -> dict[str, str | Content]:
    return {f"{_CLASS}/cooling_device{place}/type": kind, f"{_CLASS}/cooling_device{place}/cur_state": state}


def values(files: dict[str, str | Content]) -> dict[str, Value]:
    source = ThermalZones(Files(files))
    source.probe()
    return dict(source.read())


def test_zones_have_the_same_names_on_every_release() -> None:
    jetpack_5 = zone(0, "CPU-therm\n", "44562\n") | zone(9, "Tboard_tegra\n", "32000\n") | zone(8, "tj-therm\n", "1\n")
    jetpack_6 = zone(4, "cpu-thermal\n", "44562\n") | zone(1, "tj-thermal\n", "1\n")
    assert values(jetpack_5) == {"temp.cpu": 44562, "temp.tboard": 32000, "temp.tj": 1}
    assert values(jetpack_6) == {"temp.cpu": 44562, "temp.tj": 1}


def test_a_zone_of_constant_temperature_is_left_out() -> None:
    assert values(zone(0, "PMIC-Die\n", "100000\n")) == {}


def test_a_part_that_is_off_is_unreadable_and_not_256_degrees_below_zero() -> None:
    files = zone(0, "CV0-therm\n", "-256000\n") | zone(1, "gpu-thermal\n", errno.EAGAIN) | zone(2, "x\n", "-12000\n")
    assert values(files) == {"temp.cv0": Unread("ENODATA"), "temp.gpu": Unread("EAGAIN"), "temp.x": -12000}


def test_two_zones_of_one_kind_are_two_channels() -> None:
    assert values(zone(2, "acpitz\n", "2\n") | zone(10, "acpitz\n", "10\n")) == {"temp.acpitz": 2, "temp.acpitz_2": 10}


def test_a_zone_without_a_readable_kind_is_left_out() -> None:
    assert values(zone(0, errno.EIO, "50000\n") | zone(1, b"\0\0", "60000\n")) == {}


@pytest.mark.parametrize(
    "kind",
    ["gpu-throttle-alert", "cpufreq-cpu0", "thermal-cpufreq-0", "devfreq-17000000.gpu", "thermal-devfreq-1",
     "Processor", "intel_powerclamp", "cpu-balanced", "gpu-emergency"],
)  # fmt: skip
def test_a_cooling_device_that_slows_something_down_is_a_witness(kind: str) -> None:
    assert values(device(0, kind, "0\n")) == {"throttle.thermal.cooling": 0}
    assert values(device(0, kind, "3\n")) == {"throttle.thermal.cooling": 1}


@pytest.mark.parametrize("kind", ["pwm-fan", "Fan", "iwlwifi", "TCC_Offset", "LCD"])
def test_a_fan_that_turns_and_a_dimmed_screen_are_no_throttling(kind: str) -> None:
    assert values(device(0, kind, "3\n")) == {}


def test_an_idle_power_clamp_says_minus_one() -> None:
    assert values(device(0, "intel_powerclamp\n", "-1\n")) == {"throttle.thermal.cooling": 0}


def test_a_hot_surface_is_an_advice_apart() -> None:
    files = device(3, "cpu-throttle-alert\n", "0\n") | device(12, "hot-surface-alert\n", "1\n")
    assert values(files) == {"throttle.thermal.cooling": 0, "throttle.advisory.hot_surface": 1}


def test_devices_are_known_by_kind_whatever_their_numbers() -> None:
    """Device 10 is the alert here, 2 in another start of the same board."""
    assert values(device(2, "pwm-fan\n", "4\n") | device(10, "gpu-throttle-alert\n", "1\n")) == {
        "throttle.thermal.cooling": 1
    }
    assert values(device(10, "pwm-fan\n", "4\n") | device(2, "gpu-throttle-alert\n", "0\n")) == {
        "throttle.thermal.cooling": 0
    }


def test_an_unreadable_device_leaves_it_open_unless_another_one_is_on() -> None:
    unreadable = device(0, "cpu-throttle-alert", errno.EACCES)
    assert values(unreadable | device(1, "gpu-throttle-alert", "0"))["throttle.thermal.cooling"] == Unread("EACCES")
    assert values(unreadable | device(1, "gpu-throttle-alert", "1"))["throttle.thermal.cooling"] == 1


def test_a_zone_that_appears_and_goes_is_unreadable_afterwards() -> None:
    tree = Files(zone(0, "cpu-thermal", "40000"))
    source = ThermalZones(tree)
    source.probe()
    del tree.files[f"{_CLASS}/thermal_zone0/temp"]
    assert source.read() == {"temp.cpu": Unread("ENOENT")}
