"""The report page in a real browser: reading, keyboard, screen reader, printing and blind rating."""

import json
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from conftest import ROOT, command
from playwright.sync_api import expect
from webpage import NASTY, contrast, nameless

from onesentence.core.files import write_text
from onesentence.report.page import headline_plot, item_scores, page_highlights
from onesentence.report.render import ASSETS, data_block, render
from onesentence.report.subgroups import chosen_articles

TOWNS = ["Falkirk", "Swansea", "Norwich", "Derry", "Truro", "Perth", "Lincoln", "Bangor"]
PLACES = ["library", "swimming pool", "bus station", "museum"]
SYSTEMS = [
    ["lead", "first sentence (lead)"],
    ["base", "untuned base"],
    ["tuned", "fine-tuned model"],
]
HIGHLIGHTS = ["Best", "Middle", "Worst"]
SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="20pt" height="10pt"><rect width="9" height="9"/></svg>'


def plain(segments: list) -> str:
    """The text of segments, without its marks."""
    return "".join(text for text, _ in segments)


def an_item(k: int) -> dict:
    """A short news story and its summaries. Odd stories run to several paragraphs."""
    town, place = TOWNS[k % 8], PLACES[k % 4]
    first = f"Councillors in {town} have voted to close the {place} at the end of month {k}."
    rest = f"\n\nMore than {100 + k} residents had signed a petition against the plan." * (1 + 12 * (k % 2))
    values = {"tuned_rouge1": float(k * 37 % 50), "gain": None if k % 7 == 3 else float(k % 5)}
    return {
        "id": f"story-{k:03d}",
        "groups": [["worst", "average", "best"][k % 3], *(["random"] if k % 4 == 0 else [])],
        "document": [["Councillors in ", ""], [first.split(" in ", 1)[1], "copied"], [rest, ""]],
        "reference": [[f"The {place} in {town} is to shut despite protests from {k} people.", ""]],
        "outputs": {
            "lead": [[first, "copied"]],
            "base": [] if k % 6 == 5 else [[f"Summary: the {place} {k}, the {place}, the {place}.", ""]],
            "tuned": [
                [f"The {place} will close", "copied"],
                [" in ", ""],
                ["2031", "number"],
                [", says ", ""],
                ["Mrs Penhaligon", "name"],
                [f" of {town}, case {k}.", ""],
            ],
        },
        "status": {"lead": "ok", "base": "empty" if k % 6 == 5 else "ok", "tuned": "ok"},
        "scores": {
            name: [["ROUGE-1", 12.345 + k, "F1"], ["ROUGE-2", 0, "F1"], ["novelty", None, "%"]]
            for name, _ in SYSTEMS
        },
        "values": values,
        "facets": {"cut": "cut" if k % 5 == 0 else "whole", "length": ["short", "long"][k % 2]},
        "note": "",
    }


def a_bar(label: str, value: float, main: bool) -> dict:
    """A row of the headline plot."""
    ends = {"low": value - 2, "high": value + 2} if main else {"low": None, "high": None}
    return {"label": label, "main": main, "value": f"{value:.2f}", "interval": "", "place": value, **ends}


def a_highlight(title: str, item: dict, index: int) -> dict:
    """An example of the first screen, with texts of the length of a news summary or longer."""
    texts = [["fine-tuned model", item["outputs"]["tuned"]], ["reference", item["reference"]]]
    return {
        "title": title,
        "score": "ROUGE-1 50.0, nearest to the mean",
        "id": item["id"],
        "item": index,
        "texts": [[label, " ".join([plain(segments)] * 3)] for label, segments in texts]
        + [["untuned base", "" if title == "Worst" else "so " * 100]],
    }


def a_page(n: int = 45, rated: int = 20) -> dict:
    items = [an_item(k) for k in range(n)]
    table = {
        "caption": "Scores by system",
        "columns": ["system", *[f"metric {k}" for k in range(9)]],
        "rows": [[label, *["12.34 [10.11, 14.56]"] * 9] for _, label in SYSTEMS],
        "note": "F1 x 100",
        "summary": "",
    }
    return {
        "title": "Evaluation on council news",
        "facts": [["split", "test"], ["articles", "500"]],
        "verdict": ["The adapter beats the base by 21.4 points.", "Both differences are significant."],
        "headline": {
            "title": "ROUGE-1 by system",
            "ticks": [[0, 0.0], [50, 50.0], [100, 100.0]],
            "rows": [a_bar(label, 10.0 * k, main=k == 2) for k, (_, label) in enumerate(SYSTEMS)],
        },
        "highlights": [
            a_highlight(title, items[k], k) for title, k in zip(HIGHLIGHTS, [0, n // 2, n - 1], strict=True)
        ],
        "findings": ["Holm's correction covers all 30 tests."],
        "tables": [table, {**table, "caption": "All scores", "summary": "All 9 metrics"}],
        "analysis": [{**table, "caption": "By length", "summary": "Error analysis: 5 groups"}],
        "plots": [{"title": "ROUGE", "alt": "Three bars, the adapter's the highest", "svg": SVG}],
        "groups": [[key, f"{key.title()} 15"] for key in ("worst", "average", "best", "random")],
        "systems": SYSTEMS,
        "sorts": [["tuned_rouge1", "ROUGE-1 of the adapter"], ["gain", "gain"]],
        "facets": [["cut", "article cut"], ["length", "document length"]],
        "facet_values": {"cut": ["cut", "whole"], "length": ["short", "long"]},
        "items": items,
        "rating": {
            "test": "0123456789abcdef",
            "items": [item["id"] for item in items[:rated]],
            "pairs": [["tuned", "lead"], ["tuned", "base"], ["tuned", "reference"]],
            "criteria": [["overall", "Overall"], ["fluency", "Fluency"], ["coverage", "Coverage"]],
        },
    }


@pytest.fixture
def show(browser, tmp_path):
    """show(page, **context options): the page opened from its file, which must log and fetch nothing."""
    path, contexts, events = tmp_path / "report.html", [], []

    def opened(page: dict, before: str = "", **options):
        write_text(path, render(page))
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 800}, **options})
        contexts.append(context)
        context.set_default_timeout(5_000)
        tab = context.new_page()
        tab.add_init_script(before or ";")
        tab.on("console", lambda message: events.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: events.append(f"error: {error}"))
        tab.on("request", lambda request: events.append(f"request: {request.url}"))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    own = f"request: {path.as_uri()}"
    assert [
        entry for entry in events if entry != own and not entry.startswith("request: data:image/svg")
    ] == []
    assert own in events  # the listener works


def ids(tab) -> list[str]:
    """Ids of the examples shown, all pages of them."""
    while tab.locator("#more").is_visible():
        tab.click("#more")
    return tab.locator("#list h3").all_text_contents()


def count(tab) -> str:
    return tab.locator("#count").inner_text()


# The examples


def test_twenty_examples_at_once_and_focus_goes_to_the_first_new_one(show):
    tab = show(a_page())
    assert tab.locator(".example").count() == 20
    assert count(tab) == "20 of 45 matching examples shown (45 in all)"
    tab.click("#more")
    assert tab.locator(".example").count() == 40
    assert tab.evaluate("document.activeElement.textContent") == "story-020"
    assert ids(tab) == [f"story-{k:03d}" for k in range(45)]


def test_sorts_both_ways_with_missing_values_last(show):
    page = a_page()
    tab = show(page)
    for key, name in page["sorts"]:
        items = [item for item in page["items"] if item["values"][key] is not None]
        missing = [item for item in page["items"] if item["values"][key] is None]
        tab.select_option("#sort", label=name)
        for label, reverse in (("ascending", False), ("descending", True)):
            tab.select_option("#direction", label=label)
            wanted = sorted(items, key=lambda item: item["values"][key], reverse=reverse) + missing
            assert ids(tab) == [item["id"] for item in wanted]
    tab.select_option("#sort", label="order of the report")
    assert ids(tab) == [item["id"] for item in reversed(page["items"])]


def test_filters_by_group_and_facet_together_and_resets(show):
    page = a_page()
    tab = show(page)
    tab.select_option("#group", label="Random 15")
    wanted = [item for item in page["items"] if "random" in item["groups"]]
    assert ids(tab) == [item["id"] for item in wanted]
    tab.get_by_label("article cut").select_option("cut")
    wanted = [item["id"] for item in wanted if item["facets"]["cut"] == "cut"]
    assert 0 < len(wanted) < 12 and ids(tab) == wanted
    assert count(tab) == f"{len(wanted)} of {len(wanted)} matching examples shown (45 in all)"
    tab.get_by_role("button", name="Reset").click()
    expect(tab.locator("#count")).to_contain_text("20 of 45")


def test_searches_everywhere_in_any_case(show):
    tab = show(a_page())
    for rows, wanted in (
        (1, "STORY-016"),  # id
        (45, "petition AGAINST"),  # article
        (1, "month 16. More than 116"),  # article, over a paragraph's end
        (1, "protests from 16 PEOPLE"),  # reference
        (1, "the library 16, the"),  # base
        (1, "mrs penhaligon of falkirk, case 16."),  # adapter, over a mark's end
    ):
        tab.get_by_label("Search in articles").fill(wanted)
        expect(tab.locator("#count")).to_contain_text(f" of {rows} matching")
        assert "story-016" in ids(tab)
    assert tab.locator("#count").get_attribute("role") == "status"  # a screen reader hears it


def test_a_search_without_a_match_reports_no_match(show):
    tab = show(a_page())
    tab.fill("#search", "no such words")
    expect(tab.locator("#count")).to_have_text("No example matches (45 in all)")
    assert ids(tab) == []
    tab.press("#search", "Enter")  # does not leave the page
    assert tab.locator("h1").first.inner_text() == "Evaluation on council news"


def test_an_example_shows_all_texts_with_marks_scores_and_failures(show):
    page = a_page()
    tab = show(page)
    card, item = tab.locator(".example").nth(5), page["items"][5]
    assert [h.inner_text() for h in card.locator("h4").all()] == [
        "Article",
        "Reference",
        "first sentence (lead)",
        "untuned base empty output",
        "fine-tuned model",
    ]
    texts = [element.inner_text() for element in card.locator(".text").all()]
    assert texts[1] == plain(item["reference"]) and texts[2] == plain(item["outputs"]["lead"])
    assert texts[3] == "(empty)"
    marks = card.locator(".summary").last.locator("mark")
    assert [(m.inner_text(), m.get_attribute("class")) for m in marks.all()] == [
        ("The swimming pool will close", "copied"),
        ("2031", "number"),
        ("Mrs Penhaligon", "name"),
    ]
    lines = [m.evaluate("e => getComputedStyle(e).textDecorationStyle") for m in marks.all()]
    assert sorted(lines) == ["double", "solid", "wavy"]  # known without colour
    for spoken in ("2031 (number not in the article)", "Mrs Penhaligon (name not in the article)"):
        assert spoken in card.locator(".summary").last.text_content()
    assert (
        card.locator(".scores").last.inner_text().split()
        == "ROUGE-1 17.35 ROUGE-2 0.00 (F1) novelty none (%)".split()
    )


def test_a_long_article_unfolds_and_a_short_one_has_no_button(show):
    tab = show(a_page())
    short, long = tab.locator(".example").nth(0), tab.locator(".example").nth(1)
    assert not short.locator(".expand").is_visible()
    tab.locator("#search").press_sequentially("story-00")
    expect(tab.locator("#count")).to_contain_text("10 of 10")  # and the field still has the focus
    text, button = long.locator(".text").first, long.locator(".expand")
    height = text.bounding_box()["height"]
    assert button.get_attribute("aria-expanded") == "false"
    button.click()
    assert button.get_attribute("aria-expanded") == "true" and text.bounding_box()["height"] > 1.5 * height
    button.click()
    assert text.bounding_box()["height"] == height


# Blind rating


def start(tab, rater: str, pair: int = 0) -> None:
    tab.click("#rate")
    tab.fill("#rater", rater)
    tab.select_option("#pair", index=pair)
    tab.press("#rater", "Enter")


def sides(tab, page: dict) -> tuple[str, str, str]:
    """(id, system on side A, system on side B) of the item on the screen, recognized by its texts."""
    article, a, b = tab.evaluate(
        "['rating-document', 'text-a', 'text-b'].map(id => document.getElementById(id).innerText)"
    )
    item = next(item for item in page["items"] if plain(item["document"]) == article)
    names = {plain(text) or "(empty)": name for name, text in item["outputs"].items()}
    names[plain(item["reference"])] = "reference"
    return item["id"], names[a], names[b]


def walk(tab, page: dict) -> list[tuple[str, str, str]]:
    """`sides` of every item, in the order of the rating."""
    order = [sides(tab, page)]
    while tab.locator("#next").is_enabled():
        tab.keyboard.press("ArrowRight")
        order.append(sides(tab, page))
    return order


def downloaded(tab) -> tuple[str, str]:
    """(file name, text) of the download."""
    with tab.expect_download() as info:
        tab.get_by_role("button", name="Download ratings").click()
    return info.value.suggested_filename, Path(info.value.path()).read_text(encoding="utf-8")


def checked(tab) -> list[str]:
    return tab.evaluate("[...document.querySelectorAll('.criterion :checked')].map(radio => radio.value)")


def progress(tab) -> str:
    return tab.locator("#progress").inner_text()


def test_rates_by_keyboard_and_goes_on_after_a_reload(show):
    page = a_page()
    tab = show(page)
    tab.click("#rate")
    tab.keyboard.type("abe Bea")  # letters that rate, were this not a text field
    tab.keyboard.press("Enter")
    assert progress(tab) == "Item 1 of 20, 0 rated" and checked(tab) == []

    key, rated = {"A": "a", "equal": "e", "B": "b"}, {}

    def rate(*choices: str | None) -> None:
        item, a, b = sides(tab, page)
        for choice, (criterion, _) in zip(choices, page["rating"]["criteria"], strict=False):
            if choice is None:
                tab.keyboard.press("ArrowDown")
            else:
                tab.keyboard.press(key[choice])
                rated.setdefault(item, {})[criterion] = {"A": a, "B": b, "equal": "equal"}[choice]

    rate("A", "B", "equal")
    assert checked(tab) == ["A", "B", "equal"] and progress(tab) == "Item 1 of 20, 1 rated"
    tab.keyboard.press("ArrowRight")
    rate(None, "B")
    assert checked(tab) == ["B"]
    tab.keyboard.press("ArrowRight")  # left unrated
    tab.keyboard.press("ArrowRight")
    rate("B")
    tab.keyboard.press("ArrowUp")  # back to the first criterion
    rate("A")
    assert checked(tab) == ["A"] and progress(tab) == "Item 4 of 20, 3 rated"

    tab.reload()
    tab.click("#rate")
    assert tab.input_value("#rater") == "abe Bea"
    tab.keyboard.press("Enter")
    assert progress(tab) == "Item 4 of 20, 3 rated" and checked(tab) == ["A"]
    for expected in ([], ["B"], ["A", "B", "equal"]):
        tab.keyboard.press("ArrowLeft")
        assert checked(tab) == expected
    name, text = downloaded(tab)
    assert name == "ratings-abe-Bea.json"
    wanted = {
        "format": "one-sentence ratings 1",
        "rater": "abe Bea",
        "test": "0123456789abcdef",
        "pair": ["tuned", "lead"],
        "ratings": [{"id": item, **rated[item]} for item in sorted(rated)],
    }
    assert text == json.dumps(wanted, indent=2, sort_keys=True) + "\n"
    assert {"tuned", "lead", "equal"} >= {winner for entry in rated.values() for winner in entry.values()}


def test_sides_and_order_are_random_for_each_rater_and_the_same_every_time(show):
    page = a_page()
    tab = show(page)
    start(tab, "Ann")
    first = walk(tab, page)
    listed = page["rating"]["items"]
    assert sorted(item for item, _, _ in first) == sorted(listed) != [item for item, _, _ in first]
    assert all({a, b} == {"tuned", "lead"} for _, a, b in first)
    assert sum(a == "tuned" for _, a, _ in first) == 10  # half, in no regular turn:
    assert len({(first[k][1], first[k + 1][1]) for k in range(19)}) == 4
    for rater, pair in (("Bob", 0), ("Ann", 1)):
        tab.reload()
        start(tab, rater, pair)
        other = walk(tab, page)
        assert [item for item, _, _ in other] != [item for item, _, _ in first]
        assert [a == "tuned" for _, a, _ in other] != [a == "tuned" for _, a, _ in first]
    tab.reload()
    start(tab, "Ann")
    assert progress(tab).startswith("Item 20 of 20")
    for _ in range(19):
        tab.keyboard.press("ArrowLeft")
    assert tab.locator("#previous").is_disabled()
    assert walk(tab, page) == first


def test_outputs_of_another_model_start_without_the_ratings_of_this_one(show, tmp_path):
    page = a_page()
    tab = show(page)
    start(tab, "Ann")
    tab.keyboard.press("a")
    assert progress(tab) == "Item 1 of 20, 1 rated"
    page["items"][3]["outputs"]["tuned"][0][0] = "The library stays open"
    write_text(tmp_path / "report.html", render(page))
    tab.reload()
    start(tab, "Ann")
    assert progress(tab) == "Item 1 of 20, 0 rated"


def test_ratings_go_through_the_stage_with_the_right_winner(show, tmp_path):
    """A rater who always prefers the adapter's text gives it 100%; mixed-up sides would give 50%."""
    page = a_page()
    tab = show(page)
    start(tab, "Zoë", pair=2)
    while True:
        _, a, _ = sides(tab, page)
        tab.keyboard.press("a" if a == "tuned" else "b")
        tab.keyboard.press("e")
        if not tab.locator("#next").is_enabled():
            break
        tab.keyboard.press("ArrowRight")
    name, text = downloaded(tab)
    assert name == "ratings-Zoë.json"
    (tmp_path / name).write_text(text, encoding="utf-8")
    command(ROOT, "rate", str(tmp_path / name), "--output", str(tmp_path / "ratings.json"))
    result = json.loads((tmp_path / "ratings.json").read_text())
    assert result["test"] == page["rating"]["test"]
    criteria = result["pairs"]["tuned-reference"]["criteria"]
    assert (criteria["overall"]["win_rate"], criteria["overall"]["wins"]) == (100, 20)
    assert (criteria["fluency"]["win_rate"], criteria["fluency"]["ties"]) == (50, 20)
    assert "coverage" not in criteria


def test_nothing_on_the_rating_page_tells_the_systems_apart(show):
    page = a_page()
    tab = show(page)
    start(tab, "Ann", pair=1)
    telling = ["tuned", "lead", "base", "lora", "story-"]
    telling_a_reader = [*telling, "rouge", "verdict", "empty output", "novelty", "12.3", "not in the"]
    empty = 0
    for _ in range(20):
        text, source = tab.evaluate("[document.body.innerText, document.getElementById('task').outerHTML]")
        assert [word for word in telling_a_reader if word in text.lower()] == []
        assert [word for word in [*telling, "<mark"] if word in source] == []
        empty += text.count("(empty)")
        tab.keyboard.press("e")
        tab.keyboard.press("ArrowRight")
    assert empty == 3  # an empty output is judged as one, without a word on why it is empty
    assert tab.title() == "Blind rating"
    tab.get_by_role("button", name="Back to the report").click()
    assert tab.locator("#verdict").is_visible() and tab.title() == page["title"]


def test_mouse_rates_clears_and_keys_can_be_turned_off(show):
    tab = show(a_page())
    start(tab, "Ann")
    assert tab.locator("#download").is_disabled()  # a file without ratings would be refused
    group = tab.get_by_role("radiogroup", name="Fluency")
    group.get_by_label("Equal").check()
    assert checked(tab) == ["equal"] and progress(tab) == "Item 1 of 20, 1 rated"
    tab.get_by_role("button", name="Clear this item").click()
    assert checked(tab) == [] and progress(tab) == "Item 1 of 20, 0 rated"
    tab.get_by_label("Keys").uncheck()
    tab.keyboard.press("a")
    tab.keyboard.press("ArrowRight")
    assert checked(tab) == [] and progress(tab) == "Item 1 of 20, 0 rated"
    group.get_by_label("A better").focus()
    tab.keyboard.press("ArrowRight")  # now the browser's own key of a radio group
    assert checked(tab) == ["equal"]


def test_arrows_scroll_the_article_while_it_has_the_focus(show):
    page = a_page()
    for item in page["items"]:
        item["document"][-1][0] *= 40
    tab = show(page)
    start(tab, "Ann")
    tab.locator("#read").evaluate("e => { e.scrollTop = 200; }")
    tab.keyboard.press("ArrowRight")
    assert progress(tab).startswith("Item 2") and tab.locator("#read").evaluate("e => e.scrollTop") == 0
    tab.locator("#read").focus()
    tab.keyboard.press("ArrowDown")
    for _ in range(40):  # scrolling takes its time
        if tab.locator("#read").evaluate("e => e.scrollTop"):
            break
        tab.wait_for_timeout(50)
    else:
        raise AssertionError("the article did not scroll")
    assert tab.locator(".criterion.current").inner_text().startswith("Overall")


def test_rates_without_storage_and_warns_that_nothing_is_saved(show):
    blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new Error('blocked'); }})"
    tab = show(a_page(), before=blocked)
    start(tab, "Ann")
    tab.keyboard.press("a")
    assert (
        tab.get_by_text("cannot save your progress").is_visible() and progress(tab) == "Item 1 of 20, 1 rated"
    )
    assert len(json.loads(downloaded(tab)[1])["ratings"]) == 1


def test_ids_that_are_names_in_javascript_work_like_any_other(show):
    page = a_page(3, rated=0)
    names = ["__proto__", "constructor", "toString"]
    for item, name in zip(page["items"], names, strict=True):
        item["id"] = name
    page["rating"]["items"] = names
    tab = show(page)
    start(tab, "../a b")
    assert progress(tab) == "Item 1 of 3, 0 rated"
    for _ in names:
        tab.keyboard.press("e")
        tab.keyboard.press("ArrowRight")
    name, text = downloaded(tab)
    assert name == "ratings--a-b.json"
    assert json.loads(text)["ratings"] == [{"id": name, "overall": "equal"} for name in names]


# Text is text


def nasty_page() -> dict:
    """Every text of the page is hostile."""
    page, every = a_page(10), " ".join(NASTY)
    table = {"caption": every, "columns": NASTY, "rows": [NASTY, NASTY], "note": every, "summary": every}
    page |= {"title": every, "facts": [[every, every]], "verdict": NASTY, "tables": [table]}
    page |= {"analysis": [table], "plots": [{"title": every, "alt": every, "svg": SVG}]}
    page["headline"]["title"] = every
    page["headline"]["rows"] = [{**a_bar(every, 1.0, main=True), "value": every, "interval": every}]
    page["highlights"] = [
        {"title": every, "score": every, "id": every, "item": 0, "texts": [[text, text] for text in NASTY]}
    ]
    page["findings"] = NASTY
    page["groups"] = [["worst", every], *page["groups"][1:]]
    page["systems"] = [[name, every] for name, _ in SYSTEMS]
    page["sorts"] = [[key, every] for key, _ in page["sorts"]]
    page["facets"] = [["cut", every]]
    page["facet_values"] = {"cut": NASTY}
    page["rating"]["criteria"] = [["overall", every]]
    for item, text in zip(page["items"], NASTY, strict=True):
        segments = [[text, ""], [text, "copied"], [text, "number name"]]
        item |= {"id": text, "note": text, "document": segments, "reference": segments}
        item |= {
            "outputs": {name: segments for name, _ in SYSTEMS},
            "facets": {"cut": text},
            "groups": ["worst"],
        }
        item["scores"] = {name: [[text, 1.0, text]] for name, _ in SYSTEMS}
    page["rating"]["items"] = NASTY
    return page


def test_hostile_text_is_shown_and_never_run(show):
    tab = show(nasty_page())
    tab.wait_for_timeout(100)  # an image's onerror comes later
    assert tab.evaluate("window.hacked") is None
    foreign = "img:not(.plot img), svg:not(.headline svg), script[src], [onload], [onerror]"
    assert tab.locator(foreign).count() == 0
    assert tab.evaluate("document.scripts.length") == 2
    shown = tab.evaluate("document.getElementById('verdict').parentElement.textContent")
    assert all(text.replace("\ud83d", "\ufffd") in shown for text in NASTY)
    for k, text in enumerate(NASTY):  # compared in the browser: a lone surrogate does not travel
        tab.get_by_role("combobox").nth(1).select_option(index=k + 1)
        wanted = data_block(text)
        assert tab.evaluate(f"document.querySelector('#list h3').textContent === {wanted}")
        assert tab.evaluate(f"document.querySelector('.example .text').textContent.startsWith({wanted})")
        assert tab.locator(".example").count() == 1  # the facet's value came through as it was
    start(tab, NASTY[0])
    for _ in NASTY:
        tab.keyboard.press("a")
        tab.keyboard.press("ArrowRight")
    text = downloaded(tab)[1]
    assert [rating["id"] for rating in json.loads(text)["ratings"]] == NASTY
    assert tab.evaluate("window.hacked") is None


def test_the_policy_stops_a_script_that_gets_in(browser, tmp_path):
    write_text(tmp_path / "report.html", render(a_page(3, 0)).replace("</main>", f"{NASTY[0]}</main>", 1))
    with browser.new_context() as context:
        tab, messages = context.new_page(), []
        tab.on("console", lambda message: messages.append(message.text))
        tab.goto((tmp_path / "report.html").as_uri())
        assert tab.evaluate("window.hacked") is None and "Content Security Policy" in messages[0]
        assert tab.locator(".example").count() == 3  # and the page's own script runs
        assert tab.evaluate("fetch('data:,x').then(() => 'fetched', () => 'refused')") == "refused"


def test_the_file_is_deterministic_and_refers_to_no_other_file():
    html = render(a_page())
    assert html == render(a_page())
    assert re.findall(r'(?:src|href|action)="(?!#|data:)', html) == []
    assert re.findall(r"\b(?:https?:|//\w+\.)", html) == []
    assert re.findall(r"\sstyle=|\son\w+=", html) == []
    render(nasty_page()).encode("utf-8")  # no lone surrogate is left
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', render(nasty_page()))[1]
    assert data.isascii() and not re.search("[<>&]", data)
    assert json.loads(data)["items"] == nasty_page()["items"]
    for name in ("report.js", "report.css"):
        assert not re.search(r"</|<!--|innerHTML|eval\(", (ASSETS / name).read_text().replace("*/", ""))


def test_an_item_to_rate_that_is_not_on_the_page_is_refused():
    page = a_page(3, 3)
    page["rating"]["items"].append("story-999")
    with pytest.raises(ValueError, match="story-999"):
        render(page)


# Access


def test_no_column_is_cut_off_at_1280_pixels_and_no_interval_is_broken(show):
    """The widest table of the pipeline: five systems, each number with its interval."""
    page = a_page()
    systems = ["first sentence (lead)", "extractive oracle", "untuned base", "fine-tuned model", "references"]
    row = ["BLEU, mean of sentences", "0 to 100, corpus ↑", *(["+30.81 [+28.54, +32.89]"] * len(systems))]
    table = {"caption": "Scores", "columns": ["metric", "unit", *systems], "rows": [row], "note": ""}
    page["tables"] = [{**table, "summary": ""}, {**table, "summary": "All metrics"}]
    tab = show(page, viewport={"width": 1280, "height": 900})
    tab.locator("summary").first.click()
    for k in (0, 1):  # on the page, and in a fold
        table = tab.locator("section:has(#scores) .scroll").nth(k)
        assert table.evaluate("e => e.clientWidth > 1000 && e.scrollWidth <= e.clientWidth")
        lines = table.evaluate(
            "e => [...e.querySelectorAll('.pair span')].map(s => s.getClientRects().length)"
        )
        assert lines == [1] * len(systems)


def test_fits_360_pixels_and_wide_parts_scroll_by_themselves(show):
    tab = show(a_page(), viewport={"width": 360, "height": 740})
    fits = "document.scrollingElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    table = tab.locator(".scroll").first
    assert table.evaluate("e => e.scrollWidth > e.clientWidth") and table.get_attribute("tabindex") == "0"
    tab.click("#rate")
    assert tab.evaluate(fits)
    tab.fill("#rater", "Ann")
    tab.keyboard.press("Enter")
    assert tab.evaluate(fits)


# The first screen


def test_the_axis_of_the_headline_plot_ends_above_every_interval():
    entries = {"tuned": (30.0, 32.0), "base": (10.0, 12.0), "lead": (18.0, 20.5), "oracle": (39.0, 40.5)}
    systems = {
        name: {"rouge1": {"value": value, "low": value - 2, "high": high}}
        for name, (value, high) in entries.items()
    }
    systems["lead"]["rouge1"] |= {"low": None, "high": None}  # too few articles
    plot = headline_plot({"confidence": 0.95, "systems": systems})
    assert plot["title"] == "ROUGE-1 by system, with 95% intervals (F1 x 100)"
    assert plot["ticks"] == [[0, 0], [10, 20], [20, 40], [30, 60], [40, 80], [50, 100]]
    tuned, base, lead, oracle = plot["rows"]
    assert (tuned["place"], tuned["low"], tuned["high"], tuned["main"]) == (60, 56, 64, True)
    assert (tuned["value"], tuned["interval"]) == ("30.00", "[28.00, 32.00]")
    assert (lead["place"], lead["low"], lead["high"], lead["interval"]) == (36, None, None, "")
    assert oracle["high"] == 81 and not base["main"]


def test_an_output_shows_entailment_where_a_model_judged_it():
    names = ("rouge1", "rouge2", "rougeL", "bertscore")
    scores = pa.table({name: [float(k), 50.0 + k] for k, name in enumerate(names)})
    assert item_scores(scores, 1)[3:] == [["BERTScore", 53.0, "F1 x 100"]]
    judged = scores.append_column("entailment", pa.array([7.0, 8.0]))
    assert item_scores(judged, 1)[4:] == [["entailment", 8.0, "probability x 100"]]


def test_the_examples_are_the_best_the_middle_and_the_worst_output():
    scores = [50.0, 0.0, 100.0, 52.0]
    texts = {name: [f"{name} {k}\n of" for k in range(4)] for name in ("base", "tuned")}
    tables = {name: pa.table({"text": text, "rouge1": scores}) for name, text in texts.items()}
    table = pa.table({"id": list("abcd"), "summary": [f"reference {k}" for k in range(4)]})
    items = [{"id": article_id} for article_id in "abc"]
    highlights = page_highlights(chosen_articles(np.array(scores)), table, tables, items)
    assert [(h["title"], h["id"], h["item"], h["score"]) for h in highlights] == [
        ("Best", "c", 2, "ROUGE-1 100.0"),
        ("Middle", "a", 0, "ROUGE-1 50.0, nearest to the mean"),
        ("Worst", "b", 1, "ROUGE-1 0.0"),
    ]
    assert highlights[0]["texts"] == [
        ["fine-tuned model", "tuned 2 of"],
        ["reference", "reference 2"],
        ["untuned base", "base 2 of"],
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_screen_holds_the_verdict_one_plot_and_three_examples(show, scheme):
    page = a_page()
    page["verdict"] = ["The fine-tuned model scores 30.81 in ROUGE-1. " * 2] * 3  # as long as a real one
    tab = show(page, viewport={"width": 1280, "height": 800}, color_scheme=scheme)
    cards = tab.locator(".highlights article")
    assert cards.count() == 3
    parts = [tab.locator(".verdict"), tab.locator(".headline"), *cards.all()]
    for part in parts:
        box = part.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 1280
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800
    for one, other in pairwise(parts):  # side by side or one below the other
        a, b = one.bounding_box(), other.bounding_box()
        assert a["x"] + a["width"] <= b["x"] or a["y"] + a["height"] <= b["y"]
    for card, highlight in zip(cards.all(), page["highlights"], strict=True):
        assert card.locator("h3").inner_text().startswith(highlight["title"])
        texts = [text or "(empty)" for _, text in highlight["texts"]]
        assert card.locator("dd").all_text_contents() == texts


def test_an_example_of_the_first_screen_leads_to_its_full_entry(show):
    page = a_page()
    tab = show(page, viewport={"width": 1280, "height": 800})
    for k in (2, 0, 1):
        tab.fill("#search", "no such words")  # whatever was searched for before
        link = tab.locator(".highlights a").nth(k)
        assert page["highlights"][k]["id"] in link.inner_text()
        link.press("Enter")
        heading = tab.locator("#list h3").filter(has_text=page["highlights"][k]["id"])
        expect(heading).to_be_focused()
        expect(heading).to_be_in_viewport()
        expect(tab.locator("#count")).to_contain_text("of 45 matching")


def test_the_headline_plot_draws_each_score_at_its_place_and_says_it_as_text(show):
    page = a_page()
    tab = show(page, viewport={"width": 1280, "height": 800})
    figure = tab.get_by_role("figure", name="ROUGE-1 by system")
    assert figure.get_by_role("rowheader").all_inner_texts() == [label for _, label in SYSTEMS]
    assert figure.locator(".bar").count() == 1  # two systems have no interval
    frames = [svg.bounding_box() for svg in figure.locator("svg").all()]
    for row, frame, dot in zip(
        page["headline"]["rows"], frames, figure.locator("circle").all(), strict=False
    ):
        box = dot.bounding_box()
        assert box["x"] + box["width"] / 2 == pytest.approx(
            frame["x"] + row["place"] / 100 * frame["width"], abs=1
        )
        assert figure.get_by_role("cell", name=row["value"], exact=True).count() == 1


def test_tables_that_few_read_are_folded_and_open_by_keyboard(show):
    tab = show(a_page(), viewport={"width": 1280, "height": 800})
    folds = tab.locator("details")
    summaries = tab.locator("details > summary").all_inner_texts()
    assert summaries[:2] == [
        "All 9 metrics",
        "The evaluation in words: differences, clusters, correction, copying, failures",
    ]
    assert summaries[2] == "Error analysis: 5 groups"
    assert [fold.get_attribute("open") for fold in folds.all()] == [None] * 3
    assert not tab.get_by_text("All scores").is_visible()
    for fold, content in zip(folds.all(), ("All scores", "Holm's correction", "By length"), strict=True):
        assert content in fold.text_content()  # in the HTML, for a search and for readers without a script
        fold.locator("summary").press("Enter")
        assert fold.get_by_text(content).is_visible()


@pytest.mark.parametrize("script", [True, False])
def test_the_print_shows_what_is_folded_and_all_lines_of_the_examples(show, script):
    tab = show(a_page(), java_script_enabled=script)
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 718, "height": 1000})
    for content in ("All scores", "Holm's correction covers", "By length"):
        assert tab.get_by_text(content).bounding_box()["height"] > 10
    text = tab.locator(".highlights dd").first
    assert text.bounding_box()["height"] > 4 * 14  # three lines on the screen


def test_folds_open_for_printing_and_close_again(show):
    tab = show(a_page())
    tab.locator("summary").first.click()
    opened = "[...document.querySelectorAll('details')].map(fold => fold.open)"
    tab.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert tab.evaluate(opened) == [True, True, True]
    tab.evaluate("dispatchEvent(new Event('afterprint'))")
    assert tab.evaluate(opened) == [True, False, False]


def test_contrast_by_hand():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)  # the lightest grey that passes


def test_light_and_dark_both_have_contrast(show):
    backgrounds = set()
    for scheme in ("light", "dark"):
        tab = show(a_page(3, 1), color_scheme=scheme)
        backgrounds.add(tab.evaluate("getComputedStyle(document.documentElement).backgroundColor"))

        def colour(name: str, tab=tab) -> str:
            return tab.evaluate(
                f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()"
            )

        for text, grounds in {
            "text": "page card tint copied number name",
            "quiet": "page card tint",
            "accent": "page card",
            "on-accent": "accent",
            "bad": "page",
        }.items():
            for ground in grounds.split():
                assert contrast(colour(text), colour(ground)) >= 4.5, (scheme, text, ground)
        for line, ground in [("edge", "card"), ("edge", "page"), ("accent", "page"), ("accent", "tint")]:
            assert contrast(colour(line), colour(ground)) >= 3, (scheme, line, ground)
        for kind in ("copied", "number", "name"):
            assert contrast(colour(f"{kind}-line"), colour("card")) >= 3, (scheme, kind)
    assert len(backgrounds) == 2


def test_everything_that_takes_the_focus_has_a_name(show):
    tab = show(a_page())
    assert nameless(tab) == []
    tab.click("#rate")
    fields = tab.locator("#start input, #start select").all()
    assert all(field.evaluate("e => e.labels.length") == 1 for field in fields)
    tab.fill("#rater", "Ann")
    tab.keyboard.press("Enter")
    assert nameless(tab) == []


def test_the_tab_key_reaches_the_search_with_a_visible_focus_all_the_way(show):
    tab = show(a_page())
    stops = []
    for _ in range(30):
        tab.keyboard.press("Tab")
        focused = "document.activeElement"
        stops.append(tab.evaluate(f"{focused}.id || {focused}.textContent.trim()"))
        outline = tab.evaluate(f"getComputedStyle({focused}).outlineStyle")
        assert outline == "solid", stops[-1]
        if len(stops) == 1:
            expect(tab.locator(".skip")).to_be_in_viewport()
        if stops[-1] == "search":
            break
    assert stops[0] == "Skip to the verdict" and "rate" in stops and stops[-1] == "search"
    tab.keyboard.type("story-01")
    expect(tab.locator("#count")).to_contain_text("10 of 10")


def test_headings_go_down_one_level_at_a_time_and_every_landmark_exists(show):
    tab = show(a_page())
    for rating in (False, True):
        if rating:
            start(tab, "Ann")
        levels = tab.evaluate(
            "[...document.querySelectorAll('h1, h2, h3, h4')]"
            ".filter(h => h.checkVisibility()).map(h => +h.tagName[1])"
        )
        assert levels[0] == 1 and levels.count(1) == 1
        assert all(below <= above + 1 for above, below in pairwise(levels))
        assert tab.get_by_role("main").count() == 1
        if not rating:
            assert [tab.get_by_role(name).count() for name in ("banner", "navigation", "search")] == [1, 1, 1]
            assert tab.get_by_role("img", name="Three bars, the adapter's the highest").count() == 1
            assert tab.get_by_role("rowheader", name="untuned base").count() == 2  # plot, table


def test_verdict_tables_and_plots_need_no_script(show):
    tab = show(a_page(), java_script_enabled=False)
    assert tab.get_by_text("The adapter beats the base by 21.4 points.").is_visible()
    assert tab.get_by_text("12.34 [10.11, 14.56]").first.is_visible()
    assert tab.locator(".plot img").is_visible()
    assert tab.locator("noscript p").is_visible()
    assert not tab.locator("#rate").is_visible() and not tab.locator("#controls").is_visible()


def test_the_print_has_whole_articles_and_no_controls(show):
    tab = show(a_page(), color_scheme="dark")
    tab.emulate_media(media="print")
    tab.set_viewport_size({"width": 718, "height": 1000})  # A4 less its margins, in CSS pixels
    assert tab.locator(".scroll").first.evaluate("e => e.scrollWidth <= e.clientWidth")
    text = tab.locator(".example").nth(1).locator(".text").first
    assert text.evaluate("e => e.scrollHeight <= e.clientHeight + 1")
    assert not tab.get_by_role("button").first.is_visible() and not tab.locator("#search").is_visible()
    assert (
        tab.evaluate("getComputedStyle(document.querySelector('.example')).backgroundColor")
        == "rgb(255, 255, 255)"
    )


def test_two_hundred_long_articles_make_a_small_page_that_draws_twenty(show):
    page = a_page(200)
    for item in page["items"]:
        item["document"] = [[f"{plain(item['document'])} ", ""]] * 4  # 400 words on average
    html = render(page)
    texts = sum(len(plain(item["document"])) for item in page["items"])
    assert len(html) < texts + 600_000
    tab = show(page)
    assert tab.locator(".example").count() == 20
    took = tab.evaluate(
        "(() => { const start = performance.now(); search(); return performance.now() - start; })()"
    )
    assert took < 1_000  # milliseconds; about 20 on two slow cores
