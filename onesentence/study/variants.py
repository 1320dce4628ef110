"""A study: named changes to params.yaml, each run with every seed."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Variant:
    """One variant of a study.

    changes: what it sets in params.yaml beyond the study's settings; values: everything that it sets.
    """

    name: str
    changes: dict[str, Any]
    values: dict[str, Any]


@dataclass(frozen=True)
class Study:
    """One study on one scale.

    settings: what all variants set; along: the key that the analysis follows; series: variants in the order
    of that key, one list for each curve; spread_from: for a study of one seed, the study that lends
    its seed variance; within: the margin of the tests of equivalence with the baseline, in points
    of the headline metric, None for no such tests; goal: a score; the analysis `scaling` says how many
    pairs it would take, None for none; hours: measured on the machine of the scale, None before the first
    run; label: what the names of its experiments begin with, so that scales do not share names; note: what
    a reader must know beside the numbers, "" for nothing.
    """

    name: str
    question: str
    scale: str
    baseline: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    settings: dict[str, Any]
    analysis: str
    along: str | None
    series: dict[str, list[Variant]]
    spread_from: str | None
    within: float | None
    goal: float | None
    hours: float | None
    label: str = ""
    note: str = ""

    def position(self, variant: Variant) -> Any:
        """The number that a variant sets for the key that the study follows."""
        if self.along is None:
            raise ValueError(f"{self.name} follows no key")
        return variant.values[self.along]

    def without(self, names: set[str]) -> "Study":
        """The study as if some variants had not been declared.

        A series that lacks one of its variants becomes empty: a curve through the others is another curve.
        """
        series = {
            label: [] if names & {member.name for member in members} else members
            for label, members in self.series.items()
        }
        remaining = tuple(variant for variant in self.variants if variant.name not in names)
        return replace(self, variants=remaining, series=series)

    def experiment(self, variant: str, seed: int) -> str:
        """Name of the DVC experiment of a variant and a seed."""
        return self.label + run_name(variant, seed)

    def experiments(self) -> dict[str, dict[str, Any]]:
        """Everything that each experiment sets, by the experiment's name."""
        return {
            self.experiment(variant.name, seed): {**variant.values, "seed": seed}
            for seed in self.seeds
            for variant in self.variants
        }


def run_name(variant: str, seed: int) -> str:
    """Name of a run of a variant with a seed, within its study."""
    return f"{variant}-seed{seed}"
