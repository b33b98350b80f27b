"""What the controller keeps: devices and runs in SQLite, frames and telemetry in Parquet."""

from backbench.controller.store.log import EventLog
from backbench.controller.store.records import DeviceRecord, DeviceRoofline, RunRecord
from backbench.controller.store.store import Store, default_root

__all__ = ["DeviceRecord", "DeviceRoofline", "EventLog", "RunRecord", "Store", "default_root"]
