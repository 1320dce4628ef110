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
from pathlib import Path

import pytest
from running import PATIENCE, export_base

from onesentence.generation.decoding import generation_config
from onesentence.inference.summarizer import Summarizer

ARTICLE = "def size(self) -> int Returns the number of rows of this table, without those that were deleted."
CHAT = (
    "{% for message in messages %}{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n\nTL;DR:' }}{% endif %}"
)


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
        until = time.monotonic() + PATIENCE
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


@pytest.mark.slow
def test_transformers_serve_writes_the_same_summary_of_an_exported_model(tmp_path):
    """The prompt and its limit of tokens come from the client; beams and length penalty from the folder."""
    openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    pytest.importorskip("fastapi", reason="`transformers serve` needs fastapi")
    folder = export_base(tmp_path / "tiny", num_beams=3, length_penalty=0.5)
    summarizer = Summarizer.load(folder)
    summarizer.tokenizer.chat_template = CHAT
    summarizer.tokenizer.save_pretrained(folder)
    generate, prompt = summarizer.settings.generate, summarizer.settings.prompt
    config = generation_config(summarizer.tokenizer, generate, summarizer.model.config.vocab_size)
    summarizer.model.save_pretrained(
        folder
    )  # in float32, which config.json then says: in bfloat16 beams differ
    config.save_pretrained(folder)
    wanted = summarizer.summarize([ARTICLE])[0]
    assert wanted.document_tokens_cut == 0 and wanted.output_tokens == generate.max_new_tokens
    with (
        transformers_serve(folder) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=PATIENCE) as client,
    ):
        model, limit = str(folder), generate.max_new_tokens
        text = prompt.template.replace("{article}", ARTICLE)
        completion = client.completions.create(model=model, prompt=text, max_tokens=limit)
        messages = [{"role": "user", "content": ARTICLE}]
        chat = client.chat.completions.create(model=model, messages=messages, max_tokens=limit)
    assert completion.choices[0].text.strip() == wanted.text
    assert completion.usage.completion_tokens == wanted.output_tokens
    assert completion.usage.prompt_tokens == wanted.input_tokens
    assert chat.choices[0].message.content.strip() == wanted.text
