"""metrics/studies/NAME.json: the result of a comparison, as it is read again."""

from pathlib import Path
from typing import Any

from onesentence.core.errors import UserError
from onesentence.core.files import read_json
from onesentence.study.experiments import restore

STUDIES = Path("metrics/studies")
RESULT_KEYS = (
    "study",
    "question",
    "scale",
    "settings",
    "defaults",
    "seeds",
    "baseline",
    "variants",
    "analysis",
)


def read_result(path: Path) -> dict[str, Any]:
    """The result in a file. A UserError where the file is damaged or is no result."""
    result = read_json(path, restore(path))
    missing = [key for key in RESULT_KEYS if key not in result]
    if missing:
        raise UserError(f"{path}: {missing[0]}: missing, so this is no result of a study; {restore(path)}")
    return result
