"""What jetson-stats says of a Jetson, as a cross-check: its client runs in a process of its own, with deadlines.

jetson-stats is AGPL-3.0, changes how its process starts others when it is imported, and may wait for its service for
ever. So it is never imported here: the bridge prints a line a sample, and this module reads lines.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from backbench.agent.sensors.base import Coverage, Unread, Value
from backbench.agent.sensors.reading import bounded
from backbench.agent.sensors.tree import Tree
from backbench.domain.device import SensorChannel

FIRST_SAMPLE_S = 5.0
"""For the client's import, its handshake and one sample at a sample a second."""
_BRIDGE = (sys.executable, "-m", "backbench.agent.sensors.jtop_bridge")
_POLL_S = 0.02
_SHORTEST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0
_STALE_PERIODS = 3
_ENDING_S = 2.0


class Jtop:
    """The newest sample of the jtop service; EAGAIN between two of them, ETIMEDOUT when they stay away."""

    name = "jtop"
    rate_hz = 1.0

    def __init__(
        self,
        tree: Tree,
        arguments: Sequence[str] = (),
        first_sample_s: float = FIRST_SAMPLE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tree = tree
        self._arguments = tuple(arguments)
        self._first_sample_s = first_sample_s
        self._clock = clock
        self._bridge: _Bridge | None = None
        self._units: dict[str, str] = {}
        self._newest_s = 0.0
        self._period_s = 1.0
        self._wait_s = _SHORTEST_WAIT_S
        self._again_s = 0.0

    def probe(self) -> Coverage:
        """Waits for the first sample, some seconds at most; then the bridge is ended."""
        if self._tree.simulated:
            return Coverage.absent("a recorded board has no jtop service")
        self._bridge = _Bridge(self._arguments)
        said = self._first_message()
        if "values" not in said:
            self.close()
            state = "denied" if said.get("denied") else "absent"
            return Coverage(state=state, reason=str(said["error"]))
        self._units = {name: unit for name, (unit, _) in said["values"].items()}
        self._period_s, self._newest_s = float(said["interval_s"]), self._clock()
        return Coverage(tuple(_channel(name, unit) for name, unit in self._units.items()))

    def read(self) -> Mapping[str, Value]:
        """Never waits. A bridge that has ended is started again, after 1 s, 2 s, ... up to 30 s."""
        now_s = self._clock()
        if self._bridge is None:
            return self._without_bridge(now_s)
        message = self._bridge.newest()
        if message is not None and "values" in message:
            self._newest_s, self._wait_s = now_s, _SHORTEST_WAIT_S
            values = {name: value for name, (_, value) in message["values"].items()}
            return {name: _value(values.get(name)) for name in self._units}
        if message is not None or self._bridge.ended:
            self.close()
            self._again_s = now_s + self._wait_s
            self._wait_s = min(2 * self._wait_s, _LONGEST_WAIT_S)
            return self._all("ECONNRESET")
        if now_s - self._newest_s > max(_STALE_PERIODS * self._period_s, self._first_sample_s):
            self.close()
            self._again_s = now_s + self._wait_s
            return self._all("ETIMEDOUT")
        return self._all("EAGAIN" if now_s - self._newest_s <= _STALE_PERIODS * self._period_s else "ETIMEDOUT")

    def close(self) -> None:
        """End the bridge."""
        if self._bridge is not None:
            self._bridge.end()
            self._bridge = None

    def _without_bridge(self, now_s: float) -> Mapping[str, Value]:
        if self._units and now_s >= self._again_s:
            self._newest_s = self._again_s = now_s
            with contextlib.suppress(OSError):  # no room for a process just now
                self._bridge = _Bridge(self._arguments)
            self._again_s += self._wait_s
        return self._all("ECONNRESET")

    def _first_message(self) -> dict[str, Any]:
        bridge, until_s = self._bridge, self._clock() + self._first_sample_s
        while bridge is not None and self._clock() < until_s:
            if (message := bridge.newest()) is not None:
                return message
            if bridge.ended:
                return {"error": "the jtop client ended without a word; try the jtop command"}
            time.sleep(_POLL_S)
        return {"error": f"the jtop service gave no sample for {self._first_sample_s:g} s; restart jtop.service"}

    def _all(self, code: str) -> Mapping[str, Value]:
        return dict.fromkeys(self._units, Unread(code))


class _Bridge:
    """A running bridge and what it printed; ending it leaves no process."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            [*_BRIDGE, "--parent", str(os.getpid()), *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None  # noqa: S101 - it was asked for
        self._descriptor = self._process.stdout.fileno()
        os.set_blocking(self._descriptor, False)
        self._partial = b""

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def newest(self) -> dict[str, Any] | None:
        """The newest whole message since the last call; None without one."""
        try:
            while data := os.read(self._descriptor, 1 << 16):
                self._partial += data
        except BlockingIOError:
            pass
        *lines, self._partial = self._partial.split(b"\n")
        if not lines:
            return None
        try:
            message: dict[str, Any] = json.loads(lines[-1])
        except ValueError:
            return {"error": "the jtop client printed what is no sample"}
        return message

    def end(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_ENDING_S)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _value(value: Any) -> Value:
    return bounded(value) if isinstance(value, int) else Unread("ENODATA")


def _channel(name: str, unit: str) -> SensorChannel:
    return SensorChannel(name, unit, "jetson-stats", method="as jtop gives it")
