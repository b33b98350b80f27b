"""Certificates of a fleet's devices: renewing them, and telling every device what is revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import client_of, kept_up, renewed
from backbench.controller.security import Issued, Pki
from backbench.controller.store import DeviceRecord, Store
from backbench.domain.errors import BackbenchError, InvalidArgument

Failures = dict[str, BackbenchError]
"""What went wrong, by the device's name."""
PATIENCE_S = 2.0
"""How long each device is tried: one that is off gets what is due at the next contact."""
_AT_ONCE = 16
_Step = Callable[[DeviceRecord, AgentClient], DeviceRecord]


def paired_devices(store: Store) -> tuple[DeviceRecord, ...]:
    """The devices that are asked for a certificate of this fleet, and whose certificate is not revoked."""
    authority = Pki(store.root).authority()
    paired = (record for record in store.devices() if record.device_id)
    return tuple(record for record in paired if authority is None or not authority.barred(record.device_id))


def revoke(store: Store, reference: str) -> tuple[tuple[Issued, ...], Failures]:
    """Take back every valid certificate of that name or serial number, and tell the devices at once.

    Gives what is revoked, and the devices that could not be told. Raises InvalidArgument.
    """
    pki = Pki(store.root)
    authority = pki.required_authority()
    found = authority.find(reference)
    authority.revoke(found)
    pki.identity()  # another one now, if it was this controller's own
    return found, _at_all(store, paired_devices(store), lambda record, client: kept_up(store, record, client))


def renew(store: Store, names: Iterable[str]) -> tuple[tuple[str, ...], Failures]:
    """A new certificate for each of these devices, or for all that are paired and for this controller.

    Gives the devices that have it, and those that could not be reached. Raises DeviceNotFound, InvalidArgument.
    """
    pki = Pki(store.root)
    authority = pki.required_authority()
    records = tuple(store.device(name) for name in names)
    plain = [record.name for record in records if not record.device_id]
    if plain:
        raise InvalidArgument(
            f"{plain[0]} is talked to in plain text and has no certificate; see backbench pair --help"
        )
    if not records:
        pki.renew_identity()
        records = paired_devices(store)
    failures = _at_all(store, records, lambda record, client: renewed(authority, record, client))
    return tuple(record.name for record in records if record.name not in failures), failures


def _at_all(store: Store, records: tuple[DeviceRecord, ...], step: _Step) -> Failures:
    """Do one thing at every device, many at a time, and keep what they have of the fleet then."""

    def done(record: DeviceRecord) -> DeviceRecord | BackbenchError:
        try:
            with client_of(store, record, patience_s=PATIENCE_S) as client:
                return step(record, client)
        except BackbenchError as error:
            return error

    failures: Failures = {}
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        for record, outcome in zip(records, threads.map(done, records), strict=True):
            if isinstance(outcome, BackbenchError):
                failures[record.name] = outcome
            else:
                store.put_device(outcome)
    return failures
