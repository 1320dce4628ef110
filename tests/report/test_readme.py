"""Generated parts of the README: the table of results, the example, the markers around them."""

import copy
import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner
from conftest import ROOT, run

from onesentence.commands import estimate, results
from onesentence.core.errors import UserError
from onesentence.core.files import write_jsonl, write_parquet
from onesentence.report.readme import EVALUATION, EXCERPT, WIDTH, example_block, results_block, write_between

LARGEST = 13_000  # bytes of the README: a newcomer reads all of it


def evaluation() -> dict:
    return json.loads((ROOT / EVALUATION).read_text())


def test_only_the_lines_between_the_markers_are_replaced(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- /a -->\nafter\n")
    write_between(page, "<!-- a -->\n", "<!-- /a -->\n", "new\n")
    assert page.read_text() == "before\n<!-- a -->\nnew\n<!-- /a -->\nafter\n"
    with pytest.raises(UserError, match=r"page\.md: a marker is missing .*<!-- b --> .* put both back"):
        write_between(page, "<!-- b -->\n", "<!-- /a -->\n", "new\n")
    page.write_text("<!-- /a -->\n<!-- a -->\n")  # in the wrong order
    with pytest.raises(UserError, match="a marker is missing"):
        write_between(page, "<!-- a -->\n", "<!-- /a -->\n", "new\n")
    with pytest.raises(UserError, match=r"none\.md: not found"):
        write_between(tmp_path / "none.md", "<!-- a -->\n", "<!-- /a -->\n", "new\n")


def test_the_readme_shows_every_pipeline_that_is_committed(monkeypatch):
    monkeypatch.chdir(ROOT)
    own = "presets/*/metrics/evaluation.json"
    if run(ROOT, "git", "ls-files", "--others", "--", own).stdout:
        pytest.skip("a preset was run here whose results are not committed")
    table = results_block(results.pipelines())
    assert results.START + table + results.END in Path("README.md").read_text()
    scores = evaluation()["systems"]["tuned"]["rouge1"]
    assert (
        f"| fine-tuned model | {scores['value']:.2f} [{scores['low']:.2f}, {scores['high']:.2f}] |" in table
    )
    assert len({line.count("|") for line in table.splitlines()}) == 1  # every row has every column


def test_a_difference_says_whether_it_is_significant(tmp_path, monkeypatch):
    changed = evaluation()
    changed["comparisons"]["tuned-base"]["rouge1"]["p_holm"] = 0.2
    (tmp_path / "metrics").mkdir()
    (tmp_path / EVALUATION).write_text(json.dumps(changed))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    lines = results_block([Path()]).splitlines()
    assert next(line for line in lines if "tuned - base" in line).endswith(", not significant |")
    assert next(line for line in lines if "tuned - lead" in line).endswith(", significant |")


def written(folder: Path, scores: dict[str, float], document: str = "A | b ```c```.\n\nd") -> Path:
    """`data/` of a pipeline with these scores of the fine-tuned model by id; the base scores 1."""
    for path, values in (("tuned/tuned", scores), ("baselines/base", dict.fromkeys(scores, 1.0))):
        (folder / "scores" / path).parent.mkdir(parents=True)
        columns = {"id": pa.array(list(values)), "rouge1": pa.array(list(values.values()))}
        write_parquet(folder / "scores" / f"{path}.parquet", columns)
    (folder / "prepared").mkdir()
    texts = {"heading": "def f()", "document": document, "summary": "The reference."}
    columns = {"id": pa.array(list(scores)), **{k: pa.array([v] * len(scores)) for k, v in texts.items()}}
    write_parquet(folder / "prepared/test.parquet", columns)
    (folder / "predictions").mkdir()
    for name in ("base", "tuned"):
        rows = [{"id": id_, "prediction": f"{name}\nof {id_}"} for id_ in scores]
        write_jsonl(folder / f"predictions/{name}.jsonl", rows)
    return folder


def with_mean(scores: dict[str, float]) -> dict:
    found = copy.deepcopy(evaluation())
    found["systems"]["tuned"]["rouge1"]["value"] = round(sum(scores.values()) / len(scores), 4)
    return found


def test_the_example_is_the_article_in_the_middle(tmp_path):
    scores = {"e": 50.0, "a": 0.0, "d": 20.0, "c": 20.0, "b": 20.0}  # sorted: a b c d e
    block = example_block(written(tmp_path, scores), with_mean(scores))
    assert block == (
        "```text\n"
        "Article     def f() A | b '''c'''. d\n"
        "Reference   The reference.\n"
        "Untuned     base of c (1.00)\n"
        "Fine-tuned  tuned of c (20.00)\n"
        "```\n"
    )
    del scores["a"]  # of an even number, the lower of the two in the middle
    even = example_block(written(tmp_path / "even", scores), with_mean(scores))
    assert "tuned of c" in even


def test_a_long_article_is_cut_and_wrapped(tmp_path):
    block = example_block(written(tmp_path, {"a": 1.0}, "word " * 200), with_mean({"a": 1.0}))
    assert block.count("word") == EXCERPT - 2 and "word ...\n" in block  # two words are the heading's
    assert max(map(len, block.splitlines())) <= WIDTH


@pytest.mark.parametrize("key", ["systems", "confidence", "comparisons", "n"])
def test_an_evaluation_of_other_code_is_one_sentence(tmp_path, monkeypatch, key):
    found = evaluation()
    del found[key]
    (tmp_path / "metrics").mkdir()
    (tmp_path / EVALUATION).write_text(json.dumps(found))
    for name in ("params.yaml", "README.md"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    monkeypatch.chdir(tmp_path)
    problem = rf"metrics/evaluation\.json: has no '{key}', .*: another version of the code wrote it; run `dvc"
    for command, options in ((results.command, ["--readme"]), (estimate.command, ["--mde", "0.5"])):
        if key == "systems" and command is estimate.command:
            continue  # it reads none
        with pytest.raises(UserError, match=problem):
            CliRunner().invoke(command, options, catch_exceptions=False)
    assert (tmp_path / "README.md").read_text() == (ROOT / "README.md").read_text()


def test_the_articles_that_an_mde_needs_come_with_what_the_correction_takes(monkeypatch):
    monkeypatch.chdir(ROOT)
    said = CliRunner().invoke(estimate.command, ["--mde", "0.6"], catch_exceptions=False).output
    assert (
        "The evaluation makes 30 tests: after Holm's correction, the strictest step needs about 2.0 times"
        in said
    )


def test_a_presets_evaluation_of_other_code_names_its_own_command(tmp_path, monkeypatch):
    found = evaluation()
    for place in (tmp_path, tmp_path / "presets/own"):
        (place / "metrics").mkdir(parents=True)
        (place / EVALUATION).write_text(json.dumps(found))
        (place / "params.yaml").write_text((ROOT / "params.yaml").read_text())
        found["comparisons"].pop("tuned-lead", None)  # of the second
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"^presets/own/.* has no 'tuned-lead', .* `make repro PRESET=own`"):
        results_block([Path(), Path("presets/own")])


@pytest.mark.parametrize("file", ["prepared/test.parquet", "predictions/tuned.jsonl"])
def test_an_article_that_a_file_lacks_is_one_sentence(tmp_path, file):
    data = written(tmp_path, {"a": 1.0})
    written(tmp_path / "other", {"b": 1.0})
    (tmp_path / "other" / file).replace(data / file)
    with pytest.raises(UserError, match=rf"{file}: has no article 'a' of data/scores; run `dvc repro`"):
        example_block(data, with_mean({"a": 1.0}))


def test_an_article_of_another_layout_is_one_sentence(tmp_path):
    data = written(tmp_path, {"a": 1.0})
    write_parquet(data / "prepared/test.parquet", {"id": pa.array(["a"]), "text": pa.array(["b"])})
    with pytest.raises(UserError, match=r"prepared/test\.parquet: has no 'heading', which is read here"):
        example_block(data, with_mean({"a": 1.0}))


def test_scores_of_another_run_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"scores: these scores .* expected 2\.0000, found 1\.0000"):
        example_block(written(tmp_path, {"a": 1.0}), with_mean({"a": 2.0}))


def test_the_command_writes_results_and_example_into_the_readme(tmp_path, monkeypatch):
    scores = {"a": 10.0, "b": 30.0}
    found = with_mean(scores)
    for entries in found["comparisons"].values():
        for entry in entries.values():
            entry["mde"] = 1.0
    (tmp_path / "metrics").mkdir()
    (tmp_path / EVALUATION).write_text(json.dumps(found))
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    written(tmp_path / "data", scores)
    markers = [results.EXAMPLE_START, results.EXAMPLE_END, results.START, results.END]
    (tmp_path / "README.md").write_text("".join(markers))
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(results.command, ["--readme"], catch_exceptions=False)
    assert result.exit_code == 0 and "20.00" in result.output
    text = (tmp_path / "README.md").read_text()
    assert "Fine-tuned  tuned of a (10.00)" in text and "| fine-tuned model | 20.00 [" in text
    assert [text.index(marker) for marker in markers] == sorted(text.index(marker) for marker in markers)

    settings = (tmp_path / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(settings.replace("source: docstrings", "source: local"))
    CliRunner().invoke(results.command, ["--readme"], catch_exceptions=False)
    text = (tmp_path / "README.md").read_text()  # the user's own articles may be private
    assert results.NO_EXAMPLE in text and "tuned of a" not in text
    (tmp_path / "params.yaml").write_text(settings)

    broken = text.replace(results.EXAMPLE_END, "")
    (tmp_path / "README.md").write_text(broken)
    with pytest.raises(UserError, match="a marker is missing"):
        CliRunner().invoke(results.command, ["--readme"], catch_exceptions=False)
    assert (tmp_path / "README.md").read_text() == broken
    (tmp_path / "README.md").write_text(text)

    (tmp_path / "data/predictions/base.jsonl").unlink()  # nothing is half written
    (tmp_path / "README.md").write_text("".join(markers))
    with pytest.raises(UserError, match=r"data/predictions/base\.jsonl"):
        CliRunner().invoke(results.command, ["--readme"], catch_exceptions=False)
    assert (tmp_path / "README.md").read_text() == "".join(markers)


def test_the_readme_shows_an_example_and_is_short():
    text = (ROOT / "README.md").read_text()
    example = text.partition(results.EXAMPLE_START)[2].partition(results.EXAMPLE_END)[0]
    labels = [line.split(" ")[0] for line in example.splitlines() if line[0] not in "` "]
    assert labels == ["Article", "Reference", "Untuned", "Fine-tuned"]
    assert text.index(results.EXAMPLE_START) < text.index("## ")  # on the first screen
    assert len(text.encode()) <= LARGEST
