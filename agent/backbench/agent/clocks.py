"""Pins the device's clocks for a launch, and puts back what was: also after a crash, by a file that is written before.

Pinned are the governor and the lowest clock of every processor policy, and the lowest clock of a GPU; each is raised to
the highest clock that is allowed now. The highest clocks and the power mode stay what they are: what a cap by heat
shows there for a moment must not be put back later as if somebody had wanted it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backbench.domain.errors import InvalidRunSpec

log = logging.getLogger(__name__)

RESTORE_FILE = "clocks-to-restore.json"
_ROOT = Path("/")
_POLICIES = "sys/devices/system/cpu/cpufreq/policy[0-9]*"
_GPUS = re.compile(r"(^|\.)(gpu|gv11b|ga10b|gp10b|gm20b)$|^gpu-gpc-\d+$")
"""Names of GPUs among the devices with clocks of their own."""
_BOOT_ID = "proc/sys/kernel/random/boot_id"
_REMEDY = (
    "run the agent as root, or let its user write these files: a udev rule or a line in /etc/tmpfiles.d can do that"
)


@dataclass(frozen=True, slots=True)
class Change:
    """One file that is to say `after` instead of `before`; `name` is what people call it."""

    path: str
    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class ClocksSet:
    """What was pinned for a run, by what it is: "before -> during"."""

    changes: Mapping[str, str]


class Clocks:
    """The clocks below `root`. `folder` is the agent's, where the file for putting back lies while they are pinned."""

    def __init__(self, folder: Path, *, allowed: bool = False, root: Path = _ROOT) -> None:
        self._file = folder / RESTORE_FILE
        self._allowed = allowed
        self._root = root

    def check(self) -> None:
        """Raises InvalidRunSpec where clocks may not or cannot be set, with what would help."""
        if not self._allowed:
            raise InvalidRunSpec(
                "this agent does not set clocks; start it with backbench-agent serve --allow-set-clocks"
            )
        if self._file.exists():
            raise InvalidRunSpec(f"clocks that were set before could not be put back; {_REMEDY}, and start it again")
        changes = self._wanted()
        if not changes:
            raise InvalidRunSpec("this device shows no clocks that could be set: no cpufreq policy and no GPU's clock")
        for change in changes:
            if change.before != change.after and not os.access(self._root / change.path, os.W_OK):
                raise InvalidRunSpec(f"clocks cannot be set: /{change.path} is not writable; {_REMEDY}")

    @contextlib.contextmanager
    def pinned(self) -> Iterator[ClocksSet]:
        """Clocks are pinned inside the block, which is given what was and is. Raises InvalidRunSpec, with none set."""
        self.restore()
        self.check()
        wanted = self._wanted()
        changes = [change for change in wanted if change.before != change.after]
        self._keep(changes)
        try:
            self._make(changes)
            yield ClocksSet({change.name: f"{change.before} -> {self._text(change.path)}" for change in wanted})
        finally:
            self.restore()

    def restore(self) -> None:
        """Put back what the file says, where there is one; it goes when all of it is back. Never raises."""
        try:
            kept = json.loads(self._file.read_bytes())
            values = [(str(path), str(text)) for path, text in kept["values"]]
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            words = f"{self._file} cannot be read ({error}), so clocks are not put back"
            log.error("%s; start the device anew and delete it", words)  # noqa: TRY400
            return
        if kept.get("boot_id") == self._boot_id():  # a device that has started anew since has its usual clocks already
            left = [path for path, text in values if not self._put_back(path, text)]
            if left:
                return
        self._forget()

    def _put_back(self, path: str, text: str) -> bool:
        try:
            self._write(path, text)  # whatever it shows: a heat cap may show a limit that is not the one that was set
        except FileNotFoundError:
            log.warning("/%s went away, so it is not put back to %s", path, text)
        except OSError as error:
            log.error("/%s is not put back to %s: %s; %s", path, text, error.strerror, _REMEDY)  # noqa: TRY400
            return False
        return True

    def _make(self, changes: Sequence[Change]) -> None:
        for change in changes:
            try:
                self._set(change.path, change.after)
            except OSError as error:
                message = f"/{change.path} does not take {change.after}: {error.strerror}"
                raise InvalidRunSpec(f"clocks cannot be set: {message}; {_REMEDY}") from error

    def _wanted(self) -> list[Change]:
        """Everything that is to be set, in the order in which it is: a governor before the limits that it obeys."""
        changes: list[Change] = []
        for policy in sorted(self._root.glob(_POLICIES)):
            path = str(policy.relative_to(self._root))
            if "performance" in self._text(f"{path}/scaling_available_governors").split():
                changes += self._change(f"{path}/scaling_governor", f"cpu.{policy.name}.governor", "performance")
            highest = self._text(f"{path}/scaling_max_freq")
            changes += self._change(f"{path}/scaling_min_freq", f"cpu.{policy.name}.min_khz", highest)
        for device in sorted(self._root.glob("sys/class/devfreq/*")):
            if _GPUS.search(device.name):
                path = f"sys/class/devfreq/{device.name}"
                changes += self._change(f"{path}/min_freq", f"gpu.{device.name}.min_hz", self._text(f"{path}/max_freq"))
        return changes

    def _change(self, path: str, name: str, after: str) -> list[Change]:
        before = self._text(path)
        return [Change(path, name, before, after)] if before and after else []

    def _keep(self, changes: Sequence[Change]) -> None:
        """Put onto the disk what is to be put back, last change first, before the first of them is made.

        A governor forgets its settings when another one takes its place: they come last, when it is back.
        """
        values = [(change.path, change.before) for change in reversed(changes)]
        values += [setting for change in changes for setting in self._settings(change)]
        text = json.dumps({"boot_id": self._boot_id(), "values": values})
        new = self._file.with_suffix(".new")
        try:
            new.unlink(missing_ok=True)
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(descriptor)
            new.replace(self._file)
            self._sync_folder()
        except OSError as error:
            message = f"what they are now cannot be kept in {self._file}: {error.strerror}"
            raise InvalidRunSpec(f"clocks are not set, as {message}; look at the disk") from error

    def _settings(self, change: Change) -> Iterator[tuple[str, str]]:
        """What a governor that is to be replaced has been told, of its policy and of all of them."""
        if not change.name.endswith(".governor"):
            return
        policy = change.path.removesuffix("/scaling_governor")
        folders = (f"{policy}/{change.before}", f"{policy.rpartition('/')[0]}/{change.before}")
        paths = [path for folder in folders for path in sorted((self._root / folder).glob("*"))]
        if change.before == "userspace":
            paths.append(self._root / policy / "scaling_setspeed")
        for path in paths:
            place = str(path.relative_to(self._root))
            if (text := self._text(place)) and os.access(path, os.W_OK):
                yield place, text

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)
            self._sync_folder()

    def _sync_folder(self) -> None:
        descriptor = os.open(self._file.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _set(self, path: str, text: str) -> None:
        """Make a file say `text`; one that says so already is not touched. Raises OSError."""
        if self._text(path) != text:
            self._write(path, text)

    def _write(self, path: str, text: str) -> None:
        descriptor = os.open(self._root / path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)

    def _text(self, path: str) -> str:
        try:
            return (self._root / path).read_text(errors="replace").strip()
        except OSError:
            return ""

    def _boot_id(self) -> str:
        return self._text(_BOOT_ID)
