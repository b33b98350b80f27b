"""Pairing: with a one-time code of an agent, this controller's fleet and the agent come to know each other."""

from __future__ import annotations

import re
import time
from dataclasses import replace

from backbench.controller.client import AgentClient, Security, Tls
from backbench.controller.client.address import normal_address
from backbench.controller.client.calls import OTHER_CERTIFICATE, TURNED_AWAY
from backbench.controller.operations.devices import certified, check_name, client_of, contact
from backbench.controller.security import Pki
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.errors import BackbenchError, InvalidArgument, Unauthenticated, Unreachable, UntrustedAgent
from backbench.domain.security import AgentSecurity
from backbench.wire.certificates import key_to_pem, new_key, to_pem
from backbench.wire.pairing import normal_code, pairing_authority, pairing_name, sign_pairing_client


def pair(store: Store, address: str, code: str, name: str = "") -> DeviceRecord:
    """Take the agent that has this code into the fleet, and keep its device under `name`, else its host's name.

    A fleet is made where there is none yet. Raises InvalidArgument for a code or a name that can be none,
    Unauthenticated for a code that the agent does not have, PermissionDenied for one that was used already.
    """
    address, code = normal_address(address), normal_code(code)
    if name:
        check_name(store, name)
    authority = Pki(store.root).authority_or_new()
    with AgentClient(address, Security(_pairing_tls(code))) as client:
        agent = _agent(client)
        known = _known(store, agent, address, name)
        record = known or DeviceRecord(name or _free_name(store, agent), address, time.time_ns(), None)
        record = replace(certified(authority, agent, record, client), address=address)
    # Kept before it is asked more: the code is used up, and the device is of the fleet from now on.
    store.put_device(record)
    with client_of(store, record) as client:
        contact(store, record, client)
    return store.device(record.name)


def _pairing_tls(code: str) -> Tls:
    key = new_key()
    _, authority = pairing_authority(code)
    certificate = sign_pairing_client(code, key.public_key())
    return Tls(to_pem(authority), to_pem(certificate), key_to_pem(key), pairing_name(code))


def _agent(client: AgentClient) -> AgentSecurity:
    try:
        return client.get_security()
    except (UntrustedAgent, Unreachable) as error:
        raise _refusal(client.address, error) from error


def _refusal(address: str, error: BackbenchError) -> BackbenchError:
    """An agent that does not have the code cannot show a certificate of it, or turns away the one made of it."""
    if error.details.get("cause") in (*OTHER_CERTIFICATE, TURNED_AWAY):
        return Unauthenticated(
            f"no agent with this pairing code answers at {address}; check the code (it is good for 10 minutes, once):"
            " backbench-agent pair prints a new one"
        )
    return error


def _known(store: Store, agent: AgentSecurity, address: str, name: str) -> DeviceRecord | None:
    """The device's record: the one of the name that is given, else one that it has under any name.

    A name given again with its address is the same device, set up anew. Raises InvalidArgument, before the code is used
    up, for a name that another device has, and for an agent that says it is a device that is paired under another name
    or address: it would get the certificate of that one.
    """
    for record in store.devices():
        if record.device_id == agent.device_id and record.name != name and (name or record.address != address):
            raise InvalidArgument(
                f"the agent at {address} says that it is {record.name}, which is paired at {record.address}; if that"
                f" device has moved: --name {record.name}, if it is to be forgotten: backbench device remove"
                f" {record.name}"
            )
    if name:
        named = check_name(store, name)
        if named is not None and agent.device_id not in _ids(named) and named.address != address:
            raise InvalidArgument(
                f"device {name} exists, at {named.address}; take another --name, or first: backbench device remove"
                f" {name}"
            )
        return named
    return next((record for record in store.devices() if agent.device_id in _ids(record)), None)


def _ids(record: DeviceRecord) -> set[str]:
    return {record.device_id, record.device.device_id if record.device else ""} - {""}


def _free_name(store: Store, agent: AgentSecurity) -> str:
    """The host's name, with a number where another device has it."""
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", agent.hostname.removesuffix(".local")).lstrip("._-")[:56] or "device"
    taken = {record.name for record in store.devices()}
    return next(name for name in (host, *(f"{host}-{number}" for number in range(2, 10_000))) if name not in taken)
