"""Faults of the machine in one sentence: a full disk, a read-only folder, a lost file, too little memory.

A library reports them in many ways: as an OSError with a number, as an error of its own with the system's
words in its text, or as an error that another one caused.
"""

import errno
import os
from collections.abc import Iterator

AGAIN = "run the same command again: it goes on from its last checkpoint, if it has one"
LESS = {  # what a stage can do with less memory
    "prepare": "give articles as .jsonl instead of .json, set ONESENTENCE_WORKERS=1",
    "tokenize": "set ONESENTENCE_WORKERS=1",
    "score": "set ONESENTENCE_WORKERS=1",
    "evaluate": "lower evaluate.resamples",
    "report": "lower data.test_size",
}
STEPS = "lower train.batch_size, generate.max_batch_tokens or prompt.max_input_tokens"
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up"}
CLOSED = {
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission is denied",
    errno.EPERM: "the system does not permit it",
}
BROKEN = {
    errno.EIO: "the disk reports an input/output error",
    errno.ESTALE: "the network drive has lost the file",
    errno.ENOTCONN: "the network drive is not connected",
    errno.EMFILE: "this process may open no more files (ulimit -n)",
    errno.ENFILE: "the system may open no more files",
}
ALLOCATION = (
    "DefaultCPUAllocator",
    "can't allocate memory",
    "bad allocation",
    "bad_alloc",
    "realloc of size",
    "failed to map segment",  # of a library that is loaded
    os.strerror(errno.ENOMEM),
    "CUDA error: out of memory",  # outside torch's own allocator
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
NOT_DETERMINISTIC = "does not have a deterministic implementation"  # what torch says of an operation on a GPU
# What Python says where it found no memory for the exception itself.
SILENT = ("without setting an exception", "error return without exception set")


def sentence_of(error: BaseException) -> str | None:
    """What is wrong with the machine and what to do; None if the error says nothing of the kind."""
    for part in _chain(error):
        text = " ".join(str(part).split())
        if isinstance(part, MemoryError) or _is_allocation(part, text):
            return f"not enough memory; {less_memory()}"
        if type(part).__name__ == "BrokenProcessPool":
            return f"a worker process was killed, most likely for lack of memory; {less_memory()}"
        if NOT_DETERMINISTIC in text:
            return (
                f"the model computes with {text.partition(' ')[0]}, which gives other results in each run on "
                "this GPU; use another base model, or the CPU (CUDA_VISIBLE_DEVICES=)"
            )
        number = part.errno if isinstance(part, OSError) else None
        for table, remedy in (
            (FULL, f"free some space, then {AGAIN}"),
            (CLOSED, f"make it writable, then {AGAIN}"),
            (BROKEN, f"check the drive, then {AGAIN}"),
        ):
            for code, words in table.items():
                if number == code or (number is None and os.strerror(code) in text):
                    return f"{_place(part)}{words}; {remedy}"
        if isinstance(part, FileNotFoundError) and part.filename:
            return f"{part.filename}: not found, or removed meanwhile; run `dvc repro` if a stage writes it"
    return None


def less_memory() -> str:
    """What to do where memory is too small, in the stage that DVC runs here."""
    stage = os.environ.get("DVC_STAGE", "").rpartition(":")[2].partition("@")[0]
    return f"{LESS.get(stage, STEPS)}, or end other programs; then {AGAIN}"


def _is_allocation(error: BaseException, text: str) -> bool:
    """Whether an allocation failed: torch has an error class of its own for GPUs only."""
    if isinstance(error, SystemError):
        return any(words in text for words in SILENT)
    return type(error).__name__ == "OutOfMemoryError" or (
        isinstance(error, RuntimeError | OSError | ImportError) and any(words in text for words in ALLOCATION)
    )


def _place(error: BaseException) -> str:
    """The file that an error names, as the start of a sentence; "" if it names none."""
    name = getattr(error, "filename", None)
    return f"{name}: " if isinstance(name, str) and name else ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and those that caused it or were being handled when it was raised."""
    seen: set[int] = set()
    part: BaseException | None = error
    while part is not None and id(part) not in seen:
        seen.add(id(part))
        yield part
        part = part.__cause__ or part.__context__
