"""Stage `tokenize`: fill the prompt, cut the document to fit, encode the summary.

Reads   data/prepared/, the tokenizer of `model.name`.
Writes  data/tokenized/{train,validation,test}.parquet (id, prompt_ids, completion_ids, document_tokens,
        document_tokens_cut), metrics/prompt.json, plots/tokens.csv, plots/tokens.svg.
Run     python -m stages.tokenize
"""

from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from onesentence.core import params, plots, stage
from onesentence.core.columns import Column
from onesentence.core.files import atomic_write, write_json
from onesentence.core.params import SPLITS
from onesentence.core.parquet import parquet_reader, parquet_writer, read_rows
from onesentence.core.pool import Pool, chunked
from onesentence.core.text import with_heading
from onesentence.model.base_check import check_ids, check_positions, check_round_trip
from onesentence.model.encoded_rows import SCHEMA, EncodedRows, Row, encode_chunk, tokenizer_of
from onesentence.model.encoding import overhead, template_overheads
from onesentence.model.loading import load_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

PARAMS = ("prompt", "model", "generate.max_new_tokens")
PREPARED = Path("data/prepared")
TOKENIZED = Path("data/tokenized")
METRICS_FILE = Path("metrics/prompt.json")
PLOT = Path("plots/tokens.svg")
PLOT_DATA = Path("plots/tokens.csv")
COLUMNS = ["id", "heading", "document", "summary"]
FEW = 32  # chunks: up to 8,192 rows, loading transformers in each worker takes longer than it saves
ROUND_TRIPS = 1_000  # training summaries that are encoded and decoded, to see whether letters get lost
QUANTILES = (0, 5, 25, 50, 75, 95, 100)


@dataclass
class Lengths:
    """Lengths of a split's rows in tokens: 12 bytes a row. longest: prompt; text: prompt and summary."""

    documents: Column = field(default_factory=lambda: Column(np.int32))
    summaries: Column = field(default_factory=lambda: Column(np.int32))
    cut: Column = field(default_factory=lambda: Column(np.int32))
    longest_prompt: int = 0
    longest_text: int = 0
    highest_id: int = 0

    def add(self, rows: EncodedRows) -> None:
        """Append the rows that follow."""
        self.documents.extend(rows.document_tokens)
        self.summaries.extend(rows.completion_tokens)
        self.cut.extend(rows.document_tokens_cut)
        texts = rows.prompt_tokens + rows.completion_tokens
        self.longest_prompt = max(self.longest_prompt, int(rows.prompt_tokens.max()))
        self.longest_text = max(self.longest_text, int(texts.max()))
        ids = (rows.prompt_ids.max(), rows.completion_ids.max())
        self.highest_id = max(self.highest_id, *map(int, ids))


def encode_split(p: params.Params, pool: Pool, split: str, folder: Path) -> Lengths:
    """Write data/tokenized/SPLIT.parquet; returns the lengths of its rows."""
    lengths = Lengths()
    encode = partial(encode_chunk, p.model, p.prompt)
    with (
        parquet_reader(PREPARED / f"{split}.parquet") as file,
        parquet_writer(folder / f"{split}.parquet", SCHEMA) as writer,
        tqdm(total=file.metadata.num_rows, desc=f"tokenize {split}", unit="row") as bar,
    ):
        for rows in pool.map(encode, chunked(read_rows(file, COLUMNS), lambda row: len(row[2]))):
            writer.add(rows.table())
            lengths.add(rows)
            bar.update(len(rows.names))
    return lengths


def first_rows(split: str, count: int) -> list[Row]:
    """The first rows of data/prepared/SPLIT.parquet."""
    with parquet_reader(PREPARED / f"{split}.parquet") as file:
        return list(islice(read_rows(file, COLUMNS), count))


def quantiles(lengths: NDArray[np.int32]) -> dict[str, int]:
    """Lengths in tokens at the percentiles of QUANTILES; each is a length that occurs."""
    values = np.percentile(lengths, QUANTILES, method="inverted_cdf")
    return {f"p{q}": int(value) for q, value in zip(QUANTILES, values, strict=True)}


def length_warning(summary_lengths: NDArray[np.int32], max_new_tokens: int) -> str | None:
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


def draw(documents: NDArray[np.int32], summaries: NDArray[np.int32], limit: int, max_new_tokens: int) -> None:
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
    lengths: Lengths,
    max_new_tokens: int,
) -> str | None:
    """Refuse rows that the model cannot read: ids beyond its embeddings, texts longer than its positions.

    Returns a warning if texts are longer than the positions that the model was trained on, else None.
    """
    check_ids(tokenizer, config.vocab_size, lengths.highest_id)
    # The longest text that training reads, and the longest that generation may reach.
    trained, written = lengths.longest_text, lengths.longest_prompt + max_new_tokens
    key = "generate.max_new_tokens" if written >= trained else "its summary"
    return check_positions(config, max(trained, written), key)


def described(lengths: Lengths) -> dict[str, Any]:
    """A split's entry in metrics/prompt.json."""
    cut = lengths.cut.values
    return {
        "document_tokens": quantiles(lengths.documents.values),
        "summary_tokens": quantiles(lengths.summaries.values),
        "mean_summary_tokens": float(np.mean(lengths.summaries.values)),
        "documents_cut_percent": 100 * float(np.mean(cut > 0)),
        "document_tokens_cut": int(cut.sum(dtype=np.int64)),
    }


def main() -> None:
    p = params.load(PARAMS)
    tokenizer, config = tokenizer_of(p.model), load_config(p.model)
    check_ids(tokenizer, config.vocab_size)  # before minutes of work: does the tokenizer fit the model?
    lengths, warnings = {}, []
    with atomic_write(TOKENIZED) as folder, Pool(few=FEW) as pool:
        for split in SPLITS:
            if split == "train":
                sample = first_rows(split, ROUND_TRIPS)
                names, summaries = [row[0] for row in sample], [row[3] for row in sample]
                warnings.append(check_round_trip(tokenizer, names, summaries))
            lengths[split] = encode_split(p, pool, split, folder)
            warnings.append(check_split(tokenizer, config, lengths[split], p.generate.max_new_tokens))
    # One article measures how many tokens each template adds.
    _, heading, document, _ = first_rows("validation", 1)[0]
    example = with_heading(heading, document)
    write_json(
        METRICS_FILE,
        {
            "template": p.prompt.template,
            "template_tokens": overhead(tokenizer, p.prompt.template, example),
            "overhead_tokens": template_overheads(tokenizer, example),
            "splits": {split: described(rows) for split, rows in lengths.items()},
        },
    )
    documents, summaries = lengths["train"].documents.values, lengths["train"].summaries.values
    draw(documents, summaries, p.prompt.max_input_tokens, p.generate.max_new_tokens)
    warnings.append(length_warning(summaries, p.generate.max_new_tokens))
    for warning in dict.fromkeys(filter(None, warnings)):  # splits can give the same warning
        print(f"tokenize: warning: {warning}")
    cut = lengths["train"].cut.values > 0
    print(
        f"tokenize: {len(cut):,} training rows, {cut.mean():.1%} of documents cut, summaries of "
        f"{np.mean(summaries):.1f} tokens on average (EOS included)"
    )


if __name__ == "__main__":
    stage.run(main, __doc__)
