"""The parts of one kind of study."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from onesentence.core.errors import UserError
from onesentence.study.measured import Measured
from onesentence.study.variants import Study


@dataclass(frozen=True)
class Analysis:
    """What a kind of study asks beyond its differences from the baseline.

    numbers: what the JSON holds under `analysis`, from the study, its scores and the confidence (0 to 1), for
    the headline metric unless its docstring says otherwise. It skips an empty series, whose runs are not
    complete.
    sentences: what those numbers say, from the whole JSON of a study; empty where it has none of them.
    follows_a_key: whether the study must name the key of params.yaml that its variants follow.
    check: raises a UserError where the declaration does not suit the analysis; gets the study's place in
    studies.yaml for the message.
    panel: draws into the right half of the study's plot (matplotlib Axes), from the whole JSON; None: no
    panel. shows_untuned: whether the untuned base is drawn beside each variant.
    """

    numbers: Callable[[Study, Measured, float], dict[str, Any]]
    sentences: Callable[[dict[str, Any]], list[str]]
    follows_a_key: bool = False
    check: Callable[[str, Study], None] | None = None
    panel: Callable[[Any, dict[str, Any]], None] | None = None
    shows_untuned: bool = False


def place_of(where: str, label: str) -> str:
    """The place of a series in studies.yaml, by its label; "" is all variants of the study at `where`."""
    return f"{where}.series.{label}" if label else f"{where}.variants"


def require_points(where: str, study: Study, least: int, analysis: str) -> None:
    """Raise a UserError unless each series has `least` different values of the key, all above 0.

    where: the study's place in studies.yaml; analysis: its name there.
    """
    for label, members in study.series.items():
        values = {study.position(member) for member in members}
        place = place_of(where, label)
        if members and len(values) < least:
            raise UserError(
                f"{place}: the analysis `{analysis}` needs {least} or more different values of "
                f"{study.along}, found {len(values)}; add variants, or remove the analysis"
            )
        if min(values, default=1) <= 0:
            raise UserError(
                f"{place}: the analysis `{analysis}` needs values of {study.along} above 0, found "
                f"{min(values)}; remove that variant, or the analysis"
            )
