from __future__ import annotations

import threading

from backbench.controller.operations.stop import Stop


def test_a_request_outside_a_run_means_leave_at_once() -> None:
    stop = Stop()
    assert stop.request() is False
    assert not stop.requested


def test_the_first_request_acts_in_another_thread_and_the_second_leaves() -> None:
    stop, acted, thread = Stop(), threading.Event(), []

    def act() -> None:
        thread.append(threading.current_thread())
        acted.set()

    with stop.calling(act):
        assert stop.request() is True
        assert acted.wait(5)
        assert stop.request() is False
    assert stop.requested
    assert thread[0] is not threading.current_thread()


def test_what_was_asked_too_early_is_done_again() -> None:
    stop, acted = Stop(), threading.Semaphore(0)
    with stop.calling(acted.release):
        stop.again()
        stop.request()
        stop.again()
        assert acted.acquire(timeout=5)
        assert acted.acquire(timeout=5)
    assert not acted.acquire(blocking=False)
