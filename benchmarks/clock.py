"""What a call takes: processor time, or wall time on a CUDA device, and memory."""

from __future__ import annotations

import ctypes
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


class Clock:
    """Times and peak memory of calls on one device."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"
        self.name = "wall time" if self.cuda else "processor time"
        self.device_name = torch.cuda.get_device_name(device) if self.cuda else "cpu"

    def seconds(self, call: Callable[[], object]) -> float:
        """Of one call, on a CUDA device until its last kernel has ended."""
        start = self.now()
        call()
        return self.now() - start

    def now(self) -> float:
        """Seconds so far, when all that was begun on a CUDA device is done."""
        if not self.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def peak_memory(self, call: Callable[[], object]) -> float | None:
        """MB by which memory rises during the call; None where the system does not tell."""
        gc.collect()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            call()
            return (torch.cuda.max_memory_allocated() - before) / 1e6
        if not sys.platform.startswith("linux"):
            return None
        # What the allocator keeps would hide what the call needs; "5" sets the high-water mark to what is in use now.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        before = _resident("VmRSS")
        call()
        return _resident("VmHWM") - before


def _resident(field: str) -> float:
    """A field of /proc/self/status in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) * 1024 / 1e6
