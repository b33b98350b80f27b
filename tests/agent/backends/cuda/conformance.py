"""What every `DeviceMemory` does; each function is run over the fake driver, in a process of its own."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.agent.backends.cuda.driver_process import environment, fake

from backbench.agent.backends.base import WorkerFailure
from backbench.agent.backends.cuda.memory import DeviceMemory, open_device_memory
from backbench.domain.run import FailureReason

_POISON = 0xA5
_SHAPE = (2, 5, 3)


@contextmanager
def opened(library: str, **options: str) -> Iterator[DeviceMemory]:
    memory = open_device_memory({"cuda-library": library, **options})
    try:
        yield memory
    finally:
        memory.close()


def _image(memory: DeviceMemory) -> NDArray[np.float32]:
    image = memory.pinned(_SHAPE, "float32")
    image[...] = np.arange(30).reshape(_SHAPE)
    return image


def what_goes_in_comes_out_when_it_was_waited_for_and_not_before(library: str) -> None:
    with opened(library) as memory:
        image, out = _image(memory), memory.pinned(_SHAPE, "float32")
        assert not out.any()
        address = memory.alloc(image.nbytes)
        memory.copy_in(address, image)
        memory.copy_out(out, address)
        assert set(out.view(np.uint8).ravel().tolist()) == {_POISON}
        memory.synchronise()
        assert np.array_equal(out, image)


def the_stream_is_not_the_default_one(library: str) -> None:
    with opened(library) as memory:
        assert isinstance(memory.stream, int)
        assert memory.stream != 0


def arrays_are_pinned_where_they_lie(library: str) -> None:
    with opened(library) as memory:
        image, out = np.arange(30, dtype=np.float32).reshape(_SHAPE), np.zeros(_SHAPE, np.float32)
        before = fake().fakecuda_live()
        assert memory.pin(image)
        assert memory.pin(out)
        assert fake().fakecuda_live() == before + 2
        address = memory.alloc(image.nbytes)
        image[...] *= 2
        memory.copy_in(address, image)
        memory.copy_out(out, address)
        memory.synchronise()
        assert np.array_equal(out, image)


def a_driver_that_does_not_pin_in_place_is_said_to(library: str) -> None:
    with opened(library) as memory, environment(FAKECUDA_REGISTER="801"):
        assert not memory.pin(np.zeros(_SHAPE, np.float32))


def pinned_arrays_have_the_type_that_was_asked_for(library: str) -> None:
    with opened(library) as memory:
        for kind, shape in (("float16", (3, 4)), ("uint8", (7,)), ("int64", (1,)), ("bool", (2, 2)), ("float32", ())):
            array = memory.pinned(shape, kind)
            assert (array.dtype, array.shape, array.flags.c_contiguous) == (np.dtype(kind), shape, True)
        assert memory.pinned((0, 4), "float32").nbytes == 0


def times_are_told_between_events_that_have_happened_and_no_others(library: str) -> None:
    with opened(library) as memory:
        image = _image(memory)
        address = memory.alloc(image.nbytes)
        start, end = memory.event(), memory.event()
        assert memory.elapsed_ns(start, end) == -1
        for _ in range(3):
            memory.record(start)
            memory.copy_in(address, image)
            memory.record(end)
            assert memory.elapsed_ns(start, end) == -1
            memory.synchronise()
            elapsed_ns = memory.elapsed_ns(start, end)
            assert isinstance(elapsed_ns, int)
            assert elapsed_ns >= 0
        assert memory.elapsed_ns(end, start) <= 0


def a_request_for_too_much_memory_says_how_much_and_what_there_is(library: str) -> None:
    with opened(library) as memory:
        for ask, what in (
            (lambda: memory.alloc(1 << 40), "1,099,511.6 MB of GPU memory"),
            (lambda: memory.pinned((1 << 40,), "uint8"), "1,099,511.6 MB of pinned host memory"),
        ):
            with pytest.raises(WorkerFailure) as refused:
                ask()
            assert refused.value.reason is FailureReason.OUT_OF_MEMORY
            assert str(refused.value).startswith(f"no {what}: 1,073.7 MB of 1,073.7 MB are free on the GPU; ")
        assert memory.alloc(1 << 20)


def memory_is_counted_as_it_is_taken(library: str) -> None:
    with opened(library) as memory:
        free, total = memory.mem_info()
        assert free == total == 1 << 30
        memory.alloc(1 << 20)
        assert memory.mem_info() == ((1 << 30) - (1 << 20), 1 << 30)
        assert memory.usage(free)["cuda.used_delta"] == 1 << 20
        assert "cuda.used_delta" not in memory.usage(free - (2 << 20))


def a_fault_of_the_gpu_is_told_by_its_name(library: str) -> None:
    with opened(library) as memory, environment(FAKECUDA_SYNC="700"):
        with pytest.raises(WorkerFailure, match="cuStreamSynchronize failed: CUDA_ERROR_ILLEGAL_ADDRESS") as refused:
            memory.synchronise()
        assert refused.value.reason is FailureReason.BACKEND_UNAVAILABLE
        assert "\n" not in str(refused.value)
        assert memory.usage(1 << 30)["cuda.used_delta"] == 0


def closing_gives_everything_back_and_twice_is_fine(library: str) -> None:
    before = fake().fakecuda_live()
    memory = open_device_memory({"cuda-library": library})
    image = np.zeros(_SHAPE, np.float32)
    events = [memory.event() for _ in range(4)]
    address, out = memory.alloc(image.nbytes), memory.pinned(_SHAPE, "float32")
    assert memory.pin(image)
    memory.record(events[0])
    memory.copy_in(address, image)
    memory.copy_out(out, address)
    memory.close()
    memory.close()
    gc.collect()
    assert fake().fakecuda_live() == before
    with opened(library) as again:
        assert again.alloc(16)


def a_gpu_that_is_lost_is_closed_all_the_same(library: str) -> None:
    memory = open_device_memory({"cuda-library": library})
    memory.alloc(16)
    with environment(FAKECUDA_SYNC="700"):
        memory.close()


def the_host_waits_as_was_asked_and_says_so(library: str) -> None:
    for sync, flag, words in (("spin", 1, "spins"), ("blocking", 4, "blocks")):
        with opened(library, sync=sync) as memory:
            assert fake().fakecuda_waiting() == flag
            assert memory.facts["synchronisation"] == f"{words} on the stream"
    with opened(library) as memory:
        assert memory.facts["synchronisation"] == "spins on the stream"


def a_context_that_waits_another_way_already_is_told(library: str) -> None:
    with opened(library, sync="spin"), opened(library, sync="blocking") as second:
        assert fake().fakecuda_waiting() == 1
        assert second.facts["synchronisation"].startswith("as the process's CUDA context already did")


def the_library_is_a_fact(library: str) -> None:
    with opened(library) as memory:
        label = {"pycuda": "PyCUDA", "cuda-bindings": "cuda-bindings"}[library]
        assert memory.facts["cuda_library"].startswith(f"{label} ")
        assert "cuda_library_why" not in memory.facts


def a_gpu_that_is_not_there_is_refused_and_nothing_is_kept(library: str) -> None:
    before = fake().fakecuda_live()
    with pytest.raises(WorkerFailure, match="opening GPU 5 failed: cuDeviceGet: CUDA_ERROR_INVALID_DEVICE"):
        open_device_memory({"cuda-library": library, "device": "5"})
    with environment(FAKECUDA_BYTES="0"), pytest.raises(WorkerFailure), opened(library) as memory:
        memory.alloc(16)
    assert fake().fakecuda_live() == before


SUITE: tuple[Callable[[str], None], ...] = (
    what_goes_in_comes_out_when_it_was_waited_for_and_not_before,
    the_stream_is_not_the_default_one,
    arrays_are_pinned_where_they_lie,
    a_driver_that_does_not_pin_in_place_is_said_to,
    pinned_arrays_have_the_type_that_was_asked_for,
    times_are_told_between_events_that_have_happened_and_no_others,
    a_request_for_too_much_memory_says_how_much_and_what_there_is,
    memory_is_counted_as_it_is_taken,
    a_fault_of_the_gpu_is_told_by_its_name,
    closing_gives_everything_back_and_twice_is_fine,
    a_gpu_that_is_lost_is_closed_all_the_same,
    the_host_waits_as_was_asked_and_says_so,
    a_context_that_waits_another_way_already_is_told,
    the_library_is_a_fact,
    a_gpu_that_is_not_there_is_refused_and_nothing_is_kept,
)
