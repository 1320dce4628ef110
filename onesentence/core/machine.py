"""Describes the machine behind a number, for a reader who gets another one."""

import os
import platform
from importlib import metadata
from typing import Any

from onesentence.core.runtime import cpu_info

# The instruction sets that decide how fast a CPU multiplies matrices, widest first.
INSTRUCTIONS = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")


def machine() -> dict[str, Any]:
    """CPU, kernels, threads, GPU and library versions; not the name of the host."""
    import torch

    info = cpu_info()
    flags = info.get("flags", "").split()
    return {
        "cpu": info.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "instructions": next((name for name in INSTRUCTIONS if name in flags), None),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "peft", "numpy")},
    }
