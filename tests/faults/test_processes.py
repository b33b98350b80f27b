"""What is counted as left over: processes that lost their parent, but not those that were there before."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from tests.faults.processes import adopting, descendants, strays

ASLEEP = "import time; time.sleep(60)"
LEAVES_ONE = f"""
import subprocess, sys
print(subprocess.Popen([sys.executable, "-c", "{ASLEEP}"], stdout=subprocess.DEVNULL).pid)
"""


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", ASLEEP]) as process:
        yield process
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="adopts processes, which Linux alone can")
def test_an_orphan_is_a_stray_and_a_bystander_is_not(bystander: subprocess.Popen[bytes]) -> None:
    with adopting():
        others = descendants()
        assert bystander.pid in others
        left = subprocess.run([sys.executable, "-c", LEAVES_ONE], stdout=subprocess.PIPE, text=True, check=True)
        orphan = psutil.Process(int(left.stdout))
        try:
            (found,) = strays(set(), others, seconds=0.2)
            assert found.startswith(f"{orphan.pid} ")
            assert strays({orphan.pid}, others, seconds=0.2) == []
        finally:
            orphan.kill()
        assert strays(set(), others) == []
