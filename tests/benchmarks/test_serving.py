"""The benchmark of the service: what it counts as lost and as mixed up."""

import json
from dataclasses import asdict

from running import export_base, running

from benchmarks.serving import batches_so_far, line, load
from onesentence.inference.summarizer import Summarizer


def test_a_load_counts_answers_that_differ_and_requests_that_fail(tmp_path):
    folder = export_base(tmp_path / "tiny")
    articles = [f"Returns the number of rows of table {k}. " * (1 + k) for k in range(6)]
    summaries = Summarizer.load(folder).summarize(articles)
    wanted = {a: json.loads(json.dumps(asdict(s))) for a, s in zip(articles, summaries, strict=True)}
    with running(folder) as serving:
        result = load(serving.address, articles * 4, 4, wanted, limit=60)
        counts = [result[key] for key in ("requests", "answered", "lost", "differing")]
        assert counts == [24, 24, 0, 0]
        assert 0 < result["milliseconds"]["p50"] <= result["milliseconds"]["max"]
        assert "24 of 24 answered, 0 lost, 0 unlike alone" in line(result)
        given, batches = batches_so_far(serving.address)
        assert given == 24 and 6 <= batches <= 24
        mixed_up = wanted | {articles[0]: wanted[articles[1]]}
        assert load(serving.address, articles * 2, 2, mixed_up, limit=60)["differing"] == 2
        refused = load(serving.address, ["", *articles], 1, wanted, limit=60)
        assert (refused["answered"], refused["lost"]) == (0, 1)
        assert load(serving.address, articles, 1, wanted, limit=0)["answered"] == 0
