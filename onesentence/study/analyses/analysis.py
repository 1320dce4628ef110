"""What a kind of study is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from onesentence.study.measured import Measured
from onesentence.study.variants import Study


@dataclass(frozen=True)
class Analysis:
    """What a kind of study asks beyond its differences from the baseline.

    numbers: what the JSON holds under `analysis`, from the study, its scores and the confidence (0 to 1); of
    the headline metric unless its docstring says otherwise. A series that is empty is passed over: not every
    run of it is there.
    sentences: what those numbers say, from the whole JSON of a study; empty where it has none of them.
    follows_a_key: whether the study must say along which key of params.yaml its variants lie.
    check: raises a UserError where the declaration does not suit; gets the name of the study's place.
    panel: draws into the right half of the study's plot, from the whole JSON; None where there is none.
    shows_untuned: whether the untuned base is drawn beside each variant.
    """

    numbers: Callable[[Study, Measured, float], dict]
    sentences: Callable[[dict], list[str]]
    follows_a_key: bool = False
    check: Callable[[str, Study], None] | None = None
    panel: Callable[[object, dict], None] | None = None
    shows_untuned: bool = False
