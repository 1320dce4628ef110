"""Sets up every stage that computes: kernels, threads, seeds and what libraries print."""

import ctypes
import logging
import os
import random
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

THREADS = 2  # the committed numbers were computed with two threads; one thread gives the same bytes
# Each library chooses its kernels by the CPU's features. These variables limit all of them to AVX2 and FMA.
# Kernels differ in the order in which they add up numbers (by vector width, by block), and so in the last
# digits. "Seen" means: on an EPYC with AVX512, the bytes of the operation differed with and without this
# line, all others being set. (tests/core/test_runtime.py compares what the stages compute.)
KERNELS = {
    # torch's own kernels. Seen: softmax, log_softmax, pow, the fused attention, gelu in float16; also sums of
    # bitsandbytes' int8 layers, because bitsandbytes asks torch which kernels are in use.
    "ATEN_CPU_CAPABILITY": "avx2",
    # MKL's matrix products. STRICT fixes the order of additions for every memory address and thread count.
    # Seen: products with one row in float32 (generation), every product in float64, attention, an NF4 layer.
    # AMD and Intel CPUs still give different bytes: on AMD, every value except COMPATIBLE (SSE2, too slow)
    # chose the same code, which Intel's CPUs do not run. On an emulated Haswell most products in float32
    # differed, and so did exp, log, sqrt and erf.
    "MKL_CBWR": "AVX2,STRICT",
    # MKL's vector math (exp, log, sqrt, erf of whole tensors), which the variable above does not cover. None
    # seen on an EPYC. It is set because MKL documents it for Intel's CPUs, where the default is the widest
    # set.
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    # oneDNN. Seen: exact GELU in float32 and bfloat16 (BERTScore's encoder, any GPT-NeoX base), products in
    # bfloat16 (train.autocast, model.dtype), int8 layers in bfloat16.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # OpenBLAS: numpy and scipy each bring a copy. Seen: numpy's products of matrices and vectors in float32
    # and float64, solve, eigenvalues.
    "OPENBLAS_CORETYPE": "Haswell",
    # Seen: numpy's product of two matrices differs between one thread and two, unlike torch's. By default
    # OpenBLAS starts a thread for each core. One is enough, because the stages' own products are small.
    "OPENBLAS_NUM_THREADS": "1",
    # numpy's own loops; X86_V3 is AVX2 with FMA. Seen: exp, exp2, expm1, log2, log1p, power and partition.
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",
    # Arrow's sums, means and deviations, and FBGEMM's quantized products. None seen. They are set so that an
    # operation that a stage may use later makes no choice of its own.
    "ARROW_USER_SIMD_LEVEL": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    # glibc needs no variable: its exp, log, pow and tanh gave the same bytes with AVX512 hidden (by
    # GLIBC_TUNABLES, which a process cannot set for itself). Without FMA they gave other bytes; `has_kernels`
    # therefore asks for FMA too.
}
# For a run that computes in bfloat16 on a CPU with such instructions. Limited to AVX2, oneDNN emulates
# bfloat16 products: that takes 11 times as long as AVX512-BF16 and 5 times as long as float32 (measured:
# 4,096 x 576 by 576 x 1,536). A CPU without these instructions emulates bfloat16 in any case, and gives other
# bytes. AMX is left out, because it adds up in another order.
BFLOAT16_KERNELS = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
BFLOAT16_FLAG = "avx512_bf16"
# oneDNN and its layer in torch cache a compiled product for each shape, 1,024 each by default. Batches of
# unlike lengths bring ever new shapes: the entries took 25 MB more with each step of SmolLM2-135M, and
# left holes in the heap between them (measured: a peak of 5.1 GB after 16 steps, 4.4 GB with these limits).
# All layers of a model have the same few shapes, so one batch needs far fewer entries.
SHAPE_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64"}
# cuBLAS adds up in the same order only with a workspace of a fixed size. Without one, torch refuses cuBLAS
# products when algorithms must be deterministic. The variable is read at the first product.
GPU_KERNELS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
NEEDED = {"avx2", "fma"}  # flags of /proc/cpuinfo
# How a thread of GNU's OpenMP, which torch's wheels contain, waits for other threads: it spins for a number
# of rounds, then sleeps. The default is 300,000 rounds (milliseconds). That is fastest on an idle machine,
# but beside other work it keeps a core from the very thread that it waits for. Measured on two cores
# (benchmarks/busy.py), beside a process that keeps one core busy and relative to an idle machine: with
# 300,000 rounds training takes 2.7 times and generation 3.7 times as long; with 0 rounds both take 1.6 times
# as long. Fewer rounds cost 12 to 26 % on an idle machine, so no single number fits both cases. Therefore: a
# process that starts where other work leaves less than a core for each of its threads sleeps at once; any
# other process keeps the default. No byte depends on the choice.
SLEEP_AT_ONCE = "0"  # GOMP_SPINCOUNT
OWN_WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # if one of them is set, the user has chosen
CHOSEN_WAITING = "STAGES_CHOSE_WAITING"  # marks our own choice; a child process chooses again
LOOK_SECONDS = 0.1  # 10 ticks of the kernel's clock on each core
SPARE = 0.5  # of a core: one or two ticks of other processes do not count as other work
MAPPED_BYTES = 4 * 2**20
M_MMAP_THRESHOLD = -3  # mallopt's name for it, in malloc.h


def quiet_libraries() -> None:
    """Silence what libraries print and a user cannot act on. Errors are still printed."""
    import transformers
    from huggingface_hub.utils import logging as hub_logging

    # The stages draw their own progress bars; the library's would scroll between them.
    transformers.logging.disable_progress_bar()
    transformers.logging.set_verbosity_error()
    # Without a network it prints every retry with its address; the stage says once what to do.
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # without types in huggingface_hub
    # On CPUs with AVX512-BF16, bitsandbytes recommends compiled kernels from a hub when it is imported. They
    # are not needed, and unreviewed code from a hub should not run.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    # int8 layers print at every forward pass that they compute in float16; params.yaml says so once.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    # peft asks transformers for an attribute by its old name.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)


def cpu_info() -> dict[str, str]:
    """The first core's entry in /proc/cpuinfo, by its keys; empty on other systems than Linux."""
    info = Path("/proc/cpuinfo")
    first = info.read_text().split("\n\n")[0] if info.is_file() else ""
    pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def has_kernels() -> bool:
    """Whether this CPU can run the kernels that KERNELS selects."""
    return set(cpu_info().get("flags", "").split()) >= NEEDED


def choose_kernels() -> None:
    """Make every library compute with AVX2, so that machines with and without AVX512 give the same bytes.

    `import onesentence` calls it, because each library reads its variable only once, when it is loaded or at
    its first product, and stages import numpy at their top. Processes that a stage starts inherit the choice.
    A user's own setting is overridden, since DVC does not see it and would treat different numbers as equal.
    A CPU without AVX2 and FMA keeps its own kernels, and gives its own bytes.
    """
    os.environ.update(GPU_KERNELS)  # on any CPU, since the machine may have a GPU
    if has_kernels():
        os.environ.update(KERNELS)


def choose_bfloat16_kernels() -> None:
    """Make torch and oneDNN use the CPU's bfloat16 instructions, if it has them.

    Call it before the first tensor is made: both libraries read their variable then.
    """
    if has_kernels() and has_bfloat16_instructions():
        os.environ.update({**BFLOAT16_KERNELS, **SHAPE_CACHES})


def has_bfloat16_instructions() -> bool:
    """Whether this CPU has AVX512 instructions that multiply in bfloat16."""
    return BFLOAT16_FLAG in cpu_info().get("flags", "").split()


def busy_cores() -> float:
    """How many of this process's cores are busy with other work now; 0 on other systems than Linux.

    Measures for LOOK_SECONDS, while this process sleeps.
    """
    stat = Path("/proc/stat")
    if not stat.is_file() or not hasattr(os, "sched_getaffinity"):
        return 0.0
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}

    def idle_and_all() -> tuple[dict[str, int], dict[str, int]]:
        """Ticks of the kernel's clock by core: idle ones, and all."""
        lines = [line.split() for line in stat.read_text().splitlines()]
        ticks = {line[0]: [int(tick) for tick in line[1:9]] for line in lines if line[0] in mine}
        # user nice system idle iowait irq softirq steal
        return {core: t[3] + t[4] for core, t in ticks.items()}, {core: sum(t) for core, t in ticks.items()}

    before = idle_and_all()
    time.sleep(LOOK_SECONDS)
    idle, every = (
        {core: now[core] - then[core] for core in now if core in then}
        for now, then in zip(idle_and_all(), before, strict=True)
    )
    return sum(1 - idle[core] / every[core] for core in idle if every[core] > 0)


def choose_waiting() -> None:
    """Make waiting threads sleep at once if other work keeps cores busy, unless the user has chosen.

    `import onesentence` calls it, because OpenMP reads the variable when it is loaded, with torch. A choice
    that the parent process made is made again, because the machine may be idle by now.
    """
    if os.environ.pop(CHOSEN_WAITING, None):
        os.environ.pop("GOMP_SPINCOUNT", None)
    if OWN_WAITING & set(os.environ) or os.environ.get("OMP_NUM_THREADS") == "1":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores - busy_cores() < min(THREADS, cores) - SPARE:
        os.environ |= {"GOMP_SPINCOUNT": SLEEP_AT_ONCE, CHOSEN_WAITING: "1"}


def require_kernels() -> None:
    """Raise RuntimeError if torch was loaded before its kernels could be chosen."""
    import torch

    wanted = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    if has_kernels() and torch.backends.cpu.get_cpu_capability() != wanted:
        raise RuntimeError(
            "torch was imported before onesentence, or has computed before set_up, so it does not use the "
            f"{wanted or 'AVX2'} kernels; import onesentence first"
        )


def map_large_blocks() -> None:
    """Make glibc map every memory block of at least MAPPED_BYTES on its own, so that free returns it at once.

    By default glibc raises this threshold to up to 32 MB and takes torch's aligned blocks from its heap. The
    next block of the same size does not fit into the holes there (before glibc 2.38): with batches of 32,
    training's peak was twice the memory in use (measured). Mapping only costs time for blocks below 4 MB.
    Systems without glibc have no such call, and nothing is changed.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def set_up(seed: int, formats: Iterable[str] = ()) -> None:
    """Choose and check the kernels; set the number of threads and the global seeds.

    formats: the number formats that the run computes in, such as model.dtype and train.autocast.

    OMP_NUM_THREADS=1 uses one thread, for two runs side by side. More than THREADS are never used.
    """
    if "bfloat16" in formats:
        choose_bfloat16_kernels()
    require_kernels()
    map_large_blocks()
    quiet_libraries()
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    import numpy as np
    import torch

    requested = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(
        min(THREADS, int(requested)) if requested.isdecimal() and int(requested) else THREADS
    )
    # As transformers.set_seed does. That one also loads peft and bitsandbytes, which most stages do not need.
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # of every device
    # As use_deterministic_algorithms(True), which also loads torch's compiler; nothing here uses it.
    torch.set_deterministic_debug_mode("error")
    # A debugging aid of deterministic mode, which fills every new tensor and costs time. torch adds the
    # setting to its module at run time, so mypy does not know it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
