"""The learning rate and the texts of pretraining, worked out by hand; test_pipeline.py trains."""

from types import SimpleNamespace

import numpy as np
import pytest

from onesentence.data.docstrings import DocumentedObject
from onesentence.training.pretraining import files_of, learning_rate_share, texts


@pytest.mark.parametrize(
    ("step", "share"),
    [(0, 0.1), (4, 0.5), (9, 1.0), (50, 1.0), (60, 1.0), (80, 0.5), (99, 0.025)],
)
def test_the_learning_rate_rises_stays_and_falls(step, share):
    # 100 steps: 10 of warm-up, then constant, then 40 of decay.
    assert learning_rate_share(step, 100, warmup=0.1, decay=0.4) == pytest.approx(share)


BODY = " ".join(f"word{i}" for i in range(30))
ENTRY = DocumentedObject("d/a.py", "a.f", "def a.f(x)", f"Return the sum of x.\n\n{BODY}")
SHORT = DocumentedObject("d/b.py", "b.f", "def b.f()", "One line.")


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.0, f"def a.f(x)\n\nReturn the sum of x.\n\n{BODY}"),
        # The document is cut to 2 characters for each of the 20 tokens of the context.
        (1.0, f"def a.f(x)\n\n{BODY}"[:40] + "\n\nReturn the sum of x."),
    ],
)
def test_a_summary_comes_first_or_last(share, text):
    p = SimpleNamespace(context=20, summary_last_share=share)
    both = texts([ENTRY, SHORT], p, np.random.default_rng(0))
    # An entry that makes no pair is always read unchanged.
    assert sorted(both) == sorted([text, "def b.f()\n\nOne line."])


def test_files_are_sorted_and_named_once():
    assert files_of([SHORT, ENTRY, SHORT]) == ["d/a.py", "d/b.py"]
