"""Which rows of a source are worth keeping: no empty, repeated or trivial ones, no document in two splits."""

from collections import Counter
from collections.abc import Iterator

from tqdm import tqdm

from onesentence.core.params import SPLITS
from onesentence.core.text import first_sentence, words
from onesentence.data.sources import Example, text_digest


def clean(
    splits: dict[str, Iterator[Example]], language: str, grouped: bool = False
) -> tuple[dict[str, list[Example]], dict[str, Counter[str]]]:
    """(good rows by split, counts by split: rows read, and rows dropped for each reason).

    Test is cleaned first and train last, so that of two equal documents the held-out one stays. grouped: do
    the same for groups (a newspaper, an author), so that no group is in two splits. Docstrings are not
    grouped, because near-duplicates move to train while the rest of their file stays.
    """
    cleaned: dict[str, list[Example]] = {}
    counts: dict[str, Counter[str]] = {}
    side_of_document: dict[bytes, str] = {}
    side_of_group: dict[str, str] = {}
    for split in reversed(SPLITS):
        count: Counter[str] = Counter()
        rows: list[Example] = []
        for row in tqdm(splits[split], desc=f"clean {split}", unit="row"):
            count["read"] += 1
            if not row.article.strip() or not row.summary.strip():
                count["empty document or summary"] += 1
                continue
            document = text_digest(row.article)
            if document in side_of_document:
                same = side_of_document[document] == split
                count["duplicate document" if same else "document is in another split"] += 1
                continue
            side_of_document[document] = split
            # 20,000 characters hold the first sentence in practice; splitting a whole book costs seconds.
            first = first_sentence(row.document[:20_000], language)
            if words(first) == words(row.summary):
                count["summary is the document's first sentence"] += 1
                continue
            if grouped and side_of_group.setdefault(row.group, split) != split:
                count["group is in another split"] += 1
                continue
            rows.append(row)
        cleaned[split], counts[split] = rows, count
    return cleaned, counts
