"""The simulated rows are as many as asked for, made as they are read, and not like each other."""

import tracemalloc

from benchmarks import data
from onesentence.core.params import SPLITS
from onesentence.core.pool import Pool
from onesentence.data.cleaning import clean, read_rows


def test_simulated_rows_are_all_kept_and_never_held(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SIMULATED_HELD_OUT", 300)
    source = data.simulated(2_000)
    tracemalloc.start()
    rows = read_rows(source, Pool(1), "en", tmp_path / "rows")
    assert tracemalloc.get_traced_memory()[0] < 1_000_000  # the columns, not the texts
    tracemalloc.stop()
    cleaned, _ = clean(rows)
    assert [len(cleaned[split]) for split in SPLITS] == [1_400, 300, 300]
    texts = {row.document for row in rows.stored}
    assert len(texts) == 2_000 and all(len(text.split()) == 12 for text in texts)
