"""A study: named changes to params.yaml, each run with every seed."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Variant:
    """changes: what it sets in params.yaml beyond the study's settings; values: everything it sets."""

    name: str
    changes: dict[str, object]
    values: dict[str, object]


@dataclass(frozen=True)
class Study:
    """One study on one scale.

    settings: what all variants set; along: the key that the analysis follows; series: variants in its order,
    one list for each curve; spread_from: the study whose seeds tell how far seeds are apart, for one seed;
    hours: measured, on the machine of the scale; None where it has not run.
    """

    name: str
    question: str
    scale: str
    baseline: str
    seeds: tuple[int, ...]
    variants: tuple[Variant, ...]
    settings: dict[str, object]
    analysis: str
    along: str | None
    series: dict[str, list[Variant]]
    spread_from: str | None
    hours: float | None

    def without(self, names: set[str]) -> "Study":
        """The study as if some variants had not been declared; a series that one of them stands in is empty,
        since a curve through the others would be another one.
        """
        series = {
            label: [] if names & {member.name for member in members} else members
            for label, members in self.series.items()
        }
        kept = tuple(variant for variant in self.variants if variant.name not in names)
        return replace(self, variants=kept, series=series)

    def experiments(self) -> dict[str, dict[str, object]]:
        """Everything that each experiment sets, by the experiment's name."""
        return {
            experiment(variant.name, seed): {**variant.values, "seed": seed}
            for seed in self.seeds
            for variant in self.variants
        }


def experiment(variant: str, seed: int) -> str:
    """Name of the DVC experiment of a variant and a seed."""
    return f"{variant}-seed{seed}"
