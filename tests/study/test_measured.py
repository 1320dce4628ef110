"""The best of several variants, chosen on one half of the articles."""

import numpy as np
import pytest

from onesentence.evaluation.resampling import Sample
from onesentence.study.measured import Measured


def test_the_best_is_chosen_over_all_seeds_and_keeps_them():
    one, other = np.full((3, 10), 20.0), np.full((3, 10), 21.0)
    other[0] = 5.0  # a lucky second and third seed do not choose it
    measured = Measured({}, {}, {"one": one, "other": other}, {}, {}, None, 100, Sample.independent(10))
    chosen = measured.chosen_elsewhere(measured.tuned_rows, ["one", "other"], None)
    assert chosen.value == pytest.approx(20.0) and len(chosen.seeds) == 3 and chosen.seed_variance.df == 2
