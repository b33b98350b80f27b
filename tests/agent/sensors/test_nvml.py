"""NVML's values, and what a card or a library that lacks something leaves out. On a stand-in for `pynvml`."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.nvml import Nvml

_SPEC = importlib.util.spec_from_file_location("fake_nvml", Path(__file__).parents[2] / "fakes" / "fake_nvml.py")
assert _SPEC is not None
assert _SPEC.loader is not None
fake = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(fake)


class Board:
    """A tree with the given paths and nothing in them."""

    simulated = False

    def __init__(self, *paths: str) -> None:
        self._paths = paths

    def glob(self, pattern: str) -> list[str]:
        return [path for path in self._paths if Path(path).match(pattern)]


def nvml(cards: Sequence[dict[str, Any]], *paths: str, refusal: Exception | None = None) -> Nvml:
    return Nvml(Board(*paths), fake.FakeNvml(cards, refusal))  # type: ignore[arg-type]


def test_a_card_tells_power_energy_load_clocks_memory_and_why_it_is_slower() -> None:
    source = nvml([fake.desktop_card()])
    coverage = source.probe()
    values = source.read()
    assert values == {
        "power.rail.gpu": 312_456, "energy.gpu": 9_876_543_000, "mem.gpu_used": 3 << 30, "gpu.clock_max": 3_105_000_000,
        "temp.gpu": 67_000, "gpu.clock": 2_520_000_000, "gpu.util": 980, "throttle.raw.nvml": 4,
        "throttle.power.nvml": 1, "throttle.thermal.nvml": 0, "throttle.frequency.nvml": 0,
    }  # fmt: skip
    assert {channel.name for channel in coverage.channels} == values.keys()
    assert {channel.name: channel.kind for channel in coverage.channels}["energy.gpu"] == "counter"


@pytest.mark.parametrize(
    ("word", "reasons"),
    [
        (0x0, set()),
        (0x1, set()),  # idle
        (0x2, set()),  # a user's own limit
        (0x8, {"frequency"}),
        (0x20, {"thermal"}),
        (0x40, {"thermal"}),
        (0x80, {"power"}),
        (0x110, set()),  # synchronised boost, a display
        (0xEC, {"power", "thermal", "frequency"}),
    ],
)
def test_only_what_throttles_is_throttling(word: int, reasons: set[str]) -> None:
    source = nvml([fake.desktop_card(CurrentClocksEventReasons=word)])
    source.probe()
    values = source.read()
    assert {reason for reason in ("power", "thermal", "frequency") if values[f"throttle.{reason}.nvml"]} == reasons


def test_an_older_library_has_the_same_word_under_its_older_name() -> None:
    card = fake.desktop_card()
    card["CurrentClocksThrottleReasons"] = card.pop("CurrentClocksEventReasons") | 0x40
    source = nvml([card])
    source.probe()
    assert source.read()["throttle.thermal.nvml"] == 1


def test_what_a_card_does_not_support_has_no_channel_and_is_no_0() -> None:
    card = fake.desktop_card(
        PowerUsage=fake.NVMLError_NotSupported(), TotalEnergyConsumption=fake.NVMLError_NotSupported()
    )
    source = nvml([card])
    source.probe()
    assert not [name for name in source.read() if name.startswith(("power.", "energy."))]


def test_a_card_that_is_lost_in_the_middle_reads_as_lost() -> None:
    card = fake.desktop_card()
    source = nvml([card])
    source.probe()
    card.update(dict.fromkeys(("Temperature", "CurrentClocksEventReasons"), fake.NVMLError_GpuIsLost()))
    values = source.read()
    assert values["temp.gpu"] == Unread("ENODEV")
    assert values["throttle.thermal.nvml"] == Unread("ENODEV")
    assert values["gpu.util"] == 980


def test_a_second_card_has_names_of_its_own() -> None:
    source = nvml([fake.desktop_card(), fake.desktop_card(Temperature=41)])
    names = [channel.name for channel in source.probe().channels]
    assert len(set(names)) == len(names)
    assert source.read()["temp.gpu1"] == 41_000
    assert source.read()["throttle.power.nvml1"] == 1


def test_on_a_thor_only_what_the_kernel_does_not_tell_is_asked_of_nvml() -> None:
    thor = fake.desktop_card(Name="NVIDIA Thor", CurrentClocksEventReasons=fake.NVMLError_NotSupported())
    source = nvml([thor], "sys/class/devfreq/gpu-gpc-0")
    assert [channel.name for channel in source.probe().channels] == ["gpu.util"]


def test_an_orin_of_which_nvml_knows_nothing_is_absent() -> None:
    coverage = nvml([{"Name": "Orin (nvgpu)"}], "sys/class/devfreq/17000000.gpu").probe()
    assert (coverage.state, coverage.reason) == ("absent", "NVML tells nothing of this Jetson's GPU")


def test_without_a_driver_or_a_right_the_reason_is_said() -> None:
    coverage = nvml([], refusal=fake.NVMLError_LibraryNotFound()).probe()
    assert (coverage.state, coverage.reason) == (
        "absent",
        "NVML: NVML Shared Library Not Found; it needs NVIDIA's driver",
    )
    coverage = nvml([], refusal=fake.NVMLError_NoPermission()).probe()
    assert coverage.state == "denied"
    assert nvml([]).probe().reason == "NVML knows no card here"


def test_the_library_is_closed_once() -> None:
    module = fake.FakeNvml([fake.desktop_card()])
    source = Nvml(Board(), module)  # type: ignore[arg-type]
    source.probe()
    assert module.opened == 1
    source.close()
    source.close()
    assert module.opened == 0


def test_the_real_library_says_that_there_is_no_driver_where_there_is_none() -> None:
    pynvml = pytest.importorskip("pynvml")
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert Nvml(Board()).probe().reason.endswith("it needs NVIDIA's driver")  # type: ignore[arg-type]
    else:
        pynvml.nvmlShutdown()
        pytest.skip("there is a driver here")


def test_a_recorded_board_has_no_library() -> None:
    recorded = SimpleNamespace(simulated=True)
    assert Nvml(recorded).probe().reason == "a recorded board has no driver library"
