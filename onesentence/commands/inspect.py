"""Show rows as the pipeline sees them: the pair, the filled prompt, the tokens, the labels, the cut.

Reads   data/prepared/, the tokenizer of `model.name`.
Run     onesentence inspect                             the first row of train
        onesentence inspect --split test --rows 3
        onesentence inspect --split test --id ID
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.text import Text

from onesentence.commands import documented
from onesentence.core import params
from onesentence.core.errors import UserError
from onesentence.core.escaping import LINES, visible
from onesentence.core.files import read_as_written_now, read_parquet
from onesentence.core.params import SPLITS, Prompt
from onesentence.core.text import with_heading, words
from onesentence.model.encoding import encode_completion, encode_prompt
from onesentence.model.loading import load_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PARAMS = ("prompt", "model")
PREPARED = Path("data/prepared")
ROW = ["id", "heading", "document", "summary"]  # what is shown of a row


def label_lines(
    tokenizer: "PreTrainedTokenizerBase", prompt_ids: list[int], completion_ids: list[int]
) -> list[str]:
    """One line for each token: place, id, label (- where the loss ignores it), text."""
    lines = []
    for place, token in enumerate([*prompt_ids, *completion_ids]):
        label = "-" if place < len(prompt_ids) else str(token)
        lines.append(f"{place:5d} {token:6d} {label:>6} {tokenizer.decode([token])!r}")
    return lines


def show(console: Console, tokenizer: "PreTrainedTokenizerBase", prompt: Prompt, row: dict[str, Any]) -> None:
    """Print one row. Its text is printed literally: markup in it has no effect, nor do control characters.

    row: with the keys of ROW.
    """
    article = with_heading(row["heading"], row["document"])
    filled = encode_prompt(tokenizer, prompt.template, article, prompt.max_input_tokens)
    completion_ids = encode_completion(tokenizer, row["summary"], prompt.template)
    console.rule(Text(visible(row["id"])))
    summary = visible(row["summary"], keep=LINES)
    console.print(Text(f"summary ({len(words(row['summary']))} words): {summary}"))
    console.print(
        Text(
            f"document: {len(words(article))} words, {filled.document_tokens} tokens, "
            f"{filled.document_tokens_cut} of them cut; prompt {len(filled.ids)} tokens, "
            f"completion {len(completion_ids)} (EOS included)"
        )
    )
    console.rule("filled prompt", style="dim")
    console.print(Text(visible(filled.text, keep=LINES)))
    if filled.document_tokens_cut:
        last = filled.document_tokens - filled.document_tokens_cut
        console.print(Text(f"[the document was cut after its token {last}]", style="yellow"))
    console.rule("place, id, label, token", style="dim")
    lines = label_lines(tokenizer, filled.ids, completion_ids)
    edge = len(filled.ids)  # the beginning, then where the prompt ends and the completion starts
    shown = lines[:8] + ["  ..."] + lines[edge - 8 :] if edge > 16 else lines
    console.print(Text(visible("\n".join(shown), keep=LINES)))


@documented(__doc__)
@click.option("--split", type=click.Choice(SPLITS), default="train", show_default=True)
@click.option("--id", "row_id", help="The row with this id, instead of the first rows.")
@click.option(
    "--rows",
    "count",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many rows, without --id.",
)
def command(split: str, row_id: str | None, count: int) -> None:
    p = params.load(PARAMS)
    path = PREPARED / f"{split}.parquet"
    table = read_parquet(path)
    found = table.slice(0, count) if row_id is None else table
    with read_as_written_now(path):
        rows = [{key: row[key] for key in ROW} for row in found.to_pylist()]
    if row_id is not None:
        rows = [row for row in rows if row["id"] == row_id]
        if not rows:
            raise UserError(f"--id: {row_id!r} not found in {split}; try another --split")
    tokenizer = load_tokenizer(p.model)
    console = Console(highlight=False, soft_wrap=True)
    for row in rows:
        show(console, tokenizer, p.prompt, row)
