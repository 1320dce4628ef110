"""An exported model in another project's server: `transformers serve`, asked by OpenAI's own client."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from running import PATIENCE

from onesentence.core import params
from onesentence.export.folder import write_folder
from onesentence.inference.summarizer import Summarizer
from onesentence.model.adapters import add_adapter, save_tuned
from onesentence.model.loading import load_base

ARTICLE = "def size(self) -> int Returns the number of rows of this table, without those that were deleted."
BASE = ROOT / "models/phi-tiny-64"


@contextmanager
def transformers_serve(folder: Path):
    """The address of `transformers serve` with a folder, on loopback; it is stopped whatever happens."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("transformers")
    command = [
        str(program),
        "serve",
        str(folder),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--device",
        "cpu",
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    log = folder.parent / "serve.log"
    with log.open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
    try:
        until = time.monotonic() + 2 * PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=PATIENCE).close()
                break
            except (urllib.error.URLError, ConnectionError):
                assert child.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
        child.send_signal(signal.SIGTERM)
        child.wait(PATIENCE)
    finally:
        child.kill()
        child.wait()


def write_export(folder: Path) -> Path:
    """A tuned model (a random adapter of models/phi-tiny-64), as stage `export` writes it."""
    import torch

    model = replace(params.load(("model",)).model, name=str(BASE), watch=str(BASE))
    values = {"model": model, "export.target": "merged", "smoke.min_success_rate": 0.0}
    # The ban on repeated trigrams is off: transformers' own counts the prompt too.
    values |= {
        "generate.no_repeat_ngram_size": 0,
        "generate.max_new_tokens": 8,
        "generate.length_penalty": 0.5,
    }
    p = params.changed(
        params.load(("data", "prompt", "train", "smoke", "generate", "evaluate", "export", "model")), values
    )
    tuned = add_adapter(load_base(model), params.load(("lora",)).lora, seed=0)
    torch.manual_seed(0)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:  # an update that is not zero
            torch.nn.init.normal_(weight, std=0.05)
    save_tuned(tuned, folder / "tuned", str(BASE), "lora")
    write_folder(p, folder / "tuned", folder / "exported")
    return folder / "exported"


@pytest.mark.slow
def test_transformers_serve_writes_the_same_summary_of_an_exported_model(tmp_path):
    """Beams, format of numbers and prompt come from the folder; the client sends the limit of new tokens."""
    openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    pytest.importorskip("fastapi", reason="`transformers serve` needs fastapi")
    folder = write_export(tmp_path)
    summarizer = Summarizer.load(folder)
    wanted, base = (each.summarize([ARTICLE])[0] for each in (summarizer, Summarizer.load(BASE)))
    assert wanted.document_tokens_cut == 0 and wanted.text != base.text[: len(wanted.text)]
    with (
        transformers_serve(folder) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client,
    ):
        model, limit = str(folder), summarizer.settings.generate.max_new_tokens
        messages = [{"role": "user", "content": ARTICLE}]
        chat = client.chat.completions.create(model=model, messages=messages, max_tokens=limit)
        text = summarizer.settings.frame.before + ARTICLE + summarizer.settings.frame.after
        completion = client.completions.create(model=model, prompt=text, max_tokens=limit)
    assert chat.choices[0].message.content.strip() == completion.choices[0].text.strip() == wanted.text
    for usage in (chat.usage, completion.usage):
        assert (usage.prompt_tokens, usage.completion_tokens) == (wanted.input_tokens, wanted.output_tokens)
