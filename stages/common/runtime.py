"""How every stage that computes is set up: threads, seeds, and who may write to the terminal."""

import ctypes
import logging
import os
import warnings
from pathlib import Path

THREADS = 2  # as many as the committed numbers were computed with; one gives the same bytes
# One choice of kernels on every x86 CPU with AVX2, whatever else it has: torch's own reductions add up in
# groups of a vector's width, and MKL's products in an order of their own for each instruction set.
KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "MKL_CBWR": "AVX2,STRICT"}
MAPPED_BYTES = 4 * 2**20
M_MMAP_THRESHOLD = -3  # of malloc.h


def quiet_libraries() -> None:
    """Keep off the terminal what a user cannot act on; errors still come through."""
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    # The stages draw their own bars; the library's would scroll by between them.
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    # Retries without a network, each with the address it tried; the stage says once what to do.
    hub_logging.set_verbosity_error()
    # On CPUs with AVX512-BF16 bitsandbytes' import hints at a package of compiled kernels from a hub; a
    # user without it has nothing to do, and kernels from a hub should not run unseen.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # int8 layers say at every forward that they compute in float16; params.yaml says it once.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # peft asks transformers for an attribute by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def cpu_info() -> dict[str, str]:
    """What Linux says of the first core, by its own keys; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0] if info.is_file() else ""
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def choose_kernels() -> None:
    """Have torch compute with AVX2, so that an AVX512 machine gives the same bytes as one without.

    Both libraries read their variable once, at the first product: call it before torch is imported. A CPU
    without AVX2 keeps its own kernels, and its own bytes.
    """
    if "avx2" in cpu_info().get("flags", "").split():
        os.environ.update(KERNELS)


def map_large_blocks() -> None:
    """Have glibc map blocks from MAPPED_BYTES on by themselves, so that freed ones go back at once.

    By itself it moves its threshold up to 32 MB and serves torch's aligned blocks from a heap in whose holes
    the next block of the same size does not fit (before glibc 2.38): with batches of 32 the peak of training
    was twice what is kept (measured). Mapping costs time below 4 MB alone. Elsewhere there is no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def set_up(seed: int) -> None:
    """Fix the kernels, the thread count and the global seeds.

    OMP_NUM_THREADS=1 halves the threads, for two runs side by side; more than THREADS are never used.
    """
    choose_kernels()
    map_large_blocks()
    quiet_libraries()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import torch
    import transformers

    asked = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(min(THREADS, int(asked)) if asked.isdecimal() and int(asked) else THREADS)
    transformers.set_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Debugging aid of deterministic mode: it writes every new tensor once more.
    torch.utils.deterministic.fill_uninitialized_memory = False
