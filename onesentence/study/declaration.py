"""studies.yaml: the studies, declared once for the runner, the comparison and the reader.

A study is a set of variants: named changes to params.yaml, each run with every seed. One name is the same
experiment in every study that lists it, so a variant that two studies share runs once.
"""

import itertools
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import voluptuous
from voluptuous import Invalid, MultipleInvalid, Required, Schema

from onesentence.core import params, rules
from onesentence.core.errors import UserError
from onesentence.study.analyses import ANALYSES, NONE
from onesentence.study.experiments import QUICK, pipeline_here
from onesentence.study.variants import Study, Variant

STUDIES_FILE = Path("studies.yaml")
NAME = re.compile(r"[a-z0-9][a-z0-9.+-]*")
STUDY = re.compile(r"\w[\w.+-]*", re.ASCII)
PLAIN = re.compile(r"[A-Za-z0-9_./-]+")  # texts that need no quotes in `dvc exp run -S`
ROWS = "data.train_size"
CURVES = 4  # a plot has this many colours that differ clearly
UNKNOWN = "extra keys not allowed"
WORDS = {  # voluptuous's for a key, and ours; the rule of a value has its own
    UNKNOWN: "unknown key",
    "required key not provided": "missing",
    "expected str": "expected a text as the key",
}
RENAMED = {"reference": "baseline"}  # keys of a study of version 0.1
POSITIVE = rules.Key(
    "a number above 0 and at most 1,000,000,000", lambda v: type(v) in (int, float) and 0 < v <= 10**9
)
REPEATS = 1_000  # draws of a random search that were drawn before, one after the other: there are no more
MOST_VARIANTS = 10_000  # of a study: nobody runs as many, and each takes memory
BUDGET = rules.Key(
    f"a whole number from 1 to {MOST_VARIANTS:,}", lambda v: type(v) is int and 1 <= v <= MOST_VARIANTS
)
VALUES = rules.Key("a list of values", lambda v: isinstance(v, list) and len(v) > 0)
KEYS = rules.Key("keys with values", lambda v: isinstance(v, dict))
SEEDS = rules.Key(
    f"a list of numbers, none twice, each {rules.SEED.expected}",
    lambda v: isinstance(v, list) and bool(v) and all(map(rules.SEED.accepts, v)) and len(set(v)) == len(v),
)


def must_be(key: rules.Key) -> Callable[[object], object]:
    """A check for voluptuous, with the message that params.yaml's rule of that key gives."""

    def check(value: object) -> object:
        if not key.accepts(value):
            raise Invalid(f"expected {key.expected}")
        return value

    return check


TEXT, TEXT_OR_NULL = must_be(rules.TEXT), must_be(rules.TEXT_OR_NULL)
SCALE_SHAPE = {
    Required("model"): TEXT,
    "pipeline": TEXT,
    "note": TEXT,
    Required("settings"): voluptuous.All(must_be(KEYS), {str: object}),
    Required("quick"): voluptuous.All(must_be(KEYS), {str: object}),
}
# A study as the file declares it. A key of SHAPES may hold a value for each scale, so its content is checked
# later.
STUDY_SHAPE = {
    Required("question"): TEXT,
    Required("baseline"): voluptuous.Any({str: TEXT}, TEXT),
    Required("seeds"): voluptuous.Any(must_be(SEEDS), {str: must_be(SEEDS)}),
    **dict.fromkeys(("axes", "variants", "search", "settings", "series"), must_be(KEYS)),
    "analysis": must_be(rules.choice(NONE, *ANALYSES)),
    "along": TEXT_OR_NULL,
    "spread_from": voluptuous.Any({str: TEXT}, TEXT_OR_NULL),
    "within": must_be(POSITIVE),
    "goal": {str: must_be(POSITIVE)},
    "hours": {str: must_be(POSITIVE)},
    "note": voluptuous.Any(TEXT, {str: TEXT}),
}
SHAPES: dict[str, Any] = {  # of the values for one scale
    "axes": {str: must_be(VALUES)},
    "variants": {str: voluptuous.All(must_be(KEYS), {str: object})},
    "search": {
        Required("budget"): must_be(BUDGET),
        Required("seed"): must_be(rules.whole(0)),
        Required("keys"): {
            str: voluptuous.Any(
                {Required("low"): must_be(POSITIVE), Required("high"): must_be(POSITIVE)}, must_be(VALUES)
            )
        },
    },
    "settings": {str: object},
    "series": {str: must_be(VALUES)},
}


def require_shape(where: str, value: dict[str, Any], shape: Any) -> None:
    """Raise a UserError that names every key that is missing, unknown, or has a wrong value.

    where: printed before the keys; shape: a schema of voluptuous.
    """
    try:
        Schema(shape)(value)
    except MultipleInvalid as error:
        problems = [problem_of_shape(where, value, problem) for problem in error.errors]
        raise UserError("; ".join(problems)) from None


def problem_of_shape(where: str, value: Any, error: Invalid) -> str:
    """One error of voluptuous in words: the key, what was expected and what was found."""
    name = where + ".".join(map(str, error.path))
    if error.msg == UNKNOWN and error.path[-1] in RENAMED:
        return f"{name}: this key is now called {RENAMED[error.path[-1]]}; rename it and keep its value"
    if error.msg in WORDS:
        return f"{name}: {WORDS[error.msg]}"
    for part in error.path:
        value = value[part]
    return f"{name}: {error.msg}, found {params.quoted(value)}"


def shrunk(
    settings: dict[str, Any], quick: dict[str, Any], changes: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """A study's settings with its scale's quick ones. Sizes of the data in `changes` shrink in proportion."""
    sizes = [change[ROWS] for change in changes.values() if change.get(ROWS)]
    largest = settings.get(ROWS) or max(sizes, default=1)
    share = (quick.get(ROWS, 1) or largest) / largest  # null: all rows
    # All rows are more than any size; how many they are is not known here.
    every = round(max([largest, *sizes]) * share) + 1
    for change in changes.values():
        if ROWS in change:
            change[ROWS] = max(1, round(change[ROWS] * share)) if change[ROWS] else every
    return {**settings, **quick}


def short(key: str, value: object) -> str:
    """A key and its value in a variant's name: `rank-8` for lora.rank = 8."""
    text = "all" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return f"{key.rpartition('.')[2].replace('_', '-')}-{text.lower().replace('_', '-')}"


def from_axes(axes: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """Variants by name: every combination of the axes' values."""
    if math.prod(map(len, axes.values())) > MOST_VARIANTS:
        raise UserError(
            f"axes: {', '.join(map(str, axes))}: more than {MOST_VARIANTS:,} combinations; give fewer values"
        )
    variants = {}
    for values in itertools.product(*axes.values()):
        pairs = list(zip(axes, values, strict=True))
        variants["-".join(short(*pair) for pair in pairs)] = dict(pairs)
    return variants


def from_search(search: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Variants by name: `budget` different draws of a random search (Bergstra and Bengio 2012).

    A key's values are a list to choose from, or {low, high}: uniform in the logarithm.
    """
    for key, values in search["keys"].items():
        if isinstance(values, dict) and not values["low"] < values["high"]:
            raise UserError(
                f"search.keys.{key}: expected low below high, found low {values['low']:g} and high "
                f"{values['high']:g}"
            )
    rng = np.random.default_rng(search["seed"])
    found: dict[str, dict[str, Any]] = {}
    repeats = 0
    while len(found) < search["budget"] and repeats < REPEATS:
        drawn: dict[str, Any] = {}
        for key, values in search["keys"].items():
            if isinstance(values, list):
                drawn[key] = values[rng.integers(len(values))]
            else:
                place = rng.uniform(np.log(values["low"]), np.log(values["high"]))
                drawn[key] = float(f"{np.exp(place):.2g}")  # two digits, so that names and logs stay short
        repeats = repeats + 1 if str(drawn) in found else 0
        found[str(drawn)] = drawn
    if len(found) < search["budget"]:
        raise UserError(
            f"search.budget: expected at most {len(found)}, as many settings as these keys give, found "
            f"{search['budget']}; lower it, or give the keys more values"
        )
    return {f"search-{number:02d}": drawn for number, drawn in enumerate(found.values())}


def problem_of_value(key: str, value: object) -> str | None:
    """What is wrong with setting a key of params.yaml to a value, or None."""
    section, _, name = key.partition(".")
    rule = params.SCHEMA.get(section)
    if isinstance(rule, dict) and not name:
        return f"{key}: is a section; give its keys, such as {section}.{next(iter(rule))}"
    if isinstance(rule, dict) and name not in rule:
        return params.unknown_key(section, name)
    rule = rule.get(name) if isinstance(rule, dict) else None
    if rule is None:
        return f"{key}: unknown key of params.yaml"
    if not rule.accepts(value):
        return f"{key}: expected {rule.expected}, found {params.quoted(value)}"
    return None


def require_values(where: str, values: dict[str, object]) -> None:
    """Raise a UserError where a key or its value is none of params.yaml. where: they are declared."""
    for key, value in values.items():
        if problem := problem_of_value(key, value):
            raise UserError(f"{where}: {problem}")


class NoScaleError(UserError):
    """studies.yaml has no scale for a pipeline's model."""


class Studies:
    """The declarations of studies.yaml for the model in params.yaml."""

    def __init__(self, model: str, path: Path = STUDIES_FILE, pipeline: str = "") -> None:
        """Read and check the file.

        model: model.name of params.yaml; pipeline: the folder of a preset's own pipeline, such as
        `presets/smollm2-xsum`, or "". The two decide the scale.
        """
        self.path = path
        self.declared: dict[str, Any] = params.read_yaml(path)
        shape: Any = {Required("scales"): {str: SCALE_SHAPE}, Required("studies"): {str: STUDY_SHAPE}}
        require_shape(f"{path}: ", self.declared, shape)
        for kind in ("scales", "studies"):
            for label in self.declared[kind]:  # they become names of files and of experiments
                if not STUDY.fullmatch(label):
                    raise UserError(
                        f"{path}: {kind}: {params.quoted(label)}: expected a name of letters, digits, '_', "
                        "'.', '+' and '-'"
                    )
        scales = self.declared["scales"]
        wanted = (model, pipeline)
        matching = [
            name for name, scale in scales.items() if (scale["model"], scale.get("pipeline", "")) == wanted
        ]
        if not matching:
            known = ", ".join(
                f"{name} ({scale['model']}{' in ' + scale['pipeline'] if 'pipeline' in scale else ''})"
                for name, scale in scales.items()
            )
            where = f" in {pipeline}" if pipeline else ""
            raise NoScaleError(
                f"{path}: no scale for model.name {model!r}{where} (found {known}); add a scale, or set the "
                "model with `make preset`"
            )
        self.scale: str = matching[0]
        self.note: str = scales[self.scale].get("note", "")  # on all studies of the scale
        self.pipeline = pipeline
        for name, entry in self.declared["studies"].items():
            for key, shape in SHAPES.items():
                here = self.here(entry.get(key, {}))
                if here is None:
                    raise UserError(
                        f"{path}: studies.{name}.{key}: is empty for this scale; fill or remove it"
                    )
                if not isinstance(here, dict):
                    raise UserError(
                        f"{path}: studies.{name}.{key}: expected {KEYS.expected} for this scale, found "
                        f"{params.quoted(here)}"
                    )
                if here:
                    require_shape(f"{path}: studies.{name}.{key}.", here, shape)

    @classmethod
    def of_workspace(cls) -> "Studies":
        """The declarations for the pipeline in the working directory."""
        return cls(params.load(("model",)).model.name, pipeline=pipeline_here())

    def names(self) -> list[str]:
        """Names of the studies that are declared for this scale, in their order."""
        entries = self.declared["studies"]
        return [name for name, entry in entries.items() if self.changes(name, entry)]

    def changes(self, name: str, entry: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What each variant of a declared study sets on this scale, by its label."""
        where = f"{self.path}: studies.{name}"
        axes, search = (self.here(entry.get(kind, {})) for kind in ("axes", "search"))
        try:
            variants = from_axes(axes) if axes else {}
            variants |= from_search(search) if search else {}
        except UserError as error:
            raise UserError(f"{where}.{error}") from error
        declared = {label: dict(change) for label, change in self.here(entry.get("variants", {})).items()}
        if twice := sorted(set(variants) & set(declared)):
            raise UserError(
                f"{where}.variants.{twice[0]}: axes or search make a variant of this name, too; rename it"
            )
        return variants | declared

    def study(self, name: str, quick: bool = False) -> Study:
        """One study; a UserError names the key where its declaration is wrong.

        quick: one seed and the scale's quick settings, under names of its own.
        """
        entries = self.declared["studies"]
        if name not in entries:
            raise UserError(f"{self.path}: no study {name!r}; expected one of {', '.join(entries)}")
        where, entry = f"{self.path}: studies.{name}", entries[name]
        analysis, along = entry.get("analysis", NONE), entry.get("along")
        follows = ANALYSES.get(analysis)
        if along is None and follows and follows.follows_a_key:
            raise UserError(f"{where}.along: missing; name the key of params.yaml that {analysis} follows")
        if along is None and "series" in entry:
            raise UserError(f"{where}.along: missing; name the key of params.yaml that orders the series")
        changes = self.changes(name, entry)
        if not changes:
            raise UserError(f"{where}: no variants for {self.scale}; declare some")
        seeds = self.seeds(name, entry)
        lender = self.only_here(name, entry, "spread_from")
        if lender is not None and (lender not in entries or len(self.seeds(lender, entries[lender])) < 2):
            raise UserError(f"{where}.spread_from: expected a study of several seeds, found {lender!r}")
        scale = self.declared["scales"][self.scale]
        own, prefix = self.here(entry.get("settings", {})), ""
        self.check_values(where, own, changes)
        settings = {**scale["settings"], **own}
        if quick:
            settings, seeds, prefix = shrunk(settings, scale["quick"], changes), seeds[:1], QUICK
        variants = [
            Variant(prefix + label, change, {**settings, **change}) for label, change in changes.items()
        ]
        if len(changes) == 1:
            raise UserError(f"{where}: one variant for {self.scale}; declare another, to compare it with")
        baseline = self.baseline(where, entry, changes)
        study = Study(
            name=prefix + name,
            question=entry["question"],
            scale=self.scale,
            baseline=prefix + baseline,
            seeds=tuple(seeds),
            variants=tuple(variants),
            settings=settings,
            analysis=analysis,
            along=along,
            series=self.series(where, entry, {variant.name: variant for variant in variants}, prefix),
            spread_from=None if quick else lender,
            within=entry.get("within"),
            goal=self.only_here(name, entry, "goal"),
            hours=None if quick else entry.get("hours", {}).get(self.scale),
            # Experiments of all pipelines are in one repository: each needs a name of its own.
            label=f"{self.scale}-" if self.pipeline else "",
            note=self.only_here(name, entry, "note") or "",
        )
        if follows and follows.check:
            follows.check(where, study)
        return study

    def check_values(self, where: str, own: dict[str, Any], changes: dict[str, dict[str, Any]]) -> None:
        """Raise a UserError where the scale, the study's `own` settings or a variant sets what params.yaml
        cannot.
        """
        for kind in ("settings", "quick"):
            require_values(
                f"{self.path}: scales.{self.scale}.{kind}", self.declared["scales"][self.scale][kind]
            )
        require_values(f"{where}.settings", own)
        for label, change in changes.items():
            if not NAME.fullmatch(label):
                raise UserError(f"{where}: variant {label!r}: expected a name of a-z, 0-9, '.', '+' and '-'")
            require_values(f"{where}: variant {label}", change)

    def seeds(self, name: str, entry: dict[str, Any]) -> list[int]:
        """The seeds that each variant of a declared study runs with on this scale."""
        declared = entry["seeds"]
        here: list[int] | dict[str, Any] = self.here(declared) if isinstance(declared, dict) else declared
        if isinstance(here, dict):  # no scale of the file, or others alone
            raise UserError(
                f"{self.path}: studies.{name}.seeds: none for {self.scale}; list numbers for it, such as "
                "[0, 1, 2]"
            )
        return here

    def only_here(self, name: str, entry: dict[str, Any], key: str) -> Any:
        """The value of a declared study's key for this scale; None without one, or with others' alone."""
        declared = entry.get(key)
        here = self.here(declared) if isinstance(declared, dict) else declared
        if not isinstance(here, dict):
            return here
        if here:
            known = ", ".join(self.declared["scales"])
            raise UserError(f"{self.path}: studies.{name}.{key}.{min(here)}: expected a scale ({known})")
        return None

    def baseline(self, where: str, entry: dict[str, Any], changes: dict[str, dict[str, Any]]) -> str:
        """The variant that the others are compared with on this scale; it must be declared."""
        declared = entry["baseline"]
        if isinstance(declared, dict):
            if self.scale not in declared:
                raise UserError(f"{where}.baseline: none for {self.scale}; name one of {', '.join(changes)}")
            declared = declared[self.scale]
        baseline = str(declared)
        if baseline not in changes:
            raise UserError(
                f"{where}.baseline: expected a variant ({', '.join(changes)}), found {baseline!r}"
            )
        return baseline

    def series(
        self, where: str, entry: dict[str, Any], variants: dict[str, Variant], prefix: str
    ) -> dict[str, list[Variant]]:
        """Lists of variants by label, each in the order of `along`; all variants where none is declared."""
        along = entry.get("along")
        if along is None:
            return {}
        declared = self.here(entry.get("series", {})) or {"": [name[len(prefix) :] for name in variants]}
        series = {}
        for label, names in declared.items():
            members = []
            for name in names:
                member = variants.get(f"{prefix}{name}")
                if member is None or type(member.values.get(along)) not in (int, float):
                    raise UserError(
                        f"{where}.series: expected variants that set {along} to a number, found {name!r}"
                    )
                members.append(member)
            series[label] = sorted(members, key=lambda member: member.values[along])
        if len(series) > CURVES:
            raise UserError(
                f"{where}.series: expected at most {CURVES}, as many as a plot can show (found {len(series)})"
            )
        return series

    def here(self, declared: dict[str, Any]) -> dict[str, Any]:
        """The part of `declared` for this scale where its keys are scales, else all of it."""
        scales = self.declared["scales"]
        if not set(declared) & set(scales):
            return declared
        unknown = set(declared) - set(scales)
        if unknown:
            raise UserError(
                f"{self.path}: {min(unknown, key=str)!r}: expected a scale ({', '.join(scales)}), as its "
                "siblings are; rename or remove it"
            )
        here: dict[str, Any] = declared.get(self.scale, {})
        return here

    def check_names(self) -> None:
        """Raise a UserError where two studies give one experiment's name to different settings."""
        seen: dict[str, tuple[str, dict[str, Any]]] = {}
        for name in self.names():
            for label, values in self.study(name).experiments().items():
                other, known = seen.setdefault(label, (name, values))
                if known != values:
                    keys = [key for key in {**known, **values} if known.get(key) != values.get(key)]
                    raise UserError(
                        f"{self.path}: {label}: {other} and {name} give it different values of "
                        f"{', '.join(keys)}; rename it in one of the two"
                    )


def option(key: str, value: object) -> str:
    """The argument of `dvc exp run -S` for one key, such that DVC reads the same value back."""
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        # As hydra reads quotes: backslashes are doubled before a quote or at the end, and nowhere else.
        quoted = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), value)
        return f"{key}='{quoted}'"
    if isinstance(value, list):
        return f"{key}=[{','.join(map(str, value))}]"
    return f"{key}={value}"
