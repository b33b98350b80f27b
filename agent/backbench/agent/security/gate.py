"""Every call passes here: who makes it, whether it may, how many of it are going on, and its end when that changes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from backbench.agent.callers import set_caller
from backbench.agent.security.holders import Holder, Holders
from backbench.agent.security.permissions import NEEDED, check_role
from backbench.agent.security.rates import Rates
from backbench.agent.settings import CallLimits
from backbench.domain.errors import BackbenchError, PermissionDenied, TooManyCalls, Unauthenticated
from backbench.domain.security import LOCAL_CALLER, Caller, Role

log = logging.getLogger(__name__)

_LOOPBACK = ("unix:", "ipv4:127.", "ipv6:[::1]", "ipv6:%5B::1%5D", "ipv6:[::ffff:127.", "ipv6:%5B::ffff:127.")
_LINES_PER_S, _LINES_AT_ONCE = 1.0, 50
_LOOK_AGAIN_S = 60.0
"""Certificates of calls in progress are looked at this often at least: the clock of a board may jump."""


@dataclass(eq=False, slots=True)
class Call:
    """A call in progress."""

    method: str
    peer: str
    holder: Holder | None
    task: asyncio.Task[object] | None
    ended: BackbenchError | None = None

    def end(self, error: BackbenchError) -> None:
        """End it with this error, wherever it is."""
        if self.ended is None and self.task is not None:
            self.ended = error
            self.task.cancel()


class Gate:
    """`holders` is None for an agent in plain text: its callers are local ones."""

    def __init__(self, holders: Holders | None, limits: CallLimits) -> None:
        self._holders = holders
        self._limits = limits
        self._rates = Rates(limits.per_second, limits.burst)
        self._lines = Rates(_LINES_PER_S, _LINES_AT_ONCE)
        self._calls: set[Call] = set()
        self._counts: Counter[Caller] = Counter()
        self._hurried: set[Caller] = set()
        self._timer: asyncio.TimerHandle | None = None

    @contextlib.contextmanager
    def call(self, method: str, peer: str, certificate_pem: bytes | None) -> Iterator[Call]:
        """One call by the task that runs this. Raises what the caller is to be told, and logs it."""
        holder: Holder | None = None
        try:
            holder = self._holder(peer, certificate_pem)
            caller = LOCAL_CALLER if holder is None else holder.caller
            if holder is not None and self._holders is not None:
                self._check_rate(caller)  # first, as it costs something to refuse a call too
                self._holders.check(holder)
            check_role(method, caller)
            if NEEDED.get(method) is Role.LOCAL and not peer.startswith(_LOOPBACK):
                raise PermissionDenied("this call is for users of the device itself; run backbench-agent there")
            if holder is not None:
                self._check_concurrent(caller)
        except BackbenchError as error:
            self._log_refusal(method, peer, holder, error)
            raise
        self._hurried.discard(caller)
        set_caller(caller)
        call = Call(method, peer, holder, asyncio.current_task())
        self._calls.add(call)
        self._counts[caller] += 1
        if holder is not None:
            self._look_again(holder.not_after_unix_s)
        try:
            yield call
        except asyncio.CancelledError:
            if call.ended is None:
                raise
            raise call.ended from None
        finally:
            if call.ended is not None:
                self._log_refusal(method, peer, holder, call.ended)
            self._calls.discard(call)
            self._counts[caller] -= 1
            if not self._counts[caller]:
                del self._counts[caller]

    def sweep(self) -> None:
        """End the calls in progress whose certificates are good no more."""
        self.close()
        current = _current_task()
        for call in tuple(self._calls):
            if call.holder is None or self._holders is None or call.task is current:
                continue
            try:
                self._holders.check(call.holder)
            except BackbenchError as error:
                call.end(error)
        ends = [call.holder.not_after_unix_s for call in self._calls if call.holder and not call.ended]
        if ends:
            self._look_again(min(ends))

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _holder(self, peer: str, certificate_pem: bytes | None) -> Holder | None:
        if self._holders is None or peer.startswith("unix:"):
            return None
        if certificate_pem is None:
            raise Unauthenticated("the call comes without a certificate; pair with this agent first")
        return self._holders.holder(certificate_pem)

    def _check_concurrent(self, caller: Caller) -> None:
        if self._counts[caller] >= self._limits.concurrent:
            raise TooManyCalls(
                f"{caller.name} has {self._limits.concurrent} calls in progress, which is the most; end some"
            )

    def _check_rate(self, caller: Caller) -> None:
        if not self._rates.take(caller):
            raise TooManyCalls(
                f"{caller.name} makes more than {self._limits.per_second:g} calls a second; wait and try again"
            )

    def _look_again(self, not_after_unix_s: float) -> None:
        loop = asyncio.get_running_loop()
        when = loop.time() + min(max(not_after_unix_s - time.time(), 0) + 0.01, _LOOK_AGAIN_S)
        if self._timer is None or when < self._timer.when():
            self.close()
            self._timer = loop.call_at(when, self.sweep)

    def _log_refusal(self, method: str, peer: str, holder: Holder | None, error: BackbenchError) -> None:
        # The log is not to be filled from outside: one line a rush, and so many for whoever is refused all the time.
        if holder is not None and isinstance(error, TooManyCalls):
            if holder.caller in self._hurried:
                return
            self._hurried.add(holder.caller)
        if not self._lines.take(peer if holder is None else holder.caller):
            return
        name = repr(holder.caller.name) if holder is not None else "nobody known"
        log.warning("refused %s of %s from %s: %s %s", method, name, peer, error.reason, error)


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None
