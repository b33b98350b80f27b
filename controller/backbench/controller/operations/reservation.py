"""The device for this controller's runs alone, for as long as several of them must follow each other undisturbed."""

from __future__ import annotations

import contextlib
import getpass
import socket
import threading
import time
from types import TracebackType

from backbench.controller.client import AgentClient
from backbench.controller.client.calls import jittered
from backbench.controller.operations.follow import PATIENCE_S
from backbench.controller.operations.observer import Observer
from backbench.domain.errors import BackbenchError, Busy, DeviceBusy, LeaseNotFound, StaleEpoch, Unreachable
from backbench.domain.run import Lease, Run, RunSpec

TTL_S = 60.0
"""How long the device stays reserved when nothing is heard of this controller any more."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0


class Reservation:
    """A context manager: the device is reserved by the first call of `acquire`, and given back when the block ends.

    A thread keeps the lease alive meanwhile. `name` is the device's; without `wait` a device that is in use is an
    error at once, otherwise it is waited for, and the observer sees who has it.
    """

    def __init__(self, client: AgentClient, name: str, observer: Observer, *, wait: bool = True) -> None:
        self._client = client
        self._name = name
        self._observer = observer
        self._wait = wait
        self._lease: Lease | None = None
        self._lost = ""
        self._over = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)

    def acquire(self) -> Lease:
        """The lease, waited for with the first call. Raises DeviceBusy without `wait`, and for a lease that was lost.

        Raises AgentUnreachable when nobody answers any more.
        """
        if self._lost:
            raise self._is_lost(self._lost)
        if self._lease is None:
            self._lease = self._acquired()
            self._heart.start()
        return self._lease

    def submit(self, spec: RunSpec) -> Run:
        """Queue a run under the lease. Raises what `acquire` and `AgentClient.submit_run` do."""
        try:
            return self._client.submit_run(spec, self.acquire())
        except (LeaseNotFound, StaleEpoch) as error:
            raise self._is_lost(error.message) from error

    def __enter__(self) -> Reservation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lease is None:
            return
        self._over.set()
        # An agent that cannot be told lets the lease run out.
        with contextlib.suppress(BackbenchError, ValueError):
            self._client.release_lease(self._lease)

    def _acquired(self) -> Lease:
        pause_s, said, heard_s = _FIRST_PAUSE_S, "", time.monotonic()
        try:
            while True:
                try:
                    return self._client.acquire_lease(_holder(), TTL_S)
                except DeviceBusy as error:
                    heard_s, text = time.monotonic(), self._in_use(error)
                    if not self._wait:
                        raise DeviceBusy(f"{text}; leave --no-wait away to wait in line", **error.details) from error
                    if text != said:
                        said = text
                        self._observer.step(f"waiting: {text}")
                except Unreachable as error:
                    if not self._wait or time.monotonic() - heard_s > PATIENCE_S:
                        raise
                    if pause_s < _LONGEST_PAUSE_S:
                        self._observer.cut(error)
                time.sleep(jittered(pause_s))
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        finally:
            if said:
                self._observer.step("")

    def _in_use(self, error: DeviceBusy) -> str:
        """Who has the device, and how many runs of whoever are there."""
        holder = error.details.get("holder")
        if not holder:
            return f"{self._name} is in use: {error.message}"
        going_on = 0
        with contextlib.suppress(BackbenchError):  # a line that breaks now does not end the waiting
            going_on = len(self._client.list_runs(going_on=True))
        runs = f", {going_on} run{'s' if going_on > 1 else ''} before" if going_on else ""
        return f"{self._name} is used by {holder}{runs}"

    def _is_lost(self, why: str) -> DeviceBusy:
        return DeviceBusy(
            f"the reservation of {self._name} is lost ({why}): others may have measured there since; what is not"
            " measured yet has to be started anew"
        )

    def _beat(self) -> None:
        assert self._lease is not None  # noqa: S101 - started after it was acquired
        while not self._over.wait(self._lease.ttl_ns / 1e9 / 4):
            try:
                self._client.renew_lease(self._lease)
            except (LeaseNotFound, Busy) as error:
                self._lost = error.message
                return
            except (BackbenchError, ValueError):  # out of reach for now, or closed: the agent knows what it has granted
                pass


def _holder() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
