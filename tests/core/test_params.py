"""The reader of params.yaml is strict and reports every error at once; the committed file passes."""

import math
from copy import deepcopy
from pathlib import Path

import pytest
import yaml

from onesentence.core import params
from onesentence.core.errors import UserError

REPO = Path(__file__).parents[2]
COMMITTED = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def values() -> dict:
    """The committed values with the default data and model, so that tests have a known start."""
    values = deepcopy(COMMITTED)
    values["data"].update(source="docstrings", watch="requirements.txt", revision=None)
    values["model"].update(name="models/phi-tiny", watch="models/phi-tiny", revision=None)
    return values


def changed(values: dict, name: str, value: object) -> dict:
    section, _, key = name.partition(".")
    if key:
        values[section][key] = value
    else:
        values[section] = value
    return values


def write(path: Path, values: dict) -> Path:
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_the_committed_file_loads_with_the_values_that_yaml_reads():
    loaded = params.load(tuple(COMMITTED), REPO / "params.yaml")
    for section, expected in COMMITTED.items():
        value = getattr(loaded, section)
        assert (vars(value) if isinstance(expected, dict) else value) == expected


def test_the_committed_file_and_the_rules_have_the_same_keys():
    keys = {section: set(v) if isinstance(v, dict) else None for section, v in COMMITTED.items()}
    rules = {section: set(v) if isinstance(v, dict) else None for section, v in params.SCHEMA.items()}
    assert keys == rules


def test_a_stage_gets_only_the_keys_that_it_names(tmp_path, values):
    path = write(tmp_path / "params.yaml", values)
    loaded = params.load(("seed", "lora", "data.source", "data.seed"), path)
    assert loaded.seed == values["seed"] and loaded.lora.rank == values["lora"]["rank"]
    assert vars(loaded.data) == {"source": "docstrings", "seed": values["data"]["seed"]}
    for read in (
        lambda: loaded.train,
        lambda: loaded.data.watch,
        lambda: loaded.lora.rnak,
        lambda: params.load(("data",), path).seed,
    ):
        with pytest.raises(AttributeError):
            read()


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lora.rnak", "lora.rnak: unknown key, did you mean 'rank'?"),
        ("train.epoch", "train.epoch: unknown key, did you mean 'epochs'?"),
        ("lorra", "lorra: unknown section, did you mean 'lora'?"),
        ("sede", "sede: unknown section, did you mean 'seed'?"),
        ("lora.zzzzzz", "lora.zzzzzz: unknown key; known here: rank, alpha, dropout, target_modules"),
    ],
)
def test_an_unknown_key_or_section_is_named_with_the_nearest_known_one(values, name, hint):
    assert params.problems(changed(values, name, 1)) == [hint]


@pytest.mark.parametrize(("old", "new"), params.RENAMED.items())
def test_an_old_key_is_one_problem_that_names_the_new_key(values, old, new):
    section, _, key = old.partition(".")
    assert new.startswith(f"{section}.")
    values[section][key] = values[section].pop(new.partition(".")[2])
    assert params.problems(values) == [f"{old}: this key is now called {new}; rename it and keep its value"]


@pytest.mark.parametrize("name", ["seed", "lora", "lora.rank", "data.revision", "report.published"])
def test_a_missing_key_or_section_is_named(values, name):
    section, _, key = name.partition(".")
    if key:
        del values[section][key]
    else:
        del values[section]
    assert params.problems(values) == [f"{name}: missing"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", True),
        ("seed", -1),
        ("seed", None),
        ("seed", {"a": 1}),
        ("lora", 16),
        ("lora", None),
        ("lora.rank", 0),
        ("lora.rank", True),
        ("lora.rank", 16.0),
        ("lora.rank", "16"),
        ("lora.rank", None),
        ("lora.alpha", 0),
        ("lora.dropout", 1),
        ("lora.dropout", -0.1),
        ("lora.dropout", float("nan")),
        ("lora.target_modules", []),
        ("lora.target_modules", "q_proj"),
        ("lora.target_modules", ["q_proj", "q_proj"]),
        ("lora.target_modules", ["q_proj", ""]),
        ("lora.target_modules", ["q_proj", 3]),
        ("data.source", ""),
        ("data.source", "  "),
        ("data.source", 3),
        ("data.group_column", ""),
        ("data.group_column", 3),
        ("data.sha256", "0" * 63),
        ("data.sha256", "Z" * 64),
        ("data.sha256", 0),
        ("data.train_size", 0),
        ("data.train_size", -5),
        ("data.validation_size", 500.0),
        ("data.test_size", False),
        ("data.document_column", None),
        ("prompt.template", "poem"),
        ("prompt.template", "{article} and {article}"),
        ("prompt.template", ["direct"]),
        ("model.quantization", "nf3"),
        ("model.quantization", None),
        ("model.dtype", "float64"),
        ("train.learning_rate", 0),
        ("train.learning_rate", 1.5),
        ("train.learning_rate", float("inf")),
        ("smoke.examples", 1),
        ("evaluate.split", "train"),
        ("evaluate.language", "english"),
        ("evaluate.language", "EN"),
        ("evaluate.language", False),  # YAML reads an unquoted no as false
        ("evaluate.confidence", 1),
        ("evaluate.confidence", 95),
        ("evaluate.resamples", 99),
        ("evaluate.meteor_synonyms", "no"),
        ("evaluate.bertscore_layer", 0),
        ("evaluate.bertscore_sha256", "53aa"),
        ("evaluate.nli_model", ""),
        ("evaluate.nli_revision", 1),
        ("evaluate.nli_sha256", "53aa"),
        ("report.published", "cnn"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values, name, value):
    (problem,) = params.problems(changed(values, name, value))
    assert problem.startswith(f"{name}: expected ")
    error, _, hint = problem.partition(", did you mean ")
    assert error.endswith(f"found {value!r}")
    assert not hint or name in ("prompt.template", "model.dtype", "model.quantization", "evaluate.split")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 0),
        ("lora.rank", 1),
        ("lora.alpha", None),
        ("lora.alpha", 1),
        ("lora.dropout", 0),
        ("data.train_size", None),
        ("data.test_size", 1),
        ("train.learning_rate", 1),
        ("train.warmup_ratio", 0),
        ("smoke.min_success_rate", 1.0),
        ("smoke.min_success_rate", 0),
        ("evaluate.confidence", 0.5),
    ],
)
def test_the_ends_of_a_range_are_accepted(values, name, value):
    assert params.problems(changed(values, name, value)) == []


def test_wordnet_synonyms_need_english(values):
    values = changed(values, "evaluate.language", "de")
    values["evaluate"]["meteor_synonyms"] = True
    assert params.problems(values) == [
        "evaluate.meteor_synonyms: must be false unless evaluate.language is en: WordNet is English"
    ]


def test_the_error_for_a_wrong_choice_lists_all_choices(values):
    (problem,) = params.problems(changed(values, "model.quantization", "int4"))
    expected = "model.quantization: expected one of none, int8, nf4, found 'int4', did you mean 'int8'?"
    assert problem == expected
    values["model"]["quantization"] = "none"
    (problem,) = params.problems(changed(values, "generate.quantization", "int4"))
    expected = "one of none, int8, nf4, or null (model.quantization), found 'int4', did you mean 'int8'?"
    assert problem == f"generate.quantization: expected {expected}"


def test_the_base_may_be_quantized_for_writing_alone(tmp_path):
    text = (REPO / "params.yaml").read_text()
    path = tmp_path / "params.yaml"
    for written, wanted in (("null", "none"), ("nf4", "nf4"), ("none", "none")):
        path.write_text(text.replace("  quantization: null", f"  quantization: {written}"))
        p = params.load(("model", "generate"), path)
        assert params.generating(p).quantization == wanted and p.model.quantization == "none"
    path.write_text(text.replace("quantization: none", "quantization: int8"))
    p = params.load(("model", "generate"), path)
    assert params.generating(p) == p.model and p.model.quantization == "int8"
    p = params.changed(p, {"generate.quantization": "none"})
    assert params.generating(p).quantization == "none"


@pytest.mark.parametrize(
    ("written", "value"), [("1e-3", 0.001), ("1e-05", 0.00001), ("1.0e-3", 0.001), ("2E-4", 2e-4)]
)
def test_a_number_in_exponent_form_is_read_as_dvc_writes_it(tmp_path, written, value):
    text = "".join(
        f"  learning_rate: {written}\n" if line.startswith("  learning_rate:") else line
        for line in (REPO / "params.yaml").read_text(encoding="utf-8").splitlines(True)
    )
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    assert params.load(("train",), path).train.learning_rate == value


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *(("no", "no"), ("on", "on"), ("1:30", "1:30"), ("True", True), ("false", False), ("010", 10)),
        *(("0o10", 8), ("0x1F", 31), ("1_000", 1_000), ("-7", -7), ("+.5", 0.5), ("1.", 1.0), ("~", None)),
        *((".inf", math.inf), ("-.inf", -math.inf), ("1e5", 1e5), ("1.2.3", "1.2.3"), ("1e", "1e")),
    ],
)
def test_values_are_read_as_dvc_reads_them(tmp_path, written, value):
    """YAML 1.2, in which a language may be `no`."""
    from dvc.utils.serialize import parse_yaml

    text = f"a: {written}\n"
    found = params.parse_yaml(text, tmp_path)["a"]
    assert found == value and type(found) is type(value)
    assert parse_yaml(text, "params.yaml")["a"] == value


@pytest.mark.parametrize("key", ["seed", "pretrain.seed", "data.seed"])
def test_a_seed_fits_the_generators(values, key):
    section, _, name = f".{key}".rpartition(".")
    held = values[section.lstrip(".")] if section.strip(".") else values
    held[name] = 2**32 - 1
    assert params.problems(values) == []
    held[name] = 2**32
    assert params.problems(values) == [
        f"{key}: expected a whole number from 0 to 4,294,967,295, found 4294967296"
    ]


def test_a_source_that_is_nearly_a_known_one_is_named(values):
    values["data"]["source"] = "docstring"
    assert params.problems(values) == [
        "data.source: expected a source, found 'docstring'; did you mean 'docstrings'?"
    ]


def test_a_quoted_number_is_text_and_refused(tmp_path):
    text = (REPO / "params.yaml").read_text(encoding="utf-8")
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("  rank: 16", '  rank: "16"'), encoding="utf-8")
    expected = r"a whole number of at least 1 \(and at most 1,000,000,000,000\)"
    with pytest.raises(UserError, match=rf"lora.rank: expected {expected}, found '16'"):
        params.load(("lora",), path)


def test_a_count_that_no_library_could_hold_is_refused(values):
    values["lora"]["rank"] = 10**26
    values["pretrain"]["tokens"] = 10**12  # the largest that is taken
    assert [problem.split(" (")[0] for problem in params.problems(values)] == [
        "lora.rank: expected a whole number of at least 1"
    ]


def test_every_problem_is_reported_at_once(tmp_path, values):
    values["lora"]["rnak"] = 1
    values["lora"]["rank"] = 0
    values["data"]["train_size"] = True
    values["xyz"] = {}
    del values["train"]["epochs"]
    path = write(tmp_path / "params.yaml", values)
    with pytest.raises(UserError) as raised:
        params.load(("seed",), path)  # problems of sections that the stage does not read, too
    head, *lines = str(raised.value).splitlines()
    assert head == f"{path}: 5 problem(s)"
    assert {line.split(":")[0].strip() for line in lines} == {
        "lora.rnak",
        "lora.rank",
        "data.train_size",
        "xyz",
        "train.epochs",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lora:\n  rank: 1\n  alpha: 2\n  rank: 3\n", "line 2: key 'rank' occurs twice"),
        ("seed: 0\nseed: 1\n", "line 1: key 'seed' occurs twice"),
        ("seed: [1\n", "not valid YAML"),
        ("seed: 0\n\tlora: 1\n", "not valid YAML"),
        ("- seed\n- lora\n", "expected a mapping of sections, found list"),
        ("just text\n", "expected a mapping of sections, found str"),
        ("", "expected a mapping of sections, found NoneType"),
        ("seed: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("seed: &a {b: *a}\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "not valid YAML"),  # a list cannot be a key of a dict
        ("revision: 2024-99-99\n", "not valid YAML"),  # YAML reads a date
    ],
)
def test_invalid_yaml_is_a_one_line_error_that_names_the_file(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as raised:
        params.load(("seed",), path)
    assert str(raised.value).startswith(f"{path}: ") and message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_missing_or_not_utf8_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(UserError, match="not found; run the command in the repository's root folder"):
        params.load(("seed",), path)
    path.write_bytes(b"seed: \xff\n")
    with pytest.raises(UserError, match="not valid YAML"):
        params.load(("seed",), path)


HUB_DATA = {"source": "owner/set", "watch": "requirements.txt", "revision": "abc123"}
LOCAL_DATA = {"source": "local", "watch": "data/local/a.jsonl", "revision": None}
GROUPED = {**LOCAL_DATA, "group_column": "paper", "sha256": "0" * 64}
HUB_MODEL = {"name": "owner/model", "watch": "requirements.txt", "revision": "abc123"}


@pytest.mark.parametrize("data", [{}, HUB_DATA, LOCAL_DATA, GROUPED, {**GROUPED, **HUB_DATA}])
@pytest.mark.parametrize("model", [{}, HUB_MODEL, {"name": "some/folder", "watch": "some/folder"}])
def test_consistent_values_pass(values, data, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values["data"].update(data)
    values["model"].update(model)
    assert params.problems(values) == []


@pytest.mark.parametrize(
    ("section", "update", "named"),
    [
        ("data", {**LOCAL_DATA, "watch": "requirements.txt"}, "data.watch"),
        ("data", {**LOCAL_DATA, "revision": "abc"}, "data.revision"),
        ("data", {"watch": "data/local/a.jsonl"}, "data.watch"),
        ("data", {"revision": "abc"}, "data.revision"),
        ("data", {**HUB_DATA, "revision": None}, "data.revision"),
        ("data", {**HUB_DATA, "watch": "data/local"}, "data.watch"),
        ("data", {"group_column": "file"}, "data.group_column"),
        ("data", {**GROUPED, "group_column": "document"}, "data.group_column"),
        ("data", {**GROUPED, "group_column": "summary"}, "data.group_column"),
        ("data", {**LOCAL_DATA, "summary_column": "document"}, "data.summary_column"),
        ("model", {"revision": "abc"}, "model.revision"),
        ("model", {"watch": "other/folder"}, "model.watch"),
        ("model", {**HUB_MODEL, "revision": None}, "model.revision"),
        ("pretrain", {"hidden_size": 250, "heads": 4}, "pretrain.hidden_size"),
        ("train", {"log_every": 30}, "train.checkpoint_every"),
        ("pretrain", {"batch_size": 10, "micro_batch_size": 4}, "pretrain.batch_size"),
        ("evaluate", {"nli_sha256": "0" * 64}, "evaluate.nli_sha256"),
        ("evaluate", {"nli_revision": "abc"}, "evaluate.nli_revision"),
        ("evaluate", {"nli_model": "owner/nli", "nli_sha256": "0" * 64}, "evaluate.nli_revision"),
        ("evaluate", {"nli_model": "owner/nli", "nli_revision": "abc"}, "evaluate.nli_sha256"),
        (
            "evaluate",
            {"nli_model": ".", "nli_revision": "abc", "nli_sha256": "0" * 64},
            "evaluate.nli_revision",
        ),
    ],
)
def test_values_that_contradict_each_other_are_named(values, section, update, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values[section].update(update)
    (problem,) = params.problems(values)
    assert problem.startswith(f"{named}: ")


def test_a_folder_on_disk_must_be_watched(values, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values["model"].update(name="here", watch="requirements.txt", revision=None)
    (problem,) = params.problems(values)
    assert problem.startswith("model.revision: pin")  # no such folder: a hub id
    (tmp_path / "here").mkdir()
    (problem,) = params.problems(values)
    assert problem.startswith("model.watch: must be the folder in model.name ('here')")


@pytest.mark.parametrize("nli", [{"nli_model": "."}, {"nli_model": "owner/nli", "nli_revision": "abc"}])
def test_a_model_of_entailment_is_pinned(values, nli):
    values["evaluate"].update(nli, nli_sha256="0" * 64)
    assert params.problems(values) == []


def test_a_key_that_was_added_later_has_its_old_value_in_older_sections():
    assert {COMMITTED[name.split(".")[0]][name.split(".")[1]] for name in params.ADDED} == {None}
    whole = COMMITTED["evaluate"]
    older = {key: value for key, value in whole.items() if f"evaluate.{key}" not in params.ADDED}
    assert params.completed("evaluate", older) == whole != older
    newer = {**whole, "nli_model": "models/nli"}
    assert params.completed("evaluate", newer) == newer
    assert params.completed("lora", older) == older and params.completed("evaluate.split", "test") == "test"


@pytest.mark.parametrize(("tokens", "penalty", "fits"), [(64, -2.0, True), (64, -6, False), (24, -6, False)])
def test_a_length_penalty_that_no_beam_survives_is_refused(values, tokens, penalty, fits):
    values["generate"].update(max_new_tokens=tokens, length_penalty=penalty)
    assert params.problems(values) == (
        []
        if fits
        else [
            f"generate.length_penalty: {penalty:g} is too low for {tokens} new tokens: no beam could end; "
            "raise it, or lower generate.max_new_tokens"
        ]
    )


@pytest.mark.parametrize("model", [{"dtype": "bfloat16"}, {"quantization": "nf4"}])
def test_autocast_needs_float32_weights(values, model):
    values["train"]["autocast"] = "bfloat16"
    assert params.problems(values) == []
    values["model"].update(model)
    (problem,) = params.problems(values)
    assert problem.startswith("train.autocast: must be none")


@pytest.mark.parametrize(
    ("section", "update", "problem"),
    [
        (
            "train",
            {"epochs": None},
            "train.steps: must be a number where train.epochs is null",
        ),
        (
            "train",
            {"steps": 10},
            "train.steps: must be a number where train.epochs is null",
        ),
        ("generate", {"num_beams": 1, "length_penalty": 2.0}, "generate.length_penalty: must be 1.0"),
    ],
)
def test_a_setting_that_another_one_makes_meaningless_is_refused(values, section, update, problem):
    values[section].update(update)
    (error,) = params.problems(values)
    assert error.startswith(problem)


@pytest.mark.parametrize("model", [{"dtype": "bfloat16"}, {"quantization": "nf4"}])
def test_full_fine_tuning_needs_float32_weights(values, model):
    values["train"].update(method="full", epochs=None, steps=5)
    assert params.problems(values) == []
    values["model"].update(model)
    (problem,) = params.problems(values)
    assert problem.startswith("train.method: full needs model.dtype: float32")
