"""The studies in docs/studies.md, and docs/decisions.md."""

from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.core.files import write_text
from onesentence.report.readme import write_between
from onesentence.study.comparison import STUDIES, compared
from onesentence.study.decisions import DECISIONS_FILE, current_decisions
from onesentence.study.declaration import Studies
from onesentence.study.figures import write_plots
from onesentence.study.sentences import settings_sentence, summarize_study

STUDIES_PAGE = Path("docs/studies.md")
START, END = "<!-- studies: written by make study -->\n", "<!-- end of studies -->\n"


def section(folder: Path, studies: Studies, values: dict[str, Any]) -> str:
    """Markdown of every compared study of this scale. values: params.yaml."""
    parts = []
    for name, result in compared(folder, studies).items():
        sentences = "\n".join(f"- {sentence}" for sentence in summarize_study(result))
        parts.append(
            f"## {name}\n\n{result['question']} ({settings_sentence(result, values)})\n\n{sentences}\n\n"
            f"![Study {name}: ROUGE-1 of its variants](../plots/studies/{name}.svg)\n"
        )
    return "\n".join(parts)


def write_again(studies: Studies) -> None:
    """Write the plots of every compared study of this scale again, from metrics/studies/."""
    for name, result in compared(STUDIES, studies).items():
        study = studies.study(name)
        left_out = {variant.name for variant in study.variants} - set(result["variants"])
        write_plots(study.without(left_out), result)


def write_pages() -> None:
    """Write docs/studies.md between its markers, and docs/decisions.md, from metrics/studies/."""
    values = params.read_yaml(params.PARAMS_FILE)
    write_between(STUDIES_PAGE, START, END, section(STUDIES, Studies(values["model"]["name"]), values))
    write_text(DECISIONS_FILE, current_decisions(STUDIES))
