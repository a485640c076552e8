"""A process and all that it started: its processor seconds, its memory, and its end."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 15.0


@dataclass(frozen=True)
class Memory:
    """Summed over processes, in bytes: resident counts what they share once for each of them, proportional once."""

    resident: int
    proportional: int
    processes: int


class Tree:
    """A process that was started here, with its descendants; ended at the end of the block."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, folder: Path, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.started = time.perf_counter()
            self._process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # A process group of its own, which can be ended as one.
                start_new_session=True,
            )
        self._log = log

    def __enter__(self) -> Tree:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def root(self) -> int:
        """Process id of the first."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def said(self, characters: int = 2000) -> str:
        """The end of its output."""
        return self._log.read_text(errors="replace")[-characters:]

    def processes(self) -> list[int]:
        """Ids of all that are alive."""
        children: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and (fields := _stat(int(entry.name))):
                children.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.root]
        for process in found:
            found.extend(children.get(process, ()))
        return found

    def cpu_seconds(self) -> float:
        """Processor time so far, of those alive and of those that ended and were waited for."""
        return sum(cpu_seconds_of(process) for process in self.processes())

    def memory(self) -> Memory:
        resident = proportional = count = 0
        for process in self.processes():
            try:
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
            except OSError:  # it has just ended
                continue
            sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in lines[1:]}
            resident += sizes.get("Rss:", 0)
            proportional += sizes.get("Pss:", 0)
            count += 1
        return Memory(resident, proportional, count)

    def stop(self) -> None:
        """SIGTERM to the first; SIGKILL to whatever is left of it."""
        left = self.processes()
        if not self.ended:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for process in left[1:]:
            # Ids are not used again so soon; what is still in our group or was seen below it is ours.
            if (fields := _stat(process)) and fields[3] == str(self.root):
                os.kill(process, signal.SIGKILL)


def cpu_seconds_of(process: int) -> float:
    """Processor time of one process and of its children that ended; 0.0 if it is gone itself."""
    fields = _stat(process)
    return sum(int(ticks) for ticks in fields[11:15]) / _TICKS if fields else 0.0


def _stat(process: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the third (state) on; None if the process is gone."""
    try:
        line = Path(f"/proc/{process}/stat").read_text()
    except OSError:
        return None
    # The second is a name in parentheses, which may hold anything.
    return line.rpartition(")")[2].split()
