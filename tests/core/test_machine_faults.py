"""A fault of the machine is one sentence, whichever library reports it; an error of the code is none."""

import errno
import os
import resource
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from onesentence.core import errors
from onesentence.core.machine_faults import sentence_of

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/a.parquet"),
            "data/a.parquet: the disk is full;",
        ),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), "the disk quota is used up;"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "models"), "models: the file system is read-only;"),
        (PermissionError(errno.EACCES, "Permission denied", "plots"), "plots: permission is denied;"),
        (OSError(errno.EIO, os.strerror(errno.EIO)), "the disk reports an input/output error;"),
        (FileNotFoundError(errno.ENOENT, "No such file", "data/x"), "data/x: not found, or removed"),
        (RuntimeError("write: No space left on device (os error 28)"), "the disk is full;"),
        (MemoryError(), "not enough memory; lower train.batch_size"),
        (torch.OutOfMemoryError("CUDA out of memory"), "not enough memory;"),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            "not enough memory;",
        ),
        (
            RuntimeError("cumsum_cuda_kernel does not have a deterministic implementation, but you set ..."),
            "the model computes with cumsum_cuda_kernel, which gives other results in each run on this GPU;",
        ),
        (pa.ArrowMemoryError("realloc of size 64 failed"), "not enough memory;"),
        (ImportError("libtorch_cpu.so: failed to map segment from shared object"), "not enough memory;"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), "a.py"), "not enough memory;"),
        (SystemError("<f> returned NULL without setting an exception"), "not enough memory;"),
        (SystemError("error return without exception set"), "not enough memory;"),
        (BrokenProcessPool("A process was terminated abruptly"), "a worker process was killed"),
    ],
)
def test_each_fault_is_a_sentence_that_says_what_to_do(error, words):
    sentence = sentence_of(error)
    assert sentence.startswith(words) and "\n" not in sentence and "run" in sentence
    outer = ValueError("while writing")
    outer.__cause__ = error
    assert sentence_of(outer) == sentence


def test_an_error_of_the_code_is_none():
    for error in (
        ValueError("a"),
        KeyError("b"),
        RuntimeError("shapes"),
        ZeroDivisionError(),
        SystemError("c"),
    ):
        assert sentence_of(error) is None
    ring = ValueError("a")
    ring.__cause__ = ring
    assert sentence_of(ring) is None


def test_an_allocation_that_fails_is_a_sentence():
    with pytest.raises((RuntimeError, MemoryError)) as failed:
        torch.empty(1 << 48)
    assert sentence_of(failed.value).startswith("not enough memory;")


@pytest.mark.parametrize(
    ("stage", "advice"),
    [
        ("prepare", "give articles as .jsonl"),
        ("generate@tuned", "lower train.batch_size, generate.max_batch_tokens"),
        ("presets/own/dvc.yaml:evaluate", "lower evaluate.resamples"),
        (None, "lower train.batch_size"),
    ],
)
def test_too_little_memory_names_settings_of_the_stage(stage, advice, monkeypatch):
    monkeypatch.delenv("DVC_STAGE", raising=False)
    if stage:
        monkeypatch.setenv("DVC_STAGE", stage)
    assert sentence_of(MemoryError()).startswith(f"not enough memory; {advice}")


FULL = """
from pathlib import Path
import numpy, pyarrow
from onesentence.core import errors
from onesentence.core.files import write_parquet
def main():
    rows = pyarrow.array(numpy.random.default_rng(0).random(100_000))
    write_parquet(Path("rows.parquet"), {"a": rows})
errors.run(main)
"""


def test_a_file_that_the_disk_has_no_room_for_is_one_sentence_and_leaves_nothing(tmp_path):
    """A limit on the size of files fails as a full disk does, in the middle of a file."""
    if os.geteuid() == 0:
        folder = tmp_path / "small"
        folder.mkdir()
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if mounted.returncode:
            pytest.skip("a small file system cannot be mounted here")
    else:
        pytest.skip("mounting a small file system needs root")
    try:
        done = subprocess.run(
            [sys.executable, "-c", FULL],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith("error: ") and "the disk is full; free some space" in done.stderr
        assert list(folder.iterdir()) == []
    finally:
        subprocess.run(["umount", str(folder)], check=True)


LIMITED = """
import resource
from onesentence.core import errors
def main():
    resource.setrlimit(resource.RLIMIT_AS, (3_000_000_000, 3_000_000_000))
    import torch
    [torch.ones(50_000_000) for _ in range(100)]
errors.run(main)
"""


@pytest.mark.parametrize("megabytes", [30, 60, 100, 200, 499])
@pytest.mark.parametrize("stage", ["prepare", "generate", "report"])
def test_a_memory_limit_is_one_sentence_while_a_stage_loads_its_modules(stage, megabytes):
    program = (
        "import resource, runpy\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({megabytes}_000_000,) * 2)\n"
        f"runpy.run_module('stages.{stage}', run_name='__main__', alter_sys=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    start = f"error: memory is limited to {megabytes} MB (ulimit -v), 500 MB are needed to start; "
    assert done.returncode == 1 and done.stderr.startswith(start), done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("stage", [path.stem for path in sorted((ROOT / "stages").glob("[a-z]*.py"))])
def test_the_least_memory_is_enough_to_load_a_stage(stage):
    program = (
        "import resource\n"
        f"resource.setrlimit(resource.RLIMIT_AS, ({errors.LEAST_MEMORY},) * 2)\n"
        f"import stages.{stage}\n"
    )
    subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )


def test_a_memory_limit_is_one_sentence():
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY
    done = subprocess.run(
        [sys.executable, "-c", LIMITED],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "not enough memory; lower train.batch_size" in done.stderr
    assert "Traceback" not in done.stderr
