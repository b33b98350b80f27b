"""The quiet window, and what is counted in it."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backbench.agent.worker import table
from backbench.agent.worker.counters import QuietWindow
from backbench.agent.worker.loop import Window, Work, closed_loop

MakeTable = Callable[[int], table.FrameTable]
SECOND_NS = 10**9


class Clocks:
    """The four clocks of a machine, moved by hand."""

    def __init__(self) -> None:
        self.ns = {
            time.CLOCK_MONOTONIC: 10**12, time.CLOCK_MONOTONIC_RAW: 9 * 10**11,
            time.CLOCK_REALTIME: 10**18, time.CLOCK_BOOTTIME: 2 * 10**12,
        }  # fmt: skip

    def __call__(self, clock: int) -> int:
        return self.ns[clock]

    def advance(self, ns: int, *, only: int | None = None) -> None:
        for clock in self.ns if only is None else (only,):
            self.ns[clock] += ns

    def monotonic(self) -> int:
        return self.ns[time.CLOCK_MONOTONIC]


def counted(clocks: Clocks, happening: Callable[[], object], **places: Any) -> dict[str, int]:
    with QuietWindow(clocks, **places) as quiet:
        quiet.begin()
        happening()
    return dict(quiet.counters)


def test_the_window_holds_the_collector_off_and_gives_it_back() -> None:
    assert gc.isenabled()
    with QuietWindow() as quiet:
        quiet.begin()
        assert not gc.isenabled()
    assert gc.isenabled()
    assert quiet.counters["garbage_collection_count"] == 0


def test_a_collection_inside_the_window_is_counted_and_one_before_it_is_not() -> None:
    with QuietWindow() as quiet:
        gc.collect()
        quiet.begin()
        gc.collect()
    assert quiet.counters["garbage_collection_count"] == 1


def test_a_window_that_was_broken_off_gives_the_collector_back_and_has_no_counters() -> None:
    quiet = QuietWindow()

    def broken_off() -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError), quiet:
        quiet.begin()
        broken_off()
    assert gc.isenabled()
    assert quiet.counters == {}


def test_a_step_of_the_wall_clock_changes_no_latency_and_is_told(make_table: MakeTable) -> None:
    clocks, frames = Clocks(), make_table(20)

    def fill(frame: int) -> int:
        if frame == 10:
            clocks.advance(5 * SECOND_NS, only=time.CLOCK_REALTIME)
        return 0

    work = Work(fill, lambda _: clocks.advance(2_000_000))
    counters = counted(clocks, lambda: closed_loop(Window(0, 20), frames, work, now=clocks.monotonic))
    columns = frames.columns(0, 20)
    latencies = {done - due for due, done in zip(columns["due_ns"], columns["done_ns"], strict=True)}
    assert latencies == {2_000_000}
    assert counters["clock_step_ns"] == 5 * SECOND_NS
    assert counters["suspend_ns"] == 0
    assert counters["slew_ppb"] == 0


def test_a_step_back_is_told_with_its_sign() -> None:
    clocks = Clocks()
    counters = counted(clocks, lambda: clocks.advance(-5 * SECOND_NS, only=time.CLOCK_REALTIME))
    assert counters["clock_step_ns"] == -5 * SECOND_NS


def test_a_suspend_and_a_slew_are_told_apart() -> None:
    clocks = Clocks()

    def happening() -> None:
        clocks.advance(10 * SECOND_NS)
        clocks.advance(3 * SECOND_NS, only=time.CLOCK_BOOTTIME)
        clocks.advance(-500_000, only=time.CLOCK_MONOTONIC_RAW)

    counters = counted(clocks, happening)
    assert counters["suspend_ns"] == 3 * SECOND_NS
    assert counters["slew_ppb"] == 50_002
    assert counters["clock_step_ns"] == 0


def test_what_the_kernel_does_not_tell_is_left_out(tmp_path: Path) -> None:
    clocks = Clocks()
    counters = counted(clocks, lambda: clocks.advance(SECOND_NS), proc=tmp_path)
    assert not counters.keys() & {"swap_in_page_count", "swap_out_page_count", "run_queue_wait_ns"}
    assert {"minor_fault_count", "major_fault_count", "voluntary_switch_count", "cpu_time_ns"} <= counters.keys()


def test_swapping_and_waiting_for_a_processor_are_differences(tmp_path: Path) -> None:
    first, second = tmp_path / "self/task/1", tmp_path / "self/task/2"
    first.mkdir(parents=True)
    (tmp_path / "vmstat").write_text("pgfault 5\npswpin 100\npswpout 7\n")
    (first / "schedstat").write_text("900 1000 3\n")

    def happening() -> None:
        (tmp_path / "vmstat").write_text("pgfault 9\npswpin 104\npswpout 7\n")
        (first / "schedstat").write_text("950 1300 4\n")
        second.mkdir()
        (second / "schedstat").write_text("10 20 1\n")

    counters = counted(Clocks(), happening, proc=tmp_path)
    assert (counters["swap_in_page_count"], counters["swap_out_page_count"]) == (4, 0)
    assert counters["run_queue_wait_ns"] == 320


def test_the_real_clocks_neither_step_nor_suspend_within_a_test() -> None:
    with QuietWindow() as quiet:
        quiet.begin()
    assert abs(quiet.counters["clock_step_ns"]) < SECOND_NS
    assert abs(quiet.counters["suspend_ns"]) < SECOND_NS
