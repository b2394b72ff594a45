"""How much memory there is, so that what will not fit is refused before it starts."""

from __future__ import annotations

import os
from pathlib import Path

import torch

GIB = 2**30


def available_bytes(device: torch.device | str = "cpu") -> int:
    """Gives the memory that can be taken now on a device, in bytes: what is free, and what caches would give back."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    described = Path("/proc/meminfo")
    if described.is_file():
        for line in described.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
