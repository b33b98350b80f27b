"""The runs that devices have, and what of them is here."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from backbench.controller.client import AgentClient
from backbench.controller.operations.devices import client_of
from backbench.controller.security import Pki
from backbench.controller.store import RunRecord, Store
from backbench.domain.device import Device
from backbench.domain.errors import BackbenchError, InvalidArgument, RunNotFound
from backbench.domain.run import Owner, Run

_SHORTEST_REFERENCE = 4
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class DeviceRun:
    """A run of a device: whether this controller submitted it, and whether it is here to its end.

    `here` is None for a run that the store does not know.
    """

    device: str
    run: Run
    mine: bool
    here: bool | None


@dataclass(frozen=True, slots=True)
class DeviceRuns:
    """What one device said: its runs, newest first, or why it said nothing."""

    name: str
    runs: tuple[DeviceRun, ...] = ()
    error: BackbenchError | None = None


def named(store: Store, names: Sequence[str], everywhere: bool) -> tuple[str, ...]:
    """The devices that a command is about. Raises DeviceNotFound, and InvalidArgument for names beside `everywhere`."""
    if names and everywhere:
        raise InvalidArgument("--device and --all: give one of them")
    return tuple(record.name for record in store.devices()) if everywhere else tuple(dict.fromkeys(names))


def ask(store: Store, names: Sequence[str], insecure: bool = False) -> tuple[DeviceRuns, ...]:
    """What each device has now; those that do not answer hold nobody up. Raises DeviceNotFound."""
    for name in names:
        store.device(name)
    with ThreadPoolExecutor(_AT_ONCE) as threads:
        return tuple(threads.map(partial(_asked, store, insecure=insecure), names))


def runs_on(store: Store, client: AgentClient, device: str) -> tuple[DeviceRun, ...]:
    """The runs of the device behind a client, newest first.

    This controller's are those that it submitted with its certificate, and all that its store knows.
    """
    identity = Pki(store.root).identity() if client.tls else None
    me = None if identity is None else Owner(identity.name, identity.fleet_id)
    return tuple(
        DeviceRun(device, run, here is not None or (me is not None and run.owner == me), here)
        for run in client.list_runs()
        for here in [store.is_finished(run.spec.run_id)]
    )


def find_run(client: AgentClient, reference: str) -> Run:
    """The run of that id, or of an unambiguous beginning or end of it, as the device has it. Raises RunNotFound."""
    wanted = reference.lower()
    runs = client.list_runs() if len(wanted) >= _SHORTEST_REFERENCE else ()
    found = [run for run in runs if run.spec.run_id.startswith(wanted) or run.spec.run_id.endswith(wanted)]
    if len(found) != 1:
        how_many = f"fits {len(found)} runs" if found else "is no run"
        raise RunNotFound(
            f'"{reference[:64]}" {how_many} of the device at {client.address}; see backbench run list --all'
        )
    return found[0]


def take_in(store: Store, name: str, device: Device, run: Run) -> RunRecord:
    """Make a run that was submitted elsewhere one of this store. It has no budgets: who submitted it has them."""
    return store.create_run(run.spec, name, device, (), created_unix_ns=run.created_unix_ns)


def _asked(store: Store, name: str, *, insecure: bool) -> DeviceRuns:
    try:
        with client_of(store, store.device(name), insecure) as client:
            return DeviceRuns(name, runs_on(store, client, name))
    except BackbenchError as error:
        return DeviceRuns(name, error=error)
