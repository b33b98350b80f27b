"""Devices by name: adding them, reaching their agents, keeping up what they know of the fleet."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from backbench.controller.client import AgentClient, Security, Tls
from backbench.controller.client.address import is_loopback, normal_address
from backbench.controller.security import Authority, Identity, Pki
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.device import MIN_PROTOCOL_REVISION, PROTOCOL_REVISION, Device
from backbench.domain.errors import DeviceNotFound, InvalidArgument, Unauthenticated, UntrustedAgent, VersionMismatch
from backbench.domain.security import AgentSecurity
from backbench.wire.certificates import DEVICE_LIFETIME, any_device_name, device_name

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def client_of(
    store: Store, record: DeviceRecord, insecure: bool = False, patience_s: float | None = None
) -> AgentClient:
    """A client of the device's agent; not connected yet.

    A device that showed its certificate once is asked for it ever after; any other one is talked to in plain text on
    this machine or where `insecure` says so, and beyond that must be of this controller's fleet. Raises
    InvalidArgument where this controller is in none, Unauthenticated for a certificate that was revoked or expired.
    """
    plain = not record.device_id and (insecure or is_loopback(record.address))
    security = Security(insecure=insecure) if plain else Security(_tls(store, record))
    return AgentClient(record.address, security, patience_s)


def add_device(
    store: Store, name: str, address: str, *, insecure: bool = False, tls: bool = False, check: bool = True
) -> DeviceRecord:
    """Keep a device under a name, after its agent has answered (unless `check` is off).

    `tls` asks for a certificate on this machine too. Raises InvalidArgument for a name that is taken by another
    address.
    """
    address = normal_address(address)
    known = check_name(store, name)
    if known is not None and known.address != address:
        raise InvalidArgument(
            f"device {name} exists, at {known.address}; take another name, or first: backbench device remove {name}"
        )
    record = known or DeviceRecord(name, address, time.time_ns(), None)
    if not check:
        if tls:
            raise InvalidArgument("--tls and --no-check: the device must answer to show its certificate; drop one")
        store.put_device(record)
        return record
    with AgentClient(address, Security(_tls(store, record))) if tls else client_of(store, record, insecure) as client:
        contact(store, record, client)
    return store.device(name)


def check_name(store: Store, name: str) -> DeviceRecord | None:
    """The device that has a name, if any. Raises InvalidArgument for one that no device can have."""
    if _NAME.fullmatch(name) is None:
        raise InvalidArgument(
            f'"{name}" cannot be a device name; take 1 to 64 letters, digits, ".", "_" and "-", beginning with a letter'
            " or digit"
        )
    try:
        return store.device(name)
    except DeviceNotFound:
        return None


def contact(store: Store, record: DeviceRecord, client: AgentClient) -> Device:
    """The device behind a client as it is now, kept in the store; what is due for its certificate is done.

    Raises VersionMismatch where the two cannot work together.
    """
    device = checked_device(client)
    record = replace(record, device=device)
    if client.tls and record.device_id:
        record = kept_up(store, record, client)
    elif client.tls:
        # What it showed is good for every device of the fleet: it gets no certificate of the one that it says it is.
        record = _informed(_pinned(store, record, device, client), _identity(store, record), client)
    store.put_device(record)
    return device


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


def kept_up(store: Store, record: DeviceRecord, client: AgentClient) -> DeviceRecord:
    """What the device has of the fleet, after it was given a newer list of revoked certificates and, when less than a
    third of its certificate's time is left, another certificate; no call where nothing is due.
    """
    pki = Pki(store.root)
    identity = pki.identity()
    if identity is None:
        return record
    record = _informed(record, identity, client)
    authority = pki.authority()
    if authority is None or record.certificate_not_after_unix_s - time.time() > DEVICE_LIFETIME.total_seconds() / 3:
        return record
    return renewed(authority, record, client)


def renewed(authority: Authority, record: DeviceRecord, client: AgentClient) -> DeviceRecord:
    """As `certified`, for a device that is of the fleet already. Raises UntrustedAgent for one that says it is another:
    it would get the certificate by which that one is known.
    """
    agent = client.get_security()
    if agent.device_id != record.device_id:
        raise UntrustedAgent(
            f"the agent at {record.address} says that it is device {agent.device_id[:64]!a}, and its certificate that"
            f" it is {record.device_id}: it gets no other one; look at who runs on {record.name}, and pair it again"
        )
    return certified(authority, agent, record, client)


def certified(authority: Authority, agent: AgentSecurity, record: DeviceRecord, client: AgentClient) -> DeviceRecord:
    """What the device has of the fleet, after its agent was given a new certificate."""
    certificate, end = authority.sign_device(agent, record.name)
    # The number first: if somebody revokes in between, the device is given the newer list once more, never too little.
    (number, _), revocations = authority.revoked(), authority.revocations_pem()
    client.install_certificate(certificate, authority.certificate_pem, revocations)
    return replace(record, device_id=agent.device_id, certificate_not_after_unix_s=end, revocation_number=number)


def _informed(record: DeviceRecord, identity: Identity, client: AgentClient) -> DeviceRecord:
    """What the device has of the fleet, after it was given a newer list of revoked certificates, if there is one."""
    if record.revocation_number >= identity.revocation_number:
        return record
    return replace(record, revocation_number=client.install_revocations(identity.revocations_pem))


def _pinned(store: Store, record: DeviceRecord, device: Device, client: AgentClient) -> DeviceRecord:
    """The record of a device that is met for the first time: its id, and what it has of this fleet."""
    identity = _identity(store, record)
    if record.device_id:
        return record
    fleets = {fleet.fleet_id: fleet for fleet in client.get_security().fleets}
    fleet = fleets.get(identity.fleet_id)
    return replace(
        record,
        device_id=device.device_id,
        certificate_not_after_unix_s=fleet.not_after_unix_s if fleet else 0,
        revocation_number=fleet.revocation_number if fleet else 0,
    )


def _tls(store: Store, record: DeviceRecord) -> Tls:
    identity = _identity(store, record)
    authority = Pki(store.root).authority() if record.device_id else None
    if authority is not None and authority.barred(record.device_id):
        raise Unauthenticated(
            f"the certificate of {record.name} was revoked, and nothing is sent to it; to trust it again:"
            f" backbench pair {record.address} --name {record.name}"
        )
    fleet_id = identity.fleet_id
    name = device_name(record.device_id, fleet_id) if record.device_id else any_device_name(fleet_id)
    return Tls(identity.authority_pem, identity.certificate_pem, identity.key_pem, name)


def _identity(store: Store, record: DeviceRecord) -> Identity:
    identity = Pki(store.root).identity()
    if identity is None:
        raise InvalidArgument(
            f"{record.address} was not paired with this controller, so neither knows the other; do it once:"
            f" backbench pair {record.address} (or, for plain text that anyone on the network can read:"
            " --insecure-plaintext)"
        )
    return identity
