"""Stage `report`: draws the plots and tables that git tracks, and writes the page for readers.

Reads   metrics/{evaluation,train}.json, plots/loss.csv, data/scores/, data/prepared/SPLIT.parquet.
Writes  plots/{loss,metrics,novelty,extraction,length}.svg, their numbers as .csv, plots/groups.csv,
        plots/results.md, and plots/report.html (DVC caches it; git does not track it, as it holds articles).
Run     python -m stages.report
"""

from pathlib import Path

from onesentence.core import params, stage
from onesentence.core.files import read_json, read_parquet, write_text
from onesentence.evaluation.metrics import scores_file
from onesentence.report.figures import draw_extraction, draw_length, draw_loss, draw_metrics, draw_novelty
from onesentence.report.page import page_data
from onesentence.report.render import render
from onesentence.report.subgroups import grouped, write_groups
from onesentence.report.tables import SYSTEMS, results_table

PARAMS = (
    "data.source",
    "model.name",
    "model.quantization",
    "lora.rank",
    "train.method",
    "generate.num_beams",
    "generate.quantization",
    "evaluate.split",
    "evaluate.resamples",
    "evaluate.confidence",
    "report",
)
EVALUATION = Path("metrics/evaluation.json")
TRAIN = Path("metrics/train.json")
PREPARED = Path("data/prepared")
PLOTS = Path("plots")
RESULTS = Path("plots/results.md")
PAGE = Path("plots/report.html")


def main() -> None:
    p = params.load(PARAMS)
    evaluation = read_json(EVALUATION)
    tables = {name: read_parquet(scores_file(name)) for name in (*SYSTEMS, "reference")}
    table = read_parquet(PREPARED / f"{p.evaluate.split}.parquet")
    groups, labels = grouped(tables, p.evaluate.resamples, p.evaluate.confidence)
    draw_loss(read_json(TRAIN), PLOTS)
    draw_metrics(evaluation, p.report.published, PLOTS)
    draw_novelty(evaluation, PLOTS)
    draw_extraction(evaluation, tables, PLOTS)
    draw_length(groups["length"][1], evaluation, PLOTS)
    write_groups(groups, PLOTS / "groups.csv")
    write_text(RESULTS, results_table(evaluation, p.report.published))
    write_text(PAGE, render(page_data(p, evaluation, tables, groups, labels, table, PLOTS)))
    print(f"report: {PAGE} ({PAGE.stat().st_size / 1e6:.1f} MB), {RESULTS}, {PLOTS}/*.svg, *.csv")


if __name__ == "__main__":
    stage.run(main, __doc__)
