"""The scores of a study's runs in git: written, read, matched, and computed from again."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run
from hypothesis import given
from hypothesis import strategies as st
from samples import RANKS, SCORED, N, declared, hold, put_experiment, sample_run

from onesentence.commands.compare import command
from onesentence.core.errors import UserError
from onesentence.study import scores as kept
from onesentence.study.comparison import TESTED_METRICS, compare
from onesentence.study.experiments import flat, made_with
from onesentence.study.scores import (
    Run,
    differing,
    has_code,
    joined,
    own_part,
    read_runs,
    recorded,
    require_declared,
    shared_part,
    write_runs,
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return declared(tmp_path, rank=RANKS).study("rank")


@pytest.fixture
def runs(study) -> dict[str, Run]:
    """The runs of the study, in its order. The base of a variant is the same for both seeds."""
    made = {}
    for seed in study.seeds:
        for rank in (8, 16):
            base = sample_run(rank, study.seeds[0]).base
            made[f"rank-{rank}-seed{seed}"] = sample_run(rank, seed, base=base)
    assert list(made) == list(study.experiments())
    return made


def test_what_is_read_is_what_was_written_in_single_precision(study, runs, tmp_path):
    path = kept.scores_file_of(study)
    write_runs(path, runs)
    read = read_runs(path)
    assert list(read) == list(runs)
    for name, was in runs.items():
        now = read[name]
        for field in ("variant", "seed", "evaluation", "cost", "params", "code"):
            assert getattr(now, field) == getattr(was, field), field
        # What runs have in common is in the order of params.yaml, in which pages list it.
        common = [key for key in flat(was.params) if key not in ("seed", "lora.rank")]
        assert [key for key in flat(now.params) if key in common] == common
        for system in ("tuned", "base"):
            one, other = getattr(was, system), getattr(now, system)
            assert (one.ids, one.groups, one.signatures) == (other.ids, other.groups, other.signatures)
            for metric in SCORED:
                single = one.columns[metric].astype(np.float32).astype(np.float64)
                np.testing.assert_array_equal(other.columns[metric], single)
    again = tmp_path / "again.parquet"
    write_runs(again, read)
    assert again.read_bytes() == path.read_bytes()


def test_the_file_holds_no_text_and_each_base_once(study, runs):
    path = kept.scores_file_of(study)
    write_runs(path, runs)
    table = pq.read_table(path)
    assert table.column_names[:5] == ["variant", "seed", "system", "id", "cluster"]
    assert set(table.column_names[5:]) == set(SCORED)
    assert {table.schema.field(name).type for name in SCORED} == {pa.float32()}
    rows = table.to_pandas()
    assert rows.groupby(["variant", "system"]).size().to_dict() == {
        (f"rank-{rank}", system): N * count
        for rank in (8, 16)
        for system, count in (("base", 1), ("tuned", 2))
    }
    assert rows[rows.system == "base"].seed.isna().all() and rows.novel_2.isna().sum() == 2 * 6
    # Another variant with the same base costs almost nothing, wherever it is in the file.
    size = path.stat().st_size
    same = {name: replace(each, base=runs["rank-8-seed0"].base) for name, each in runs.items()}
    write_runs(path, same)
    assert path.stat().st_size < size - N * len(SCORED) * 2


def test_a_study_computed_from_the_file_is_the_study(study, runs):
    """Single precision moves no number by as much as its last printed digit."""
    before = compare(study, runs, {}, [])
    path = kept.scores_file_of(study)
    write_runs(path, runs)
    after = compare(study, read_runs(path), {}, [])
    assert (
        before["defaults"]
        == after["defaults"]
        == {"lora.alpha": None, "train.learning_rate": 6.25e-05}
        | {key: value for key, value in before["defaults"].items() if key.startswith("evaluate.")}
    )
    for name, variant in before["variants"].items():
        for metric in TESTED_METRICS:
            for key in ("value", "low", "high"):
                other = after["variants"][name]["scores"][metric][key]
                assert variant["scores"][metric][key] == pytest.approx(other, abs=5e-5)
    assert after["variants"]["rank-16"]["values"] == {"lora.rank": 16}
    assert after["code"] == {"identity": "i", "commits": ["c"]}
    other = {
        **runs,
        "rank-8-seed7": replace(runs["rank-8-seed7"], code={**runs["rank-8-seed7"].code, "identity": "o"}),
    }
    with pytest.raises(UserError, match="the runs were made with 2 versions of the code"):
        compare(study, other, {}, [])


values = st.recursive(
    st.none() | st.integers(0, 2) | st.lists(st.integers(0, 1), max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.sampled_from("abc"), values, max_size=3), min_size=1, max_size=4))
def test_what_runs_share_is_written_once_and_nothing_is_lost(nested):
    shared = shared_part(nested)
    own = [own_part(each, shared) for each in nested]
    assert [joined(shared, each) for each in json.loads(json.dumps(own))] == nested
    if all(each == nested[0] for each in nested):
        assert shared == nested[0] and own == [{}] * len(nested)


def damaged_files(path: Path) -> dict[str, pa.Table]:
    table = pq.read_table(path)
    rows = table.to_pandas()
    notes = table.schema.metadata
    return {
        "no-notes": table.replace_schema_metadata(None),
        "other-notes": table.replace_schema_metadata({"runs": "[1]"}),
        "no-ids": table.drop_columns(["id"]),
        "no-base": table.filter(pa.array(rows.system != "base")).replace_schema_metadata(notes),
        "no-rows": table.slice(0, 0),
        "half-a-run": table.slice(0, len(table) - 5),
        "twice": pa.concat_tables([table, table.slice(len(table) - N)]),
        "text": table.set_column(5, "rouge1", pa.array(["x"] * len(table))),
    }


def test_a_damaged_file_is_named_with_the_way_back(study, runs):
    path = kept.scores_file_of(study)
    with pytest.raises(UserError, match=r"rank\.parquet: not found; .* `make study NAME=rank`"):
        recorded(study)
    write_runs(path, runs)
    assert list(recorded(study)) == list(runs)
    for name, table in damaged_files(path).items():
        pq.write_table(table, path)
        with pytest.raises(UserError, match=r"rank\.parquet: not a file of a study's scores; .*git checkout"):
            read_runs(path)
        path.unlink()
        write_runs(path, runs)
        assert read_runs(path), name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"rank\.parquet: not a whole .*git checkout -- metrics/studies/"):
        read_runs(path)


def test_a_run_with_other_values_is_not_this_variant(study, runs, tmp_path):
    require_declared(study, runs)
    more = {"axes": {"lora.rank": [8, 16]}, "settings": {"train.epochs": 2}}
    other = declared(tmp_path, rank={**RANKS, **more}).study("rank")
    wanted = (
        r"studies\.rank: rank-8-seed0 has train\.epochs 2, and the run in .*rank\.parquet had 1; run `make"
    )
    with pytest.raises(UserError, match=wanted):
        require_declared(other, runs)
    one = runs["rank-8-seed0"]

    def change(section: str, **keys) -> dict:
        return {**one.params, section: {**one.params[section], **keys}}

    assert differing(one, one.params) is None
    assert differing(one, change("train", report_to="mlflow")) is None  # changes no result
    assert differing(one, change("pretrain", tokens=6)) is None
    assert differing(one, change("evaluate", nli_model=None)) is None  # a key that was added since
    assert differing(one, change("evaluate", nli_model="m")) == "evaluate.nli_model"
    assert differing(one, change("lora", alpha=3)) == "lora.alpha"
    assert differing(one, change("lora", new=None)) == "lora.new"
    assert differing(one, {**one.params, "seed": 3}) == "seed"
    assert differing(one, {**one.params, "more": {}}) == "more"


def test_a_recorded_run_is_usable_where_code_packages_and_inputs_are_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hold(tmp_path)
    requirements = Path("requirements.txt")
    requirements.write_text("a==1\n")
    run(tmp_path, "git", "add", "--all")
    run(tmp_path, "git", "commit", "--quiet", "--message=pins")
    made = sample_run(8, 0, code=made_with(put_experiment(tmp_path, "one", "0.004")))
    assert made.code["packages"] == ["a==1"] and made.code["modules"] == ["code"]
    assert made.code["commit"] == run(tmp_path, "git", "rev-parse", "HEAD").stdout.strip()
    assert has_code(made)
    Path("code.py").write_text("# Why.\n1\n")
    assert has_code(made)
    Path("code.py").write_text("2\n")
    assert not has_code(made)
    Path("code.py").write_text("1\n")
    requirements.write_text("a==2\n")
    assert not has_code(made)
    requirements.write_text("a==1\n")
    Path("words.txt").write_text("one\n")
    run(tmp_path, "git", "add", "words.txt")
    run(tmp_path, "git", "commit", "--quiet", "--message=words")
    known = run(tmp_path, "git", "rev-parse", "HEAD:words.txt").stdout.strip()
    reads = replace(made, code={**made.code, "inputs": {"words.txt": known}})
    assert has_code(reads)
    Path("words.txt").write_text("two\n")
    assert not has_code(reads)
    run(tmp_path, "git", "commit", "--all", "--quiet", "--message=other words")
    assert not has_code(reads)


def test_the_example_of_a_reader_s_own_test_runs(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs/studies.md").read_text()
    lines = page[page.index("    import pandas") : page.index("Articles of one cluster")].splitlines()
    exec("\n".join(line.removeprefix("    ") for line in lines), {})
    assert "WilcoxonResult" in capsys.readouterr().out


# In the default's pipeline and in presets' own.
COMMITTED = sorted(
    path.relative_to(ROOT)
    for pattern in ("metrics/studies/scores", "presets/*/metrics/studies/scores")
    for path in ROOT.glob(f"{pattern}/*.parquet")
    if not path.name.startswith("quick-")
)


def written(root: Path, pipeline: Path, name: str) -> dict[str, bytes]:
    """What the comparison of a study writes, by path in the repository."""
    ends = (f"metrics/studies/{name}.json", f"plots/studies/{name}.csv", f"plots/studies/{name}.svg")
    pages = sorted(path.relative_to(root) for path in (root / "docs").glob("studies*.md"))
    files = [*(pipeline / end for end in ends), *pages, Path("docs/decisions.md")]
    return {file.as_posix(): (root / file).read_bytes() for file in files}


@pytest.mark.parametrize("path", COMMITTED, ids=str)
def test_a_committed_study_is_computed_again_from_its_scores_to_the_byte(path, tmp_path, monkeypatch):
    """Every number, plot and sentence, without experiments and without DVC's cache."""
    pipeline = path.parents[3]
    # docs/decisions.md holds the scales of all pipelines against each other.
    pipelines = {Path(), *(other.parents[3] for other in COMMITTED)}
    needed = ["docs", "benchmarks/results/studies", "studies.yaml"]
    needed += [f"{each}/{name}" for each in pipelines for name in ("params.yaml", "metrics/studies")]
    for name in filter(lambda name: (ROOT / name).exists(), dict.fromkeys(map(os.path.normpath, needed))):
        source, target = ROOT / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    for each in pipelines - {Path()}:
        (tmp_path / each / "studies.yaml").symlink_to("../../studies.yaml")
    run(tmp_path, "git", "init", "--quiet")
    (tmp_path / pipeline / f"metrics/studies/{path.stem}.json").unlink()
    (tmp_path / pipeline / "plots/studies").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / pipeline)
    command.main([path.stem, "--from-scores", "--partial"], standalone_mode=False)
    assert written(tmp_path, pipeline, path.stem) == written(ROOT, pipeline, path.stem)


def test_a_study_without_scores_is_said_to_have_none(study):
    Path("params.yaml").write_text((ROOT / "params.yaml").read_text().replace("models/phi-tiny", "m"))
    with pytest.raises(UserError, match=r"rank\.parquet: not found; .* `make study NAME=rank`"):
        command.main(["rank", "--from-scores"], standalone_mode=False)


def test_the_scores_of_all_studies_are_small():
    assert sum((ROOT / path).stat().st_size for path in COMMITTED) < 25_000_000
