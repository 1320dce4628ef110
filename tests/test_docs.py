"""The documentation: links, anchors, commands, words, and what the changelog must name."""

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import ROOT

from onesentence.cli import COMMANDS
from onesentence.core import params
from onesentence.study import declaration

PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "models/README.md")]
PAGES += sorted(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)
WORDS = ROOT / "tests/words.txt"
LONGEST = 120  # characters of a line of prose
GENERATED = re.compile(r"<!-- (\w+): written by .*?<!-- end of \1 -->", re.DOTALL)


def without_code(text: str) -> str:
    """Markdown without its blocks of code and its code in lines."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ {4,}.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "`code`", text)


def anchors(text: str) -> set[str]:
    """What `#...` may point to on a page: its headings, as GitHub makes names of them."""
    seen: Counter[str] = Counter()
    names = set()
    blocks_removed = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", blocks_removed, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        names.add(f"{name}-{seen[name]}" if seen[name] else name)
        seen[name] += 1
    return names


def broken_links(page: Path) -> list[str]:
    """Links of a page to a file or a heading that does not exist."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue  # another site: no test waits on a network
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file.read_text())):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_and_anchors_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A: *heading*, twice\n## Same\n## Same\n```\n# no heading\n```\n")
    page.write_text(page.read_text() + "[a](#a-heading-twice) [b](#same-1) [c](#no-heading) [d](gone.md)\n")
    assert broken_links(page) == ["#no-heading", "gone.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_on_a_page_exist(page):
    text = page.read_text()
    code = "\n".join([*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ {4,}(.*)$", text, re.MULTILINE)])
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|&& |\()make ([a-z]+)", code, re.MULTILINE)) - targets == set()
    named = set(re.findall(r"(?:^|&& )onesentence ([a-z]+)", code, re.MULTILINE))
    assert named - set(COMMANDS) == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_of_prose_fit_a_screen(page):
    lines = GENERATED.sub("", page.read_text()).splitlines()
    prose = [line for line in lines if not line.startswith(("|", "    "))]
    assert page.name == "decisions.md" or [line for line in prose if len(line) > LONGEST] == []


def test_the_changelog_names_every_renamed_key():
    text = (ROOT / "CHANGELOG.md").read_text()
    renamed = {**params.RENAMED, **declaration.RENAMED, "detectable": "mde"}
    assert [name for pair in renamed.items() for name in pair if f"`{name}`" not in text] == []


def spelled(*files: Path) -> subprocess.CompletedProcess:
    """Run `make lint`'s check of words on files."""
    pytest.importorskip("codespell_lib", reason="codespell is in tests/requirements.txt")
    return subprocess.run(
        [sys.executable, "-m", "codespell_lib", *map(str, files)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def banned() -> dict[str, str]:
    """What to write instead of each word that we do not use."""
    return dict(line.split("->") for line in WORDS.read_text().splitlines())


def test_every_banned_word_is_found_by_the_linter(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(f"We write {word} here.\n" for word in banned()))
    result = spelled(page)
    assert result.returncode
    for number, (word, instead) in enumerate(banned().items(), 1):
        first = instead.partition(",")[0]
        assert re.search(rf"page\.md:{number}: {word} ==> {first}\b", result.stdout), word


def test_plain_words_pass_the_linter_and_a_typing_error_does_not(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("A score exists. It is in the table, and it is significant. ROUGE carries it.\n")
    assert spelled(page).returncode == 0
    page.write_text("We recieve a score.\n")
    assert "recieve ==> receive" in spelled(page).stdout


def test_the_prose_passes_the_linter(tmp_path):
    """What people write; `make lint` reads what is generated too."""
    written = [page for page in PAGES if page.name != "decisions.md"]
    for page in written:
        (tmp_path / page.name).write_text(GENERATED.sub("", page.read_text()))
    result = spelled(tmp_path)
    assert result.returncode == 0, result.stdout
