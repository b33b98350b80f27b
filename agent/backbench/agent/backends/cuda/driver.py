"""NVIDIA's driver library by ctypes: the few questions that are asked before, or beside, any library over it."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*."""
_SPIN, _BLOCKING = 1, 4
"""CU_CTX_SCHED_SPIN and CU_CTX_SCHED_BLOCKING_SYNC."""
_CONTEXT_ACTIVE = 708


class CudaError(Exception):
    """CUDA refused a call: its error's number and name."""

    def __init__(self, call: str, code: int, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.code = code
        self.name = name


class Driver:
    """The library, loaded. Raises OSError where it cannot be, and CudaError for what it refuses."""

    def __init__(self, library: str = LIBRARY) -> None:
        self._library = ctypes.CDLL(library)

    def start(self) -> None:
        """Initialise it, which all but `version` want."""
        self.call("cuInit", ctypes.c_uint(0))

    def call(self, name: str, *arguments: object) -> None:
        """One call of the driver. Raises CudaError."""
        function = getattr(self._library, name, None)
        code = 500 if function is None else int(function(*arguments))
        if code != 0:
            raise CudaError(name, code, self._error_name(code))

    def version(self) -> str:
        """The newest CUDA that it supports: "12.6"."""
        number = self._number("cuDriverGetVersion")
        return f"{number // 1000}.{number % 1000 // 10}"

    def device_count(self) -> int:
        """How many GPUs this process may use."""
        return self._number("cuDeviceGetCount")

    def device(self, index: int) -> int:
        """The handle of a GPU."""
        return self._number("cuDeviceGet", ctypes.c_int(index))

    def device_name(self, device: int) -> str:
        """What NVIDIA calls it."""
        return self._text("cuDeviceGetName", 256, device)

    def compute_capability(self, device: int) -> tuple[int, int]:
        """Its architecture: (8, 7) is Orin."""
        attribute = "cuDeviceGetAttribute"
        major = self._number(attribute, ctypes.c_int(_MAJOR), ctypes.c_int(device))
        return major, self._number(attribute, ctypes.c_int(_MINOR), ctypes.c_int(device))

    def pci_bus_id(self, device: int) -> str:
        """Where it is, which is what NVML knows it by: the two count cards in their own order."""
        return self._text("cuDeviceGetPCIBusId", 32, device)

    def set_waiting(self, device: int, *, spin: bool) -> bool:
        """Choose how the primary context waits; False where it is in use already and the driver keeps it as it is."""
        try:
            self.call(
                "cuDevicePrimaryCtxSetFlags_v2", ctypes.c_int(device), ctypes.c_uint(_SPIN if spin else _BLOCKING)
            )
        except CudaError as error:
            if error.code != _CONTEXT_ACTIVE:
                raise
            return False
        return True

    def retain_context(self, device: int) -> ctypes.c_void_p:
        """The primary context of a GPU, made if need be and kept until `release_context`."""
        context = ctypes.c_void_p()
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), ctypes.c_int(device))
        return context

    def release_context(self, device: int) -> None:
        """Give it back once."""
        self.call("cuDevicePrimaryCtxRelease_v2", ctypes.c_int(device))

    @contextlib.contextmanager
    def current(self, context: ctypes.c_void_p) -> Iterator[None]:
        """Make a context this thread's, for as long as this lasts."""
        self.call("cuCtxPushCurrent_v2", context)
        try:
            yield
        finally:
            self.pop_context()

    def pop_context(self) -> None:
        """Take the newest context off this thread's stack."""
        self.call("cuCtxPopCurrent_v2", ctypes.byref(ctypes.c_void_p()))

    def pin(self, address: int, size_bytes: int) -> None:
        """Let the GPU of the current context copy from and to host memory by itself, until `unpin`."""
        self.call("cuMemHostRegister_v2", ctypes.c_void_p(address), ctypes.c_size_t(size_bytes), ctypes.c_uint(0))

    def unpin(self, address: int) -> None:
        """The end of that."""
        self.call("cuMemHostUnregister", ctypes.c_void_p(address))

    def mem_info(self) -> tuple[int, int]:
        """Bytes free and in all, of the whole GPU of the current context."""
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self.call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    def _number(self, name: str, *arguments: object) -> int:
        found = ctypes.c_int()
        self.call(name, ctypes.byref(found), *arguments)
        return found.value

    def _text(self, name: str, size: int, device: int) -> str:
        buffer = ctypes.create_string_buffer(size)
        self.call(name, buffer, ctypes.c_int(size), ctypes.c_int(device))
        return buffer.value.decode(errors="replace").strip()

    def _error_name(self, code: int) -> str:
        text = ctypes.c_char_p()
        with contextlib.suppress(AttributeError):
            if self._library.cuGetErrorName(ctypes.c_int(code), ctypes.byref(text)) == 0 and text.value:
                return text.value.decode(errors="replace")
        return f"CUDA error {code}"
