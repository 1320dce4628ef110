"""The studies in docs/studies.md, and docs/decisions.md."""

import contextlib
import textwrap
from pathlib import Path
from typing import Any

from onesentence.core import params
from onesentence.core.files import write_text
from onesentence.report.readme import write_between
from onesentence.study.comparison import compared
from onesentence.study.costs import cost_lines
from onesentence.study.decisions import DECISIONS_FILE, current_decisions
from onesentence.study.declaration import NoScaleError, Studies
from onesentence.study.experiments import git
from onesentence.study.figures import PLOTS, write_plots
from onesentence.study.results import STUDIES
from onesentence.study.sentences import settings_sentence, summarize_study

WIDTH = 120  # of a line of prose in docs/
STUDIES_PAGE = Path("docs/studies.md")
START, END = "<!-- studies: written by make study -->\n", "<!-- end of studies -->\n"


def section(folder: Path, studies: Studies, values: dict[str, Any]) -> str:
    """Markdown of every compared study of this scale, for a page in docs/. values: params.yaml."""
    plots = Path("..", studies.pipeline, PLOTS).as_posix()
    parts = []
    for name, result in compared(folder, studies).items():
        sentences = "\n".join(f"- {sentence}" for sentence in summarize_study(result))
        costs = "".join(f"{line}\n" for line in cost_lines(studies.study(name), result))
        parts.append(
            f"## {name}\n\n{result['question']} ({settings_sentence(result, values)})\n\n{sentences}\n\n"
            f"![Study {name}: ROUGE-1 of its variants]({plots}/{name}.svg)\n"
            + (f"\n{costs}" if costs else "")
        )
    return "\n".join(parts)


def write_again(studies: Studies) -> None:
    """Write the plots of every compared study of this scale again, from metrics/studies/."""
    for name, result in compared(STUDIES, studies).items():
        study = studies.study(name)
        left_out = {variant.name for variant in study.variants} - set(result["variants"])
        write_plots(study.without(left_out), result)


def page_of(studies: Studies, values: dict[str, Any]) -> str:
    """The page of the studies of a preset's pipeline. values: its params.yaml."""
    name = Path(studies.pipeline).name
    intro = (
        f"These are the studies of the [preset](../presets/{name}.yaml) {name}.\n"
        f"They ran in [its own pipeline](../{studies.pipeline}).\n"
        "[Studies](studies.md) says how to read them and how to run them."
    )
    done = compared(STUDIES, studies)
    unrun = [study for study in studies.names() if study not in done]
    for text in (studies.note, f"Declared and not compared yet: {', '.join(unrun)}." * bool(unrun)):
        intro += f"\n\n{textwrap.fill(text, WIDTH, break_on_hyphens=False)}" * bool(text)
    return f"# Studies of {name}\n\n{intro}\n\n{START}{section(STUDIES, studies, values)}{END}"


def write_pages() -> None:
    """Write the pages from metrics/studies/: docs/studies.md between its markers, and docs/decisions.md.

    For a preset's pipeline, write docs/studies-NAME.md of the repository in place of docs/studies.md.
    """
    values, studies = params.read_yaml(params.PARAMS_FILE), Studies.of_workspace()
    if studies.pipeline:
        top = Path(git("rev-parse", "--show-toplevel").strip())
        page = STUDIES_PAGE.with_name(f"{STUDIES_PAGE.stem}-{Path(studies.pipeline).name}.md")
        write_text(top / page, page_of(studies, values))
    else:
        top = Path()
        write_between(STUDIES_PAGE, START, END, section(STUDIES, studies, values))
    with contextlib.chdir(top):
        try:
            decisions = current_decisions(STUDIES)
        except NoScaleError:  # of the default pipeline's model: it has no studies, so the page stays
            if not studies.pipeline:
                raise
        else:
            write_text(DECISIONS_FILE, decisions)
