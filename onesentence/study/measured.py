"""What a study measured: resampled scores of every variant."""

from dataclasses import dataclass

import numpy as np

from onesentence.evaluation.metrics import HEADLINE
from onesentence.evaluation.resampling import Sample
from onesentence.study import variance
from onesentence.study.variance import Floats, Resampled, SeedVariance
from onesentence.study.variants import Study, Variant


@dataclass(frozen=True)
class Measured:
    """Scores of every variant, by its name.

    tuned: by metric too; base: untuned, headline metric; tuned_rows, base_rows: headline metric [seeds, n]
    (one row for the base: no seed affects it); cost: as in the JSON; seed_variance: borrowed by
    studies of one seed; sample: the clusters of the articles.
    """

    tuned: dict[str, dict[str, Resampled]]
    base: dict[str, Resampled]
    tuned_rows: dict[str, Floats]
    base_rows: dict[str, Floats]
    cost: dict[str, dict[str, int]]
    seed_variance: SeedVariance | None
    resamples: int
    sample: Sample

    def headline(self, name: str) -> Resampled:
        """The headline metric of a tuned variant."""
        return self.tuned[name][HEADLINE]

    def chosen_elsewhere(
        self, rows: dict[str, Floats], names: list[str], seed_variance: SeedVariance | None
    ) -> Resampled:
        """The best of several as one more variant: each half of the articles is scored with the variant that
        is best on the other half.

        The best on the same articles would owe part of its score to the choice. So would the best on other
        articles of the same clusters: no half cuts a cluster.
        """
        table = np.stack([rows[name] for name in names])  # [variants, seeds, n]
        halves = self.sample.clusters % 2
        scores = np.empty(table.shape[1:])
        for half in (0, 1):
            best = int(np.argmax(np.nanmean(table[:, :, halves != half], axis=(1, 2))))
            scores[:, halves == half] = table[best][:, halves == half]
        # The number of variants is a stream of its own: no variant draws its seeds' chance from it.
        return variance.resampled(scores, self.resamples, len(self.tuned), seed_variance, self.sample)


def whole(study: Study) -> list[tuple[str, list[Variant]]]:
    """Label and members of each series whose runs are complete."""
    return [(label, members) for label, members in study.series.items() if members]
