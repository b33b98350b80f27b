"""Devices by name: adding them, reaching their agents."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from backbench.controller.client import AgentClient, Security
from backbench.controller.client.address import normal_address
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.device import MIN_PROTOCOL_REVISION, PROTOCOL_REVISION, Device
from backbench.domain.errors import DeviceNotFound, InvalidArgument, VersionMismatch

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def client_of(record: DeviceRecord, insecure: bool = False) -> AgentClient:
    """A client of the device's agent; not connected yet."""
    security = Security(record.ca_file, record.certificate_file, record.key_file, insecure)
    return AgentClient(record.address, security)


def add_device(store: Store, name: str, address: str, security: Security, check: bool = True) -> DeviceRecord:
    """Keep a device under a name, after its agent has answered (unless `check` is off).

    Raises InvalidArgument for a name that is taken by another address.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'"{name}" cannot be a device name; take 1 to 64 letters, digits, ".", "_" and "-", beginning with a letter'
            " or digit"
        )
    address = normal_address(address)
    known = _known(store, name)
    if known is not None and known.address != address:
        raise InvalidArgument(
            f"device {name} exists, at {known.address}; take another name, or first: backbench device remove {name}"
        )
    record = DeviceRecord(
        name=name,
        address=address,
        added_unix_ns=known.added_unix_ns if known else time.time_ns(),
        device=known.device if known else None,
        ca_file=security.ca_file,
        certificate_file=security.certificate_file,
        key_file=security.key_file,
    )
    if check:
        with client_of(record, security.insecure) as client:
            record = replace(record, device=checked_device(client))
    store.put_device(record)
    return record


def checked_device(client: AgentClient) -> Device:
    """The device behind a client. Raises VersionMismatch where the two cannot work together."""
    device = client.get_device()
    if device.min_protocol_revision > PROTOCOL_REVISION:
        raise VersionMismatch(
            f"the agent at {client.address} ({device.agent_version}) needs a newer controller; update Backbench here"
        )
    if device.protocol_revision < MIN_PROTOCOL_REVISION:
        raise VersionMismatch(
            f"the agent at {client.address} ({device.agent_version}) is too old; update Backbench on the device"
        )
    return device


def _known(store: Store, name: str) -> DeviceRecord | None:
    try:
        return store.device(name)
    except DeviceNotFound:
        return None
