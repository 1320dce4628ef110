"""How every stage that computes is set up: threads, seeds, and who may write to the terminal."""

import ctypes
import logging
import os
import time
import warnings
from collections.abc import Iterable
from pathlib import Path

THREADS = 2  # as many as the committed numbers were computed with; one gives the same bytes
# Every library that chooses its kernels by what the CPU has, held to those of AVX2 and FMA. Each adds up in
# groups of a vector's width or in blocks of its own, so another choice gives other last digits. "Seen": the
# operation's bytes differed on an EPYC with AVX512 with and without this line, all others in force
# (tests/core/test_runtime.py compares what the stages compute).
KERNELS = {
    # torch's own kernels. Seen: softmax, log_softmax, pow, the fused attention, gelu in float16; sums of
    # bitsandbytes' int8 layers go another way too, which asks torch which kernels it has.
    "ATEN_CPU_CAPABILITY": "avx2",
    # MKL's products, their order of adding up fixed for every address and thread count. Seen: products with
    # one row in float32 (generation), every product in float64, attention, an NF4 layer. It does not join the
    # vendors: on AMD's CPUs every value but COMPATIBLE (SSE2, too slow) chose the same code, and that is not
    # Intel's: on an emulated Haswell most products in float32 differed, and exp, log, sqrt and erf.
    "MKL_CBWR": "AVX2,STRICT",
    # MKL's vector math (exp, log, sqrt, erf of whole tensors), which the line above does not name. None seen
    # on an EPYC. Set because MKL documents it for Intel's CPUs, where the default is the widest set.
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    # oneDNN. Seen: exact GELU in float32 and bfloat16 (BERTScore's encoder, any GPT-NeoX base), products in
    # bfloat16 (train.autocast, model.dtype), int8 layers in bfloat16.
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    # OpenBLAS, of which numpy and scipy have a copy each. Seen: numpy's products of matrices and vectors in
    # float32 and float64, solve, eigenvalues.
    "OPENBLAS_CORETYPE": "Haswell",
    # Seen: numpy's product of two matrices differs between one thread and two, unlike torch's; how many
    # OpenBLAS starts is the number of cores. The stages' own products are small.
    "OPENBLAS_NUM_THREADS": "1",
    # numpy's own loops; X86_V3 is AVX2 with FMA. Seen: exp, exp2, expm1, log2, log1p, power and partition.
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",
    # Arrow's sums, means and deviations, and FBGEMM's quantized products. None seen. Set so that an operation
    # that a stage takes up later does not bring a choice of its own.
    "ARROW_USER_SIMD_LEVEL": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    # Nothing for glibc: its exp, log, pow and tanh gave the same bytes with AVX512 hidden (GLIBC_TUNABLES,
    # which a process cannot set for itself), and other ones without FMA. Hence `has_kernels`.
}
# For a run that computes in bfloat16, on a CPU that has it. Held to AVX2, oneDNN emulates its products: 11
# times the time of AVX512-BF16, 5 times that of float32 (measured: 4,096 x 576 by 576 x 1,536). A CPU without
# these kernels emulates bfloat16 in any case, and gives bytes of its own. AMX is left out: it
# adds up in another order.
BFLOAT16_KERNELS = {"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}
BFLOAT16_FLAG = "avx512_bf16"
# cuBLAS adds up in the same order only with a workspace of a fixed size, and torch refuses its products
# otherwise where algorithms must be deterministic. Read when the first one is made.
GPU_KERNELS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
NEEDED = {"avx2", "fma"}  # flags of /proc/cpuinfo
# How a thread of GNU's OpenMP, which torch's wheels carry, waits for the others: so many times round a loop,
# then asleep. By itself it goes round 300,000 times, milliseconds: the fastest way on a free machine, but
# beside other work it keeps a core from the thread that it waits for. Measured on two cores
# (benchmarks/busy.py), beside a process that keeps a core busy against alone: with 300,000 rounds training
# takes 2.7 and generation 3.7 times as long, with none 1.6 times both. Fewer rounds cost 12 to 26 % on a free
# machine, so no one count serves both. A process that starts where other work leaves it less than a core for
# each thread sleeps at once; any other waits as the library does. No byte depends on it.
SLEEP_AT_ONCE = "0"  # GOMP_SPINCOUNT
OWN_WAITING = {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}  # a user who sets one of them has chosen
CHOSEN_WAITING = "STAGES_CHOSE_WAITING"  # set beside our own choice, which a child makes anew
LOOK_SECONDS = 0.1  # 10 ticks of the kernel's clock on each core
SPARE = 0.5  # of a core that may be busy: a tick or two of others is no other work
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
    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # without types in huggingface_hub
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


def has_kernels() -> bool:
    """Whether this CPU has the kernels that KERNELS names."""
    return set(cpu_info().get("flags", "").split()) >= NEEDED


def choose_kernels() -> None:
    """Have every library compute with AVX2, so that an AVX512 machine gives the same bytes as one without.

    `import onesentence` calls it: each library reads its variable once, when it is loaded or at its first
    product, and stages import numpy at their top. Processes that a stage starts inherit it. It overrides what
    a user has set: other kernels are no parameter that DVC would see, so their numbers would pass for these.
    A CPU without AVX2 and FMA keeps its own kernels, and its own bytes.
    """
    os.environ.update(GPU_KERNELS)  # whatever the CPU: the machine may have a GPU
    if has_kernels():
        os.environ.update(KERNELS)


def choose_bfloat16_kernels() -> None:
    """Have torch and oneDNN compute in bfloat16 by the CPU's own instructions, where it has them.

    To be called before the first tensor is made: both read their variable then.
    """
    if has_kernels() and has_bfloat16_instructions():
        os.environ.update(BFLOAT16_KERNELS)


def has_bfloat16_instructions() -> bool:
    """Whether this CPU multiplies in bfloat16 by itself, with AVX512."""
    return BFLOAT16_FLAG in cpu_info().get("flags", "").split()


def busy_cores() -> float:
    """How many of the cores that this process may use are busy with other work just now; 0 where Linux does
    not say. Looks for LOOK_SECONDS, in which this process sleeps.
    """
    stat = Path("/proc/stat")
    if not stat.is_file() or not hasattr(os, "sched_getaffinity"):
        return 0.0
    mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}

    def idle_and_all() -> tuple[dict[str, int], dict[str, int]]:
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
    """Have threads sleep while they wait where other work keeps cores busy, unless the user has chosen.

    `import onesentence` calls it: the library reads the variable when it is loaded, with torch. What a parent
    chose for itself is chosen anew: the machine may be free by now.
    """
    if os.environ.pop(CHOSEN_WAITING, None):
        os.environ.pop("GOMP_SPINCOUNT", None)
    if OWN_WAITING & set(os.environ) or os.environ.get("OMP_NUM_THREADS") == "1":
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores - busy_cores() < min(THREADS, cores) - SPARE:
        os.environ |= {"GOMP_SPINCOUNT": SLEEP_AT_ONCE, CHOSEN_WAITING: "1"}


def require_kernels() -> None:
    """Raise where torch was loaded before its kernels could be chosen."""
    import torch

    wanted = os.environ.get("ATEN_CPU_CAPABILITY", "").upper()
    if has_kernels() and torch.backends.cpu.get_cpu_capability() != wanted:
        raise RuntimeError(
            "torch was imported before onesentence, or has computed before set_up, so it computes with other "
            f"kernels than {wanted or 'AVX2'}'s"
        )


def map_large_blocks() -> None:
    """Have glibc map blocks from MAPPED_BYTES on by themselves, so that freed ones go back at once.

    By itself it moves its threshold up to 32 MB and serves torch's aligned blocks from a heap in whose holes
    the next block of the same size does not fit (before glibc 2.38): with batches of 32 the peak of training
    was twice what is kept (measured). Mapping costs time below 4 MB alone. Elsewhere there is no such call.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, MAPPED_BYTES)


def set_up(seed: int, formats: Iterable[str] = ()) -> None:
    """Choose and check the kernels, fix the thread count and the global seeds.

    formats: what params.yaml has the run compute in, such as its model.dtype and train.autocast.

    OMP_NUM_THREADS=1 halves the threads, for two runs side by side; more than THREADS are never used.
    """
    if "bfloat16" in formats:
        choose_bfloat16_kernels()
    require_kernels()
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
    # torch puts the setting on its module at run time, where mypy does not see it.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
