"""A stand-in for jtop.service: `python fake_jtop.py SOCKET VERSION [MODE]`, standard library alone.

It speaks what the client of jetson-stats expects of the service: three objects of a multiprocessing manager behind a
constant key. Modes: "good"; "mute" never answers; "slow" gives a sample every 1.5 s, whoever asks for more; "stale"
gives the same sample again and again.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from multiprocessing.managers import SyncManager
from pathlib import Path
from typing import Any

KEY = b"b'UmFmZmFlbGxvIEJvbmdoaQ=='"
SLOW_S = 1.5
BOARD = {
    "hardware": {
        "Model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", "P-Number": "p3767-0004",
        "Module": "NVIDIA Jetson Orin Nano (4GB ram)", "SoC": "tegra234", "CUDA Arch BIN": "8.7",
        "Serial Number": "1420000000000", "L4T": "36.4.3", "Jetpack": "6.2",
    }
}  # fmt: skip


def _core(user: float, clock: int) -> dict[str, Any]:
    return {
        "online": True, "governor": "schedutil", "freq": {"min": 729600, "max": 1728000, "cur": clock},
        "info_freq": {"min": 115200, "max": 1728000, "cur": clock}, "idle_state": {"WFI": 0, "c7": 0},
        "model": "ARMv8 Processor rev 1 (v8l)", "user": user, "nice": 0.0, "system": 2.0, "idle": 98.0 - user,
    }  # fmt: skip


def _rail(volt: int, current: int, power: int) -> dict[str, Any]:
    return {
        "volt": volt, "curr": current, "warn": 32760, "crit": 32760, "power": power, "online": True, "avg": power,
    }  # fmt: skip


FRAME: dict[str, Any] = {
    "cpu": {
        "total": {"user": 3.31, "nice": 0.0, "system": 2.11, "idle": 93.61},
        "cpu": [_core(8.25, 1344000), _core(25.25, 1344000), _core(1.02, 729600)],
    },
    "gpu": {
        "gpu": {
            "type": "integrated",
            "status": {"railgate": False, "tpc_pg_mask": False, "3d_scaling": True, "load": 4.8},
            "freq": {"governor": "nvhost_podgov", "cur": 306000, "max": 1020000, "min": 306000, "GPC": [305981]},
            "power_control": "auto",
        }
    },
    "processes": [[1907, "jetson", "I", "Graphic", 20, "S", 0.5285, 50308, 5704, "gnome-shell"]],
    "mem": {
        "RAM": {
            "tot": 3688892, "used": 1687344, "free": 737636, "buffers": 99660, "cached": 1258132, "shared": 36904,
            "lfb": 28,
        },
        "SWAP": {"tot": 1844424, "used": 0, "cached": 0, "table": {}},
        "EMC": {"cur": 2133000, "max": 3199000, "min": 204000, "override": 0, "val": 0, "online": True},
    },
    "engines": {"APE": {"APE": {"online": False, "cur": 200000}}},
    "temperature": {
        "cpu": {"temp": 46.062, "online": True},
        "cv0": {"temp": -256, "online": False},
        "gpu": {"temp": 46.406, "online": True},
        "tj": {"temp": 47.906, "online": True},
    },
    "power": {
        "rail": {"VDD_CPU_GPU_CV": _rail(4928, 216, 1064), "VDD_SOC": _rail(4936, 312, 1540)},
        "tot": {**_rail(4936, 1040, 5133), "name": "VDD_IN"},
    },
    "fan": {
        "pwmfan": {
            "speed": [26.274509803921568], "rpm": [1145], "profile": "quiet", "governor": "cont",
            "control": "close_loop",
        }
    },
    "jc": {"enable": False, "thread": "inactive", "config": True, "boot": False},
    "nvp": {"status": [True] * 4, "thread": False, "model": {"name": "25W", "id": 1}},
}  # fmt: skip

_QUEUE: queue.Queue[dict[str, Any]] = queue.Queue()
_DATA: dict[str, Any] = {}
_EVENT = threading.Event()


class _Manager(SyncManager):
    pass


_Manager.register("get_queue", callable=lambda: _QUEUE)
_Manager.register("sync_data", callable=lambda: _DATA)
_Manager.register("sync_event", callable=lambda: _EVENT)


class Service:
    """Answers the handshake and fills the shared dictionary; the first client sets the rate, but for a slow one."""

    def __init__(self, version: str, mode: str) -> None:
        self._version = version
        self._mode = mode
        self._interval_s = SLOW_S if mode == "slow" else 0.0
        self._stopped_uptime_s = _uptime_s()

    def serve(self, path: str) -> None:
        server = _Manager(address=path, authkey=KEY).get_server()
        for work in (self._sample, self._answer):
            threading.Thread(target=work, daemon=True).start()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        server.serve_forever()

    def _sample(self) -> None:
        while True:
            if not self._interval_s:
                time.sleep(0.005)
                continue
            _DATA.update(FRAME, uptime=self._stopped_uptime_s if self._mode == "stale" else _uptime_s())
            _EVENT.set()
            time.sleep(self._interval_s)

    def _answer(self) -> None:
        while True:
            asked = _QUEUE.get()
            if "init" in asked:  # our own answer: the queue is one for both directions
                _QUEUE.put(asked)
                time.sleep(0.002)
            elif "interval" in asked and self._mode != "mute":
                self._interval_s = self._interval_s or asked["interval"]
                _QUEUE.put({"init": self._greeting()})
                time.sleep(0.01)

    def _greeting(self) -> dict[str, Any]:
        modes = {"models": ["MAXN", "10W", "15W", "25W"], "default": {"name": "15W", "id": 2}}
        return {
            "version": self._version, "board": BOARD, "interval": self._interval_s, "memory": "/swfile", "fan": {},
            "jc": True, "nvpmodel": modes,
        }  # fmt: skip


def _uptime_s() -> float:
    return float(Path("/proc/uptime").read_text().split()[0])


if __name__ == "__main__":
    Service(sys.argv[2], sys.argv[3] if len(sys.argv) > 3 else "good").serve(sys.argv[1])
