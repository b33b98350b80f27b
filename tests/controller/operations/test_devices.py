"""Whether a device can be worked with."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import checked_device
from backbench.domain.device import MIN_PROTOCOL_REVISION, PROTOCOL_REVISION, Device, DeviceIdentity, Limits
from backbench.domain.errors import VersionMismatch

DEVICE = Device("d", DeviceIdentity(), (), (), Limits(), "0.9.1", PROTOCOL_REVISION, MIN_PROTOCOL_REVISION, "i")


class Agent:
    """Stands for a client of an agent that is this device."""

    address = "pi5.local:50061"

    def __init__(self, device: Device) -> None:
        self._device = device

    def get_device(self) -> Device:
        return self._device


def checked(device: Device) -> Device:
    return checked_device(cast("AgentClient", Agent(device)))


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (replace(DEVICE, protocol_revision=MIN_PROTOCOL_REVISION - 1, min_protocol_revision=0), "on the device"),
        (replace(DEVICE, protocol_revision=99, min_protocol_revision=PROTOCOL_REVISION + 1), "update Backbench here"),
    ],
)
def test_an_agent_of_another_time_is_named_with_the_side_to_update(device: Device, words: str) -> None:
    with pytest.raises(VersionMismatch, match=rf"pi5\.local:50061 \(0\.9\.1\).*{words}") as caught:
        checked(device)
    assert caught.value.exit_status == 3


def test_neighbouring_versions_work_together() -> None:
    newer = replace(DEVICE, protocol_revision=PROTOCOL_REVISION + 1)
    older = replace(DEVICE, protocol_revision=MIN_PROTOCOL_REVISION)
    assert (checked(DEVICE), checked(newer), checked(older)) == (DEVICE, newer, older)
