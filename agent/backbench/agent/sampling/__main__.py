"""The sampler process: `python -m backbench.agent.sampling [--simulate NAME] [--epoch NS]`.

It is told what to do on standard input and ends when that ends, so that it does not outlive its agent. With `--survey`
it looks at every source once, prints that and ends.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
import time
from typing import Any

from backbench.agent.sampling.lines import block_fields, survey_to_line, to_line
from backbench.agent.sampling.sampler import Sampler
from backbench.agent.sensors.table import EXTRA_SOURCES, make_sources
from backbench.agent.sensors.trees import open_tree
from backbench.agent.sensors.worker import WorkerProcesses

_FLUSH_NS = 10**9
_NICE = 5


class Process:
    """The sampler under the orders of its agent."""

    def __init__(self, simulation: str, epoch_ns: int, output: int) -> None:
        self._simulation = simulation
        self._output = output
        self._sampler = Sampler()
        self._pids: set[int] = set()
        self._tree = open_tree(simulation, epoch_ns)
        self._workers = WorkerProcesses(self._tree)
        self._usable = os.sched_getaffinity(0)
        self._extra: tuple[str, ...] = ()
        self._opened = False
        self._flushed_ns = time.perf_counter_ns()

    def serve(self, orders: int) -> None:
        """Read what is due and do what is asked until `orders` ends."""
        begun = b""
        while True:
            if select.select([orders], [], [], self._wait_s())[0]:
                data = os.read(orders, 65536)
                if not data:
                    break
                *lines, begun = (begun + data).split(b"\n")
                for line in lines:
                    self._obey(json.loads(line))
            self._sampler.read_due()
            if time.perf_counter_ns() - self._flushed_ns >= _FLUSH_NS:
                self._flush()
        self._sampler.close()
        self._tree.close()

    def _wait_s(self) -> float | None:
        due_ns = self._sampler.next_due_ns
        return None if due_ns is None else max(0.0, (due_ns - time.perf_counter_ns()) / 1e9)

    def _obey(self, order: dict[str, Any]) -> None:
        ((kind, value),) = order.items()
        if kind == "plan":
            self._plan(value["rate_hz"], tuple(value["extra"]), value["number"])
        elif kind == "flush":
            self._sampler.read_all()
            self._flush()
            self._say({"answered": value})
        elif kind == "begin":
            self._pids.add(value)
            self._workers.begin(value)
        elif kind == "end":
            self._pids.discard(value)
            self._workers.end(value)
        elif kind == "pin":
            os.sched_setaffinity(0, self._usable if value is None else {value})
        elif kind == "epoch" and self._simulation:
            self._sampler.close()
            self._tree.close()
            self._tree = open_tree(self._simulation, value)
            self._workers = WorkerProcesses(self._tree)
            for pid in self._pids:
                self._workers.begin(pid)
            self._opened, self._extra = False, ()

    def _plan(self, rate_hz: float, extra: tuple[str, ...], number: int) -> None:
        self._flush()
        if not self._opened:
            self._opened = True
            for source in (*make_sources(self._tree), self._workers):
                self._sampler.add(source)
        for name in set(self._extra) - set(extra):
            self._sampler.remove(name)
        for name in extra:
            if name not in self._extra:
                self._sampler.add(EXTRA_SOURCES[name](self._tree))
        self._extra = extra
        self._sampler.run_at(rate_hz)
        self._sampler.read_all()
        self._say({"answered": number})
        self._flush()

    def _flush(self) -> None:
        self._flushed_ns = time.perf_counter_ns()
        for block in self._sampler.take():
            self._say({"block": block_fields(block)})
        while self._sampler.complaints:
            self._say({"log": self._sampler.complaints.pop(0)})

    def _say(self, message: dict[str, Any]) -> None:
        line = to_line(message)
        while line:
            line = line[os.write(self._output, line) :]


def main() -> int:
    """Serve the agent, or print a survey."""
    parser = argparse.ArgumentParser(prog="backbench.agent.sampling")
    parser.add_argument("--simulate", default="")
    parser.add_argument("--epoch", type=int, default=time.perf_counter_ns())
    parser.add_argument("--survey", action="store_true")
    parser.add_argument("--extra", action="append", default=[])
    options = parser.parse_args()
    output = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints must not mix with what is said
    if options.survey:
        from backbench.agent.sampling.survey import look

        tree = open_tree(options.simulate, options.epoch)
        os.write(output, survey_to_line(look(tree, options.extra).survey))
        return 0
    os.nice(_NICE)
    try:
        Process(options.simulate, options.epoch, output).serve(0)
    except (BrokenPipeError, KeyboardInterrupt):
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
