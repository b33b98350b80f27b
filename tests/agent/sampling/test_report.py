"""`backbench-agent sensors`: what is read of a board, in units that people use, and what is not and why."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from backbench.agent.sampling.report import sensors_document, sensors_text, value_text
from backbench.agent.sampling.survey import look
from backbench.agent.sensors.base import Unread
from backbench.agent.sensors.trees import open_tree


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (46_062, "mC", "46.1 C"),
        (-500, "mC", "-0.5 C"),
        (1_344_000_000, "Hz", "1.34 GHz"),
        (306_000_000, "Hz", "306 MHz"),
        (0, "Hz", "0 Hz"),
        (5133, "mW", "5.13 W"),
        (650, "mW", "650 mW"),
        (22_968, "mW", "23.0 W"),
        (4924, "mV", "4.92 V"),
        (1040, "mA", "1.04 A"),
        (262_143_318_123, "uJ", "262 kJ"),
        (3_777_425_408, "B", "3.78 GB"),
        (48, "permille", "4.8 %"),
        (1, "flag", "yes"),
        (0, "flag", "no"),
        (1145, "rpm", "1145 rpm"),
        (0x50005, "bits", "0x50005"),
        (23_104, "us", "23.1 ms"),
        (12_500, "ns", "12.5 us"),
        (37, "count", "37"),
        (2, "id", "2"),
    ],
)
def test_values_are_said_in_units_that_people_use(value: int, unit: str, text: str) -> None:
    assert value_text(value, unit) == text


def test_a_recorded_board_is_shown_whole_with_what_it_lacks_and_what_would_bring_it() -> None:
    found = look(open_tree("jetson-orin-nano-jp621", 0), extra=("pmic", "tegrastats", "jtop"), read=("tegrastats",))
    assert found.values["power.total"] == 5133
    assert found.values["temp.cv0"] == Unread("EAGAIN")
    document = sensors_document(found, "jetson-orin-nano-jp621")
    sources = {source["name"]: source for source in document["sources"]}
    assert sources["hwmon"]["state"] == sources["tegrastats"]["state"] == "read"
    assert sources["hwmon"]["read_us"] > 0
    assert sources["vcio"]["state"] == "absent"
    assert all(source["reason"] for source in document["sources"] if source["state"] != "read")
    (total,) = (each for each in sources["hwmon"]["channels"] if each["name"] == "power.total")
    assert (total["value"], total["unit"], total["scope"]) == (5133, "mW", "module_input")
    text = sensors_text(document)
    assert text.startswith("simulated: jetson-orin-nano-jp621\n")
    assert "its hardware sleeps (EAGAIN)" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["temp.tj", "47.9", "C"] in [line[:3] for line in lines]
    assert ["temp.cv0", "-"] in [line[:2] for line in lines]
    assert ["vcio", "absent:"] in [line[:2] for line in lines]


def test_a_source_that_costs_something_is_off_until_it_is_asked_for() -> None:
    found = look(open_tree("rpi5-bookworm", 0), extra=("pmic",))
    (pmic,) = (source for source in found.survey.sources if source.name == "pmic")
    assert (pmic.state, pmic.reason) == ("off", "read where it is asked for: --sensor pmic")
    assert "power.total" not in found.values
    assert "power.total" in {channel.name for channel in found.survey.extra_channels}


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backbench.agent", "sensors", *arguments], capture_output=True, text=True, check=False
    )


def test_the_command_needs_no_agent_and_shows_this_machine() -> None:
    done = command("--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["simulation"] is None
    sources = {source["name"]: source for source in document["sources"]}
    assert {channel["name"] for channel in sources["proc"]["channels"]} > {"mem.total", "mem.available"}
    assert all(channel["value"] for channel in sources["proc"]["channels"] if channel["name"] == "mem.total")
    assert all(source["reason"] for source in document["sources"] if source["state"] != "read")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--sensor", "lidar"), '--sensor "lidar" is none of pmic, tegrastats, jtop'),
        (("--simulate", "pdp11"), "rpi5-bookworm"),
    ],
)
def test_a_wrong_name_is_one_line_that_lists_the_right_ones(arguments: tuple[str, ...], words: str) -> None:
    done = command(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("backbench-agent: error: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
