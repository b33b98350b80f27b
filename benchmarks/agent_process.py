"""An agent as a process of its own, for benchmarks."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType


class AgentProcess:
    """A context manager: an agent on loopback with a data folder that goes away with it, run by `python`."""

    def __init__(self, python: str = sys.executable) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="backbench-bench-")
        arguments = ["serve", "--listen", "127.0.0.1:0", "--data-dir", self._folder.name, "--log-level", "warning"]
        started = time.perf_counter()
        self.process = subprocess.Popen(
            [python, "-m", "backbench.agent", *arguments], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        self.start_s = time.perf_counter() - started
        self.address = line.removeprefix("listening on ").strip()

    @property
    def data_dir(self) -> Path:
        """Where it keeps what it has."""
        return Path(self._folder.name)

    @property
    def resident_bytes(self) -> int:
        """Resident memory now."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise LookupError("VmRSS")

    @property
    def cpu_time_s(self) -> float:
        """Processor time that the agent's own process has used, without its workers."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    def __enter__(self) -> AgentProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._folder.cleanup()
