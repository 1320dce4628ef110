"""What a study measured: draws of the scores of every variant."""

from dataclasses import dataclass

import numpy as np

from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import Sample
from onesentence.study import variance
from onesentence.study.variance import Resampled, SeedVariance
from onesentence.study.variants import Study, Variant


@dataclass(frozen=True)
class Measured:
    """Scores of every variant, by its name.

    tuned: by metric too; base: untuned, headline metric; tuned_rows, base_rows: headline metric [seeds, n]
    (of the base one row: no seed is in it); cost: as in the JSON; spread: between seeds, borrowed for studies
    of one seed; sample: the clusters of the articles.
    """

    tuned: dict[str, dict[str, Resampled]]
    base: dict[str, Resampled]
    tuned_rows: dict[str, np.ndarray]
    base_rows: dict[str, np.ndarray]
    cost: dict[str, dict[str, int]]
    spread: SeedVariance | None
    resamples: int
    sample: Sample

    def headline(self, name: str) -> Resampled:
        """The headline metric of a variant, tuned."""
        return self.tuned[name][HEADLINE]

    def chosen_elsewhere(
        self, rows: dict[str, np.ndarray], names: list[str], spread: SeedVariance | None
    ) -> Resampled:
        """The best of several as one more variant: each half of the articles is scored with the one that is
        best on the other half. The best on the same articles would owe part of its score to their choice; so
        would the best on others of the same clusters, which no half cuts.
        """
        table = np.stack([rows[name] for name in names])  # [variants, seeds, n]
        halves = self.sample.clusters % 2
        found = np.empty(table.shape[1:])
        for half in (0, 1):
            best = int(np.argmax(np.nanmean(table[:, :, halves != half], axis=(1, 2))))
            found[:, halves == half] = table[best][:, halves == half]
        return variance.resampled(found, self.resamples, len(self.tuned), spread, self.sample)


def whole(study: Study) -> list[tuple[str, list[Variant]]]:
    """Label and members of the series of which every run is there."""
    return [(label, members) for label, members in study.series.items() if members]
