"""The page of the service in a real browser: what it shows, by keyboard, to a screen reader, under attack."""

import itertools
import re
import threading

import pytest
from playwright.sync_api import expect
from running import PATIENCE, export_base, request, running
from webpage import NASTY, contrast, nameless

from onesentence.inference.summarizer import Summary, unsupported
from onesentence.serving.limits import Limits
from onesentence.serving.page import OWN
from onesentence.serving.server import Serving, listen

ARTICLE = (
    "Councillors in Falkirk have voted to close the swimming pool at the end of March. More than 1,200 "
    "residents had signed a petition against the plan.\n\nThe pool opened in 1974."
)
WRITTEN = "Councillors in Falkirk have voted against Mrs Penhaligon in 2031."
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A service with an adapter and its base: random changes to models/phi-tiny-64."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("models")
    base = export_base(folder / "base")
    (base / "summarization.json").unlink()  # it is loaded as an adapter's base
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    get_peft_model(model, config).save_pretrained(folder / "adapter")
    with running(folder / "adapter", Limits(max_characters=5_000), compare=True) as serving:
        yield serving


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A service with one model, which needs a key."""
    with running(export_base(tmp_path_factory.mktemp("models") / "tiny"), key=KEY) as serving:
        yield serving


@pytest.fixture
def visit(browser):
    """visit(serving, **context options): the page, which may log nothing and ask no one but its service."""
    contexts, events = [], []

    def opened(serving, **options):
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        context.set_default_timeout(20_000)
        tab = context.new_page()
        tab.on("console", lambda message: events.append(f"console: {message.text}"))
        tab.on("pageerror", lambda error: events.append(f"error: {error}"))
        tab.on(
            "request",
            lambda sent: (
                sent.url.startswith((f"{serving.url}/", "data:,")) or events.append(f"request: {sent.url}")
            ),
        )
        tab.goto(serving.url)
        return tab

    yield opened
    for context in contexts:
        context.close()
    failed = "console: Failed to load resource"  # Chromium logs every answer of 4xx and 5xx
    assert [event for event in events if not event.startswith(failed)] == []


def writes(serving, monkeypatch, *texts: str, **fields) -> None:
    """Make each model of a service write a given text, so that a test knows what the page must show."""

    def summarize(articles: list[str], text: str) -> list[Summary]:
        entry = {
            "status": "ok",
            "stopped": True,
            "input_tokens": 96,
            "output_tokens": 8,
            "document_tokens_cut": 0,
        }
        return [
            Summary(text=text, unsupported=unsupported(article, text), **{**entry, **fields})
            for article in articles
        ]

    for model, text in zip(serving.service.models.values(), itertools.cycle(texts), strict=False):
        monkeypatch.setattr(model.batcher, "summarize", lambda articles, text=text: summarize(articles, text))


def outputs(tab) -> list[str]:
    return [element.inner_text() for element in tab.locator(".output").all()]


def summarized(tab, article: str = ARTICLE) -> None:
    tab.get_by_label("Article", exact=True).fill(article)
    tab.get_by_role("button", name="Summarize").click()
    expect(tab.locator("#status")).to_contain_text("below")


def test_the_adapter_and_its_base_are_side_by_side_and_write_what_the_service_writes(compared, visit):
    tab = visit(compared)
    summarized(tab)
    names = list(compared.service.models)
    assert len(names) == 2 and names[1].endswith("(untuned)")
    assert tab.locator("#results article h3").all_inner_texts() == names
    wanted = [
        request(compared, "POST", "/summarize", {"article": ARTICLE, "model": name}).value["summaries"][0][
            "text"
        ]
        for name in names
    ]
    assert [tab.locator(".output").nth(k).evaluate("e => e.firstChild && e.textContent") for k in (0, 1)]
    visible = "e => [...e.childNodes].filter(n => n.className !== 'unseen').map(n => n.textContent).join('')"
    assert [tab.locator(".output").nth(k).evaluate(visible) for k in (0, 1)] == wanted
    assert wanted[0] != wanted[1]
    left, right = (tab.locator("#results article").nth(k).bounding_box() for k in (0, 1))
    assert left["y"] == right["y"] and left["x"] + left["width"] <= right["x"]


def test_copied_words_and_unsupported_names_and_numbers_are_marked_as_in_the_report(
    compared, visit, monkeypatch
):
    writes(compared, monkeypatch, WRITTEN, "The pool.")
    tab = visit(compared)
    summarized(tab)
    marks = tab.locator(".output").first.locator("mark")
    assert [(m.inner_text(), m.get_attribute("class")) for m in marks.all()] == [
        ("Councillors in Falkirk have voted", "copied"),
        ("Mrs", "name"),
        ("Penhaligon", "name"),
        ("2031", "number"),
    ]
    lines = {m.evaluate("e => getComputedStyle(e).textDecorationStyle") for m in marks.all()}
    assert lines == {"solid", "double", "wavy"}  # known without colour
    assert "2031 (number not in the article)" in tab.locator(".output").first.text_content()
    assert tab.locator("#document mark").all_inner_texts() == ["Councillors in Falkirk have voted"]
    assert tab.locator("#document").inner_text() == ARTICLE
    details = tab.locator(".details").first.inner_text()
    assert (
        re.sub(r"\s+", " ", details)
        == "not in the article Mrs, Penhaligon, 2031 read 96 tokens written 8 tokens"
    )


def test_what_was_cut_and_what_failed_is_said(compared, visit, monkeypatch):
    writes(
        compared, monkeypatch, "", status="empty", document_tokens_cut=1_234, stopped=False, output_tokens=1
    )
    tab = visit(compared)
    summarized(tab)
    details = re.sub(r"\s+", " ", tab.locator(".details").first.inner_text())
    for words in (
        "failure empty output",
        "cut 1,234 tokens at the article's end did not fit the prompt",
        "written 1 token",
    ):
        assert words in details
    assert "cut off at the limit of new tokens" in details
    assert outputs(tab) == ["(empty)", "(empty)"]


def test_everything_works_by_keyboard_alone(compared, visit, monkeypatch):
    writes(compared, monkeypatch, WRITTEN)
    tab = visit(compared)

    def focused() -> str:
        return tab.evaluate("document.activeElement.id || document.activeElement.textContent.trim()")

    order = []
    for _ in range(4):
        tab.keyboard.press("Tab")
        order.append(focused())
        outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid" or order[-1] == "Skip to the form"
    assert order == ["Skip to the form", "article", "Summarize", "clear"]
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.insert_text(ARTICLE)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    expect(tab.locator("#status")).to_have_text("2 summaries below.")
    assert focused() == "Summarize"  # the focus stays where the reader left it
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert focused() == "article" and tab.input_value("#article") == ""
    assert not tab.locator("#results").is_visible() and tab.locator("#size").inner_text().startswith(
        "0 of 5,000"
    )
    tab.keyboard.insert_text("Another article.")
    tab.keyboard.press("Control+Enter")
    expect(tab.locator("#status")).to_have_text("2 summaries below.")
    tab.keyboard.press("Enter")  # alone, it begins a line
    assert tab.input_value("#article") == "Another article.\n"


def test_the_skip_link_leads_to_the_form(compared, visit):
    tab = visit(compared)
    tab.keyboard.press("Tab")
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "content"


def test_a_screen_reader_finds_names_headings_and_news(compared, alone, visit, monkeypatch):
    writes(compared, monkeypatch, WRITTEN)
    tab = visit(compared)
    summarized(tab)
    assert nameless(tab, 4) == []
    assert nameless(visit(alone), 5) == []
    levels = tab.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(h => [h.tagName, h.textContent])")
    assert [level for level, _ in levels] == ["H1", "H2", "H3", "H3", "H3"]
    assert tab.locator("#status").get_attribute("role") == "status"
    assert tab.locator("#error").get_attribute("role") == "alert"
    assert tab.evaluate("document.documentElement.lang") == "en"
    names = list(compared.service.models)
    for name in names:
        assert tab.get_by_role("article", name=name, exact=True).is_visible()
    for landmark in ("main", "banner"):
        assert tab.get_by_role(landmark).count() == 1
    assert tab.get_by_role("region", name="Summaries").is_visible()
    described = tab.locator("#article").get_attribute("aria-describedby").split()
    assert all(tab.locator(f"#{part}").count() == 1 for part in described)
    assert tab.evaluate("new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size") == (
        tab.locator("[id]").count()
    )


def test_failures_are_said_in_words(compared, alone, visit, monkeypatch):
    tab = visit(compared)
    tab.locator("#article").fill("   ")
    tab.get_by_role("button", name="Summarize").click()
    expect(tab.get_by_role("alert")).to_have_text("Paste an article first.")
    tab.locator("#article").fill("é😀" * 2_501)
    assert tab.locator("#size").inner_text() == "5,002 of 5,000 characters"
    tab.get_by_role("button", name="Summarize").click()
    expect(tab.get_by_role("alert")).to_contain_text("too long: 5,002 of 5,000 characters")
    assert tab.evaluate("document.activeElement.id") == "article"

    def broken(articles: list[str]):
        raise RuntimeError("inside")

    for model in compared.service.models.values():
        monkeypatch.setattr(model.batcher, "summarize", broken)
    tab.locator("#article").fill(ARTICLE)
    tab.keyboard.press("Control+Enter")
    expect(tab.get_by_role("alert")).to_have_text("the service failed; its log says why")
    tab.context.set_offline(True)
    tab.keyboard.press("Control+Enter")
    expect(tab.get_by_role("alert")).to_have_text("The service does not answer. Is it running?")
    assert not tab.locator("#results").is_visible() and tab.locator("#status").inner_text() == ""


def test_the_key_is_asked_for_sent_and_not_kept(alone, visit):
    tab = visit(alone)
    tab.locator("#article").fill(ARTICLE)
    tab.get_by_role("button", name="Summarize").click()
    assert tab.evaluate("document.activeElement.id") == "key"  # the browser asks for the required field
    tab.get_by_label("API key").fill("wrong")
    tab.keyboard.press("Enter")
    expect(tab.get_by_role("alert")).to_contain_text("expected `Bearer KEY`")
    tab.get_by_label("API key").fill(KEY)
    tab.keyboard.press("Enter")
    expect(tab.locator("#status")).to_have_text("1 summary below.")
    tab.get_by_role("button", name="Clear").click()
    assert tab.get_by_label("API key").input_value() == KEY  # Clear empties the article alone
    assert tab.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    assert tab.locator("#key").get_attribute("type") == "password"


def test_a_new_request_takes_the_place_of_the_old_one(compared, visit, monkeypatch):
    release = threading.Event()

    def summarize(articles: list[str]) -> list[Summary]:
        if "first" in articles:
            release.wait(PATIENCE)
        return [Summary(article, "ok", True, 1, 1, 0, ()) for article in articles]

    for model in compared.service.models.values():
        monkeypatch.setattr(model.batcher, "summarize", summarize)
    tab = visit(compared)
    tab.locator("#article").fill("first")
    tab.keyboard.press("Control+Enter")
    expect(tab.locator("#status")).to_have_text("Summarizing…")
    tab.locator("#article").fill("second")
    tab.keyboard.press("Control+Enter")
    release.set()
    expect(tab.locator("#status")).to_contain_text("below")
    assert outputs(tab) == ["second", "second"] and tab.locator("#document").inner_text() == "second"


def test_hostile_text_is_shown_and_never_run(compared, visit, monkeypatch):
    every = "\n".join(text for text in NASTY if "\ud83d" not in text)
    writes(compared, monkeypatch, every)
    tab = visit(compared)
    summarized(tab, every)
    tab.wait_for_timeout(100)  # an image's onerror comes later
    assert tab.evaluate("window.hacked") is None
    assert tab.locator("main img, main svg, main script, [onload], [onerror]").count() == 0
    shown = [tab.locator(place).first.evaluate("e => e.textContent") for place in (".output", "#document")]
    assert all("<img src=x onerror=window.hacked=1>" in text for text in shown)
    tab.locator("#article").evaluate("e => { e.value = 'lone \\ud83d surrogate'; }")
    tab.get_by_role("button", name="Summarize").click()
    expect(tab.get_by_role("alert")).to_contain_text("half of a surrogate pair at character 5")


def test_the_policy_stops_a_script_that_gets_in(compared, browser):
    with browser.new_context() as context:
        tab, messages = context.new_page(), []
        tab.on("console", lambda message: messages.append(message.text))
        tab.route(
            compared.url + "/",
            lambda route: route.fulfill(
                response=(answer := route.fetch()),
                body=answer.text().replace("</main>", f"{NASTY[0]}<style>p {{ color: red }}</style></main>"),
            ),
        )
        tab.goto(compared.url)
        assert tab.evaluate("window.hacked") is None and len(messages) == 2
        assert all("Content Security Policy" in message for message in messages)
        assert (
            tab.evaluate("fetch('https://example.invalid').then(() => 'fetched', () => 'refused')")
            == "refused"
        )


@pytest.mark.parametrize("width", [320, 400, 768])
def test_a_narrow_screen_scrolls_in_one_direction_only(compared, visit, monkeypatch, width):
    writes(compared, monkeypatch, f"{WRITTEN} {'A' * 200}")
    tab = visit(compared, viewport={"width": width, "height": 740})
    fits = "document.scrollingElement.scrollWidth <= innerWidth"
    assert tab.evaluate(fits)
    summarized(tab, f"{ARTICLE} {'https://' + 'x' * 300}")
    assert tab.evaluate(fits)
    for control in tab.locator("textarea, button").all():
        box = control.bounding_box()
        assert box["height"] >= 40 and box["x"] >= 0 and box["x"] + box["width"] <= width


# For each element with text of its own: its text, its colour and the colour behind it, as [r, g, b, a].
COLOURS = """() => {
  const parse = (text) => {
    const numbers = text.match(/[\\d.]+/g).map(Number);
    return numbers.length === 3 ? [...numbers, 1] : numbers;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour[3] === 1) return colour;
      if (colour[3] !== 0) throw new Error("a colour that lets others through");
    }
    return [255, 255, 255, 1];
  };
  const speaks = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll("body *")]
    .filter((e) => speaks(e) && e.checkVisibility())
    .map((e) => [e.textContent.trim().slice(0, 40), parse(getComputedStyle(e).color), behind(e)]);
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_contrast(compared, alone, visit, monkeypatch, scheme):
    writes(compared, monkeypatch, WRITTEN, "")
    tab = visit(compared, color_scheme=scheme)
    summarized(tab)
    found = tab.evaluate(COLOURS)
    tab.locator("#article").fill("x" * 5_001)
    tab.keyboard.press("Control+Enter")
    expect(tab.get_by_role("alert")).to_be_visible()
    found += tab.evaluate(COLOURS) + visit(alone, color_scheme=scheme).evaluate(COLOURS)
    assert len(found) > 50

    def as_hex(colour: list[float]) -> str:
        return "#" + "".join(f"{round(part):02x}" for part in colour[:3])

    assert [text for text, front, back in found if contrast(as_hex(front), as_hex(back)) < 4.5] == []
    assert {as_hex(back) for _, _, back in found} & {"#f6f7f8" if scheme == "light" else "#14171a"}


def test_the_page_reloads_when_the_model_is_ready(browser, tmp_path):
    exported = export_base(tmp_path / "tiny")
    serving, begin = Serving(listen("127.0.0.1", 0), Limits()), threading.Event()
    serving.service.executor.submit(begin.wait, PATIENCE)  # the model is loaded after it
    thread = threading.Thread(target=serving.run, args=(str(exported),), daemon=True)
    thread.start()
    try:
        with browser.new_context() as context:
            tab = context.new_page()
            tab.goto(serving.url)
            assert "reloads when the model is ready" in tab.get_by_role("status").inner_text()
            begin.set()
            expect(tab.get_by_label("Article", exact=True)).to_be_visible(timeout=20_000)
    finally:
        begin.set()
        serving.stop()
        thread.join(PATIENCE)


def test_without_javascript_the_page_says_what_to_do(compared, visit):
    tab = visit(compared, java_script_enabled=False)
    assert "onesentence summarize" in tab.locator("noscript").inner_text()


def test_the_page_refers_to_files_of_the_service_alone(compared):
    html = request(compared, "GET", "/").text
    addresses = re.findall(r'(?:src|href|action)="(?!#|data:)([^"]*)"', html)
    assert addresses == ["assets/report.css", "assets/try.css", "assets/try.js"]
    for address in addresses:
        answer = request(compared, "GET", f"/{address}")
        assert answer.status == 200 and answer.headers.get_content_type() in ("text/css", "text/javascript")
    assert re.findall(r"\b(?:https?:|//\w+\.)|\sstyle=|\son\w+=", html) == []
    for file in OWN.iterdir():
        assert not re.search(r"innerHTML|insertAdjacentHTML|eval\(|https?:", file.read_text())
