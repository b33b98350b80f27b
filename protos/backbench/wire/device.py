"""Device descriptions as bytes, for stores."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from backbench.domain.device import Device
from backbench.domain.errors import JournalCorrupt
from backbench.v1 import device_pb2
from backbench.wire.mapping import from_message, to_message


def device_to_bytes(device: Device) -> bytes:
    """A device as stores keep it."""
    return to_message(device, device_pb2.Device()).SerializeToString(deterministic=True)


def device_from_bytes(data: bytes) -> Device:
    """A device out of a store. Raises JournalCorrupt."""
    try:
        return from_message(device_pb2.Device.FromString(data), Device)
    except DecodeError as error:
        raise JournalCorrupt("a stored device does not parse; it was written by another version") from error
