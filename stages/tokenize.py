"""Stage `tokenize`: fill the prompt, cut the document to fit, encode the summary.

Reads   data/prepared/, the tokenizer of `model.name`.
Writes  data/tokenized/{train,validation,test}.parquet (id, prompt_ids, completion_ids, document_tokens,
        document_tokens_cut), metrics/prompt.json, plots/tokens.csv, plots/tokens.svg.
Run     python -m stages.tokenize
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from onesentence.core import params, plots, stage
from onesentence.core.files import atomic_write, read_parquet, write_json, write_parquet
from onesentence.core.params import SPLITS
from onesentence.core.text import with_heading
from onesentence.model.base_check import check_ids, check_positions, check_round_trip
from onesentence.model.encoding import encode_completion, encode_prompt, overhead, template_overheads
from onesentence.model.loading import load_config, load_tokenizer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PARAMS = ("prompt", "model", "generate.max_new_tokens")
PREPARED = Path("data/prepared")
TOKENIZED = Path("data/tokenized")
METRICS_FILE = Path("metrics/prompt.json")
PLOT = Path("plots/tokens.svg")
PLOT_DATA = Path("plots/tokens.csv")
ROUND_TRIPS = 1_000  # training summaries that are encoded and decoded, to see whether letters get lost
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


def encode_split(
    tokenizer: "PreTrainedTokenizerBase", prompt: params.Prompt, table: pa.Table, split: str
) -> dict[str, list[Any]]:
    """The columns of data/tokenized/SPLIT.parquet. table: data/prepared/SPLIT.parquet."""
    columns: dict[str, list[Any]] = {
        "id": table["id"].to_pylist(),
        "prompt_ids": [],
        "completion_ids": [],
        "document_tokens": [],
        "document_tokens_cut": [],
    }
    rows = zip(table["heading"], table["document"], table["summary"], strict=True)
    for heading, document, summary in tqdm(rows, total=len(table), desc=f"tokenize {split}", unit="row"):
        article = with_heading(heading.as_py(), document.as_py())
        filled = encode_prompt(tokenizer, prompt.template, article, prompt.max_input_tokens)
        # int32 arrays take a tenth of the memory of lists of int.
        columns["prompt_ids"].append(np.array(filled.ids, dtype=np.int32))
        completion_ids = encode_completion(tokenizer, summary.as_py(), prompt.template)
        columns["completion_ids"].append(np.array(completion_ids, dtype=np.int32))
        columns["document_tokens"].append(filled.document_tokens)
        columns["document_tokens_cut"].append(filled.document_tokens_cut)
    return columns


def quantiles(lengths: list[int]) -> dict[str, int]:
    """Lengths in tokens at the percentiles of QUANTILES; each is a length that occurs."""
    values = np.percentile(lengths, QUANTILES, method="inverted_cdf")
    return {f"p{q}": int(value) for q, value in zip(QUANTILES, values, strict=True)}


def length_warning(summary_lengths: list[int], max_new_tokens: int) -> str | None:
    """A warning if `generate.max_new_tokens` does not suit summaries of these lengths (EOS included)."""
    mean, p95 = float(np.mean(summary_lengths)), int(np.percentile(summary_lengths, 95))
    if max_new_tokens < p95:
        return (
            f"generate.max_new_tokens: {max_new_tokens} is under the 95th percentile of the training "
            f"summaries ({p95} tokens): long ones will be cut off"
        )
    if max_new_tokens > 2 * mean:
        return (
            f"generate.max_new_tokens: {max_new_tokens} is over twice the mean length of the training "
            f"summaries ({mean:.1f} tokens): time is spent on outputs that should have ended"
        )
    return None


def draw(documents: list[int], summaries: list[int], limit: int, max_new_tokens: int) -> None:
    """Plot the cumulative distribution of training lengths in tokens, with the limits of params.yaml."""
    percents = list(range(101))
    figure, axes = plots.figure(width=8.0, height=3.4, columns=2)
    columns = []
    panels = [
        ("documents", documents, limit, "prompt.max_input_tokens", "#0072B2", "log"),
        ("summaries", summaries, max_new_tokens, "generate.max_new_tokens", "#E69F00", "linear"),
    ]
    for axis, (name, lengths, bound, key, colour, scale) in zip(axes, panels, strict=True):
        tokens = np.percentile(lengths, percents, method="inverted_cdf").astype(int).tolist()
        columns.append(tokens)
        axis.step(tokens, percents, where="post", color=colour)
        axis.axvline(bound, color="black", linestyle="--", linewidth=1)
        axis.annotate(
            f"{key} = {bound}",
            (bound, 0),
            (4, 0),
            textcoords="offset points",
            rotation=90,
            va="bottom",
            fontsize=8,
        )
        axis.set(
            title=f"Length of training {name} (n = {len(lengths):,})",
            xlabel=f"tokens ({scale} scale)",
            ylabel="rows no longer than that (%)",
            xscale=scale,
        )
        axis.xaxis.set_major_formatter("{x:g}")
    plots.save(figure, PLOT)
    rows = [list(row) for row in zip(percents, *columns, strict=True)]
    plots.write_csv(PLOT_DATA, ["percent_of_rows", "document_tokens", "summary_tokens"], rows)


def check_split(
    tokenizer: "PreTrainedTokenizerBase",
    config: "PretrainedConfig",
    columns: dict[str, list[Any]],
    max_new_tokens: int,
) -> str | None:
    """Refuse rows that the model cannot read: ids beyond its embeddings, texts longer than its positions.

    Returns a warning if texts are longer than the positions that the model was trained on, else None.
    """
    rows = list(zip(columns["prompt_ids"], columns["completion_ids"], strict=True))
    check_ids(tokenizer, config.vocab_size, max(int(ids.max()) for row in rows for ids in row))
    # The longest text that training reads, and the longest that generation may reach.
    trained = max(len(prompt) + len(completion) for prompt, completion in rows)
    written = max(len(prompt) for prompt, _ in rows) + max_new_tokens
    key = "generate.max_new_tokens" if written >= trained else "its summary"
    return check_positions(config, max(trained, written), key)


def main() -> None:
    p = params.load(PARAMS)
    tokenizer, config = load_tokenizer(p.model), load_config(p.model)
    check_ids(tokenizer, config.vocab_size)  # before minutes of work: does the tokenizer fit the model?
    lengths, warnings = {}, []
    with atomic_write(TOKENIZED) as folder:
        for split in SPLITS:
            table = read_parquet(PREPARED / f"{split}.parquet")
            if split == "train":
                sample = table.slice(0, ROUND_TRIPS)
                summaries = sample["summary"].to_pylist()
                warnings.append(check_round_trip(tokenizer, sample["id"].to_pylist(), summaries))
            columns = encode_split(tokenizer, p.prompt, table, split)
            warnings.append(check_split(tokenizer, config, columns, p.generate.max_new_tokens))
            write_parquet(
                folder / f"{split}.parquet",
                {
                    "id": pa.array(columns["id"], pa.string()),
                    "prompt_ids": pa.array(columns["prompt_ids"], pa.list_(pa.int32())),
                    "completion_ids": pa.array(columns["completion_ids"], pa.list_(pa.int32())),
                    "document_tokens": pa.array(columns["document_tokens"], pa.int32()),
                    "document_tokens_cut": pa.array(columns["document_tokens_cut"], pa.int32()),
                },
            )
            lengths[split] = {
                "documents": columns["document_tokens"],
                "summaries": [len(ids) for ids in columns["completion_ids"]],
                "cut": columns["document_tokens_cut"],
            }
            if split == "validation":  # one article measures how many tokens each template adds
                example = with_heading(table["heading"][0].as_py(), table["document"][0].as_py())

    write_json(
        METRICS_FILE,
        {
            "template": p.prompt.template,
            "template_tokens": overhead(tokenizer, p.prompt.template, example),
            "overhead_tokens": template_overheads(tokenizer, example),
            "splits": {
                split: {
                    "document_tokens": quantiles(rows["documents"]),
                    "summary_tokens": quantiles(rows["summaries"]),
                    "mean_summary_tokens": float(np.mean(rows["summaries"])),
                    "documents_cut_percent": 100 * float(np.mean(np.array(rows["cut"]) > 0)),
                    "document_tokens_cut": int(sum(rows["cut"])),
                }
                for split, rows in lengths.items()
            },
        },
    )
    train = lengths["train"]
    draw(train["documents"], train["summaries"], p.prompt.max_input_tokens, p.generate.max_new_tokens)
    warnings.append(length_warning(train["summaries"], p.generate.max_new_tokens))
    for warning in dict.fromkeys(filter(None, warnings)):  # splits can give the same warning
        print(f"tokenize: warning: {warning}")
    cut = np.array(train["cut"]) > 0
    print(
        f"tokenize: {len(cut):,} training rows, {cut.mean():.1%} of documents cut, summaries of "
        f"{np.mean(train['summaries']):.1f} tokens on average (EOS included)"
    )


if __name__ == "__main__":
    stage.run(main, __doc__)
