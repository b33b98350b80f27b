"""Heat, clocks and power of simulated boards through the real commands: real agent, real frames, replayed sensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest

from backbench.domain.frame import FrameTag

MODEL = ("mobilenetv3_small_100", "--size", "64", "--no-memory-pass")


@pytest.fixture
def simulated(agents: Any, backbench: Any, tmp_path: Path) -> Any:
    """Starts an agent that replays a recording, known as `board`."""

    def start(name: str) -> Any:
        agent = agents(tmp_path / f"data-{name}", "127.0.0.1:0", "--simulate", name)
        backbench("device", "add", "board", agent.address)
        return agent

    return start


def profiled(backbench: Any, *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        backbench("profile", *MODEL, "--device", "board", "--json", *arguments).stdout
    )
    return document


def codes(document: dict[str, Any]) -> list[str]:
    return [row["code"] for row in document["validity"]["reasons"]]


def test_a_board_that_heats_up_throttles_and_its_frames_are_tagged(simulated: Any, backbench: Any) -> None:
    simulated("orin-thermal")
    found = profiled(
        backbench, "--scenario", "soak", "--duration", "8s", "--fps", "60", "--wait-cool", "90C", "--regime", "locked"
    )
    assert found["cool_gate"]["cool"] is True
    assert found["device"]["simulation"] == "orin-thermal"
    assert found["thermal"]["throttled"] is True
    onset = found["thermal"]["time_to_throttle_s"]
    assert 0 <= onset["low"] <= onset["value"] <= onset["high"] < 8
    assert found["validity"]["status"] == "invalid"
    assert {"throttled", "simulated"} <= set(codes(found))
    assert "throttle_not_observed" not in codes(found)
    energy = found["energy_j_per_frame"]
    assert energy["scope"] == "module_input"
    assert energy["low"] <= energy["value"] <= energy["high"]

    rows = pyarrow.parquet.read_table(found["files"]["frames"]).to_pylist()
    timed = [(row["due_ns"], row["throttled"]) for row in rows if not row["tags"] & FrameTag.WARM_UP]
    assert sum(tag == 1 for _, tag in timed) == found["thermal"]["throttled_frames"] > 0
    before = [tag for due, tag in timed if (due - timed[0][0]) / 1e9 < onset["low"] - 0.1]
    after = [tag for due, tag in timed if (due - timed[0][0]) / 1e9 > onset["high"]]
    assert set(after) == {1}
    assert 1 not in before

    shown = backbench("run", "show", found["run_id"]).stdout
    assert "(simulated: orin-thermal)" in " ".join(shown.split())
    backbench("run", "export", found["run_id"], "--to", "frames.csv")
    assert "throttled" in (backbench.cwd / "frames.csv").read_text().splitlines()[0].split(",")


def test_a_pi_4_that_lacks_voltage_is_throttled_and_has_no_energy_and_no_zero(simulated: Any, backbench: Any) -> None:
    simulated("rpi4-undervolt")
    found = profiled(backbench, "--duration", "3s", "--budget", "energy<=1J")
    assert found["thermal"]["throttled"] is True
    assert (found["energy_j_per_frame"], found["power_w"]) == (None, None)
    assert found["energy_missing"]
    assert found["verdict"] == "unknown"


def test_a_pi_5_says_its_power_where_that_is_asked_for_and_is_waited_for(simulated: Any, backbench: Any) -> None:
    simulated("rpi5-bookworm")
    plain = profiled(backbench, "--duration", "3s", "--wait-cool", "45C", "--max-wait", "1s")
    assert plain["thermal"]["throttled"] is False
    assert plain["energy_j_per_frame"] is None
    assert "--sensor pmic" in plain["energy_missing"]
    assert plain["cool_gate"]["cool"] is False  # it stays as hot as it was recorded
    assert plain["validity"]["reasons"][0]["code"] == "not_cool"
    asked = profiled(backbench, "--duration", "4s", "--sensor", "pmic")
    assert (asked["energy_j_per_frame"]["scope"], asked["cool_gate"]) == ("pmic_rails", None)
    assert asked["power_w"]["mean"] == pytest.approx(7.369, abs=0.01)
    assert "extra_sources" in backbench("compare", plain["run_id"], asked["run_id"], status=1).stdout


def test_a_simulated_board_is_watched_and_never_compares_with_this_machine_which_says_what_it_lacks(
    simulated: Any, agents: Any, backbench: Any, tmp_path: Path
) -> None:
    simulated("rpi5-bookworm")
    shown = backbench("device", "show", "board").stdout
    for part in ("Raspberry Pi 5", "rpi5-bookworm", "temp.cpu", "vcio", "pmic", "off"):
        assert part in shown
    watched = json.loads(backbench("watch", "board", "--seconds", "2", "--sensor", "pmic", "--json").stdout)
    channels = {each["name"]: each for each in watched["channels"]}
    assert channels["power.total"]["values"][-1] == pytest.approx(7369, abs=10)
    assert channels["power.total"]["scope"] == "pmic_rails"
    assert watched["device"]["simulation"] == "rpi5-bookworm"

    backbench("device", "add", "real", agents(tmp_path / "data-real").address)
    device = json.loads(backbench("device", "show", "real", "--json").stdout)["device"]
    states = {source["name"]: source for source in device["sensor_sources"]}
    assert states["proc"]["state"] == "read"
    for source in states.values():
        assert source["state"] in ("read", "absent", "denied", "off")
        assert source["state"] == "read" or source["reason"], source
    runs = [
        json.loads(backbench("profile", *MODEL, "--device", name, "--frames", "50", "--json").stdout)["run_id"]
        for name in ("board", "real")
    ]
    compared = backbench("compare", *runs, "--across", status=1).stdout
    assert "a simulated device never compares with a real one" in " ".join(compared.split())
