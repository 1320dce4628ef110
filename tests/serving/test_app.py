"""The service over HTTP: what it answers, what it refuses, and that it mixes nothing up under load."""

import http.client
import json
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import pytest
from conftest import ROOT
from running import PATIENCE, export_base, mixed_articles, read, request, running

from onesentence.core.errors import UserError
from onesentence.generation.smoke_test import BrokenModelError
from onesentence.inference.summarizer import Summarizer
from onesentence.serving.app import find_models, public_name
from onesentence.serving.limits import Limits
from onesentence.serving.requests import NEUTRAL

SMALL = Limits(max_body_bytes=20_000, max_articles=4, max_characters=5_000, queue=64)
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_base(tmp_path_factory.mktemp("exported") / "tiny")


@pytest.fixture(scope="module")
def articles(pairs) -> list[str]:
    return mixed_articles(pairs)


@pytest.fixture(scope="module")
def serving(exported):
    with running(exported, SMALL) as serving:
        yield serving


@pytest.fixture(scope="module")
def direct(exported, articles):
    """The Summary of each article, each summarized alone, without the service."""
    summarizer = Summarizer.load(exported)
    return {article: summarizer.summarize([article])[0] for article in articles}


def as_json(summary) -> dict:
    return json.loads(json.dumps(asdict(summary)))


def refusal(answer, status: int, *words: str) -> None:
    """The answer is one JSON error of that status with the words, without markup or a traceback."""
    assert answer.status == status, answer.text
    assert list(answer.value) == ["error"]
    error = answer.value["error"]
    assert list(error) == ["message", "type", "param", "code"]
    for word in words:
        assert word in error["message"]
    assert "Traceback" not in answer.text and ".py" not in answer.text
    assert answer.text.isascii() and not set("<>&") & set(answer.text)


# What it answers


def test_one_article_and_several_get_the_summaries_of_the_pipeline(serving, articles, direct):
    one = request(serving, "POST", "/summarize", {"article": articles[0]})
    assert one.status == 200
    assert one.value == {"model": serving.name, "summaries": [as_json(direct[articles[0]])]}
    several = request(serving, "POST", "/summarize", {"articles": articles[3:7]})
    assert several.value["summaries"] == [as_json(direct[article]) for article in articles[3:7]]


def test_an_article_that_was_cut_and_unsupported_words_are_reported(serving, articles, direct):
    cut = [article for article in articles if direct[article].document_tokens_cut and len(article) < 5_000]
    assert cut
    entry = request(serving, "POST", "/summarize", {"article": cut[0]}).value["summaries"][0]
    assert entry["document_tokens_cut"] == direct[cut[0]].document_tokens_cut > 0
    assert entry["unsupported"] == list(direct[cut[0]].unsupported)


def test_marks_cut_both_texts_where_the_report_would(serving, articles):
    entry = request(serving, "POST", "/summarize", {"article": articles[0], "marks": True}).value[
        "summaries"
    ][0]
    assert "".join(text for text, _ in entry["marks"]["document"]) == articles[0]
    assert "".join(text for text, _ in entry["marks"]["text"]) == entry["text"]
    kinds = {kind for _, kinds in entry["marks"]["text"] for kind in kinds.split()}
    assert kinds <= {"copied", "number", "name"}


def test_completions_have_openais_form_and_add_up_the_tokens(serving, articles, direct):
    answer = request(
        serving, "POST", "/v1/completions", {"model": serving.name, "prompt": articles[:3]}
    ).value
    wanted = [direct[article] for article in articles[:3]]
    assert [choice["text"] for choice in answer["choices"]] == [summary.text for summary in wanted]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["finish_reason"] for choice in answer["choices"]} <= {"stop", "length"}
    read, written = (sum(getattr(s, key) for s in wanted) for key in ("input_tokens", "output_tokens"))
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    assert answer["usage"] == usage and answer["object"] == "text_completion"


def test_openais_client_lists_the_models_and_gets_a_completion(serving, articles, direct):
    openai = pytest.importorskip("openai", reason="the client of OpenAI is not installed")
    with openai.OpenAI(
        base_url=f"{serving.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as client:
        assert [model.id for model in client.models.list()] == [serving.name]
        assert client.models.retrieve(serving.name).owned_by == "onesentence"
        answer = client.completions.create(model=serving.name, prompt=articles[1], temperature=0)
        assert answer.choices[0].text == direct[articles[1]].text
        assert answer.usage.completion_tokens == direct[articles[1]].output_tokens
        with pytest.raises(openai.UnprocessableEntityError, match="temperature: expected 0"):
            client.completions.create(model=serving.name, prompt=articles[1], temperature=0.7)
        with pytest.raises(openai.NotFoundError, match="not served here"):
            client.completions.create(model="gpt", prompt=articles[1])


def test_metrics_count_requests_tokens_and_batches(exported, articles):
    prometheus = pytest.importorskip("prometheus_client.parser")
    with running(exported) as serving:
        request(serving, "POST", "/summarize", {"articles": articles[:5]})
        request(serving, "POST", "/summarize", {"article": ""})
        request(serving, "GET", "/made-up-by-a-client")
        answer = request(serving, "GET", "/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        samples = {
            (sample.name.removeprefix("onesentence_"), *sample.labels.values()): sample.value
            for family in prometheus.text_string_to_metric_families(answer.text)
            for sample in family.samples
            if sample.name.startswith("onesentence_")
        }
        name = serving.name
    assert (
        samples["requests_total", "/summarize", "200"] == samples["requests_total", "/summarize", "422"] == 1
    )
    assert samples["requests_total", "other", "404"] == 1
    assert samples["request_seconds_count", "/summarize"] == 2
    assert samples["batch_articles_sum", name] == 5
    assert samples["queue_articles", name] == 0
    assert sum(value for key, value in samples.items() if key[:2] == ("summaries_total", name)) == 5
    assert samples["tokens_total", "read", name] > samples["tokens_total", "written", name] > 0


def test_what_is_wrong_with_a_model_is_said_in_the_options_of_this_command(exported, tmp_path):
    with pytest.raises(UserError, match=r"^--compare: .* holds one merged model"):
        find_models(str(exported), compare=True)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.raises(UserError, match="models/tuned: not found") as raised:
        find_models(str(tmp_path), compare=False)
    assert "--model FOLDER" in str(raised.value) and "--untuned" not in str(raised.value)


def test_an_absolute_path_is_no_name_of_a_model():
    assert public_name("/home/someone/models/tiny") == "tiny"
    assert public_name("models/tuned") == "models/tuned"


# What it refuses


def post(serving, body, path="/summarize", **headers):
    return request(
        serving, "POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()}
    )


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "JSON"),
        (b'{"article": "a', 400, "JSON"),
        (b"[" * 10_000, 400, "brackets"),
        (b'{"article": "a text", "article": "another"}', 400, "key 'article' occurs twice"),
        (b'{"article": NaN}', 400, "NaN"),
        (b'{"n": ' + b"9" * 9_000 + b"}", 400, "JSON"),
        (b'["an article"]', 400, "expected a JSON object, found a list"),
        ('{"article": "é"}'.encode("latin-1"), 400, "UTF-8"),
        ('{"article": "a text"}'.encode("utf-16"), 400, "UTF-8"),
        ({}, 422, "found neither"),
        ({"article": "a", "articles": ["a"]}, 422, "found both"),
        ({"article": None}, 422, "article: expected a text, found null"),
        ({"article": ["a"]}, 422, "article: expected a text, found a list"),
        ({"article": " \n\t"}, 422, "empty"),
        ({"article": "x" * 5_001}, 413, "5,000 characters, found 5,001"),
        ({"article": "a\0b"}, 422, "NUL at character 1"),
        (b'{"article": "ab\\ud83d"}', 422, "surrogate pair at character 2"),
        ({"articles": []}, 422, "empty list"),
        ({"articles": "a"}, 422, "found a string"),
        ({"articles": ["a", 3]}, 422, "articles[1]: expected a text, found a number"),
        ({"articles": ["a"] * 5}, 413, "at most 4 articles, found 5"),
        ({"artcle": "a"}, 422, "did you mean 'article'?"),
        ({"<script>alert(1)</script>\u202e": "a"}, 422, "script"),
        ({"article": "a", "marks": 1}, 422, "marks: expected true or false"),
        ({"article": "a", "model": 7}, 422, "model: expected a name"),
        ({"article": "a", "model": "../../etc/passwd"}, 404, "not served here"),
        ({"article": "a", "max_tokens": 3}, 422, "max_tokens: unknown key"),
    ],
)
def test_a_body_that_is_wrong_gets_one_error_that_names_the_fault(serving, body, status, words):
    refusal(post(serving, body), status, words)


CHANGES = {
    "best_of": 2,
    "echo": True,
    "frequency_penalty": 0.1,
    "logit_bias": {"50256": -100},
    "logprobs": 0,
    "max_tokens": 7,
    "n": 2,
    "presence_penalty": -1,
    "seed": "x",
    "stop": ["\n"],
    "stream": True,
    "stream_options": {"include_usage": True},
    "suffix": "!",
    "temperature": 1,
    "top_p": 0.9,
    "user": 1,
}


@pytest.mark.parametrize("key", CHANGES)
def test_a_parameter_that_would_change_the_decoding_is_refused_and_not_ignored(serving, key):
    answer = post(serving, {"prompt": "An article.", key: CHANGES[key]}, "/v1/completions")
    refusal(answer, 422, f"{key}: expected ")
    assert answer.value["error"]["param"] == key


def test_parameters_that_change_nothing_are_taken(serving):
    neutral = {"best_of": 1, "echo": False, "frequency_penalty": 0, "logit_bias": {}, "n": 1, "stop": []}
    neutral |= {"presence_penalty": 0.0, "seed": 7, "stream": False, "suffix": "", "temperature": 0.0}
    neutral |= {"top_p": 1, "user": "me"}
    assert set(neutral) == set(NEUTRAL)
    body = {"prompt": "An article.", "max_tokens": 8, **neutral}
    assert post(serving, body, "/v1/completions").status == 200
    assert post(serving, {**dict.fromkeys(body), "prompt": "An article."}, "/v1/completions").status == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "prompt: missing"),
        ({"prompt": [1, 2, 3]}, "found token ids"),
        ({"prompt": [[1, 2]]}, "found token ids"),
        ({"prompt": [""]}, "prompt[0]: expected an article"),
        ({"prompt": "a", "top_k": 5}, "top_k: unknown key"),
        ({"prompt": "a", "max_tokens": True}, "max_tokens: expected at least 8"),
        ({"prompt": "a", "n": True}, "n: expected 1"),
    ],
)
def test_a_completion_that_is_wrong_gets_one_error(serving, body, words):
    refusal(post(serving, body, "/v1/completions"), 422, words)


def test_other_media_types_are_refused_so_that_no_form_of_another_site_gets_through(serving):
    for media in ("text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""):
        refusal(post(serving, {"article": "a"}, Content_Type=media), 415, "application/json")
    assert post(serving, {"article": "a"}, Content_Type="Application/JSON; charset=UTF-8").status == 200
    refusal(post(serving, {"article": "a"}, Content_Encoding="gzip"), 415, "uncompressed")


def test_a_large_body_is_refused_by_its_length_and_without_one(serving):
    refusal(post(serving, b" " * 20_001), 413, "20,000 bytes")
    connection = http.client.HTTPConnection(*serving.address, timeout=PATIENCE)
    chunks = (b" " * 1_000 for _ in range(30))  # sent in chunks, without a length
    connection.request(
        "POST", "/summarize", chunks, {"Content-Type": "application/json"}, encode_chunked=True
    )
    refusal(read(connection), 413, "20,000 bytes")
    connection.close()


def test_unknown_addresses_and_methods_get_json_errors(serving):
    for path in (
        "/nothing",
        "/summarize/",
        "/../../etc/passwd",
        "/assets/..%2fapp.py",
        "/v1/models/none",
        "/%00",
    ):
        refusal(request(serving, "GET", path), 404)
    for method, path in (
        ("GET", "/summarize"),
        ("DELETE", "/health"),
        ("OPTIONS", "/summarize"),
        ("TRACE", "/"),
    ):
        answer = request(serving, method, path)
        refusal(answer, 405, f"expected {answer.headers['Allow']}, found {method}")
        assert answer.headers["Allow"]
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_a_request_that_is_no_http_gets_400_and_the_service_goes_on(serving):
    for raw in (
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\nHost\r\n\r\n",
        b"GET /\r\n" + b"A" * 100_000,
    ):
        with socket.create_connection(serving.address, timeout=PATIENCE) as client:
            client.sendall(raw)
            answer = client.recv(1_000)
            assert answer.startswith(b"HTTP/1.1 400 ") and b"Traceback" not in answer
    assert request(serving, "GET", "/health").status == 200


def test_every_answer_has_security_headers(serving):
    for path in ("/", "/health", "/nothing", "/metrics", "/assets/try.js"):
        headers = request(serving, "GET", path).headers
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
        assert headers["Cache-Control"] == "no-store" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "Server" not in headers and "unsafe" not in headers["Content-Security-Policy"]


def test_a_page_of_another_site_cannot_use_the_service_under_its_own_name(serving):
    refusal(request(serving, "GET", "/health", headers={"Host": "evil.example"}), 421, "localhost")
    for host in ("localhost:8000", f"127.0.0.1:{serving.address[1]}", "[::1]:80"):
        assert request(serving, "GET", "/health", headers={"Host": host}).status == 200


def test_without_the_key_only_the_page_and_health_answer(exported):
    with running(exported, SMALL, KEY) as serving:
        for path in ("/", "/health", "/assets/try.js"):
            assert request(serving, "GET", path).status == 200
        wrong = (None, "Bearer", f"Bearer {KEY[:-1]}", f"Bearer {KEY}x", f"Basic {KEY}", KEY, "Bearer \xe9")
        for value in wrong:
            headers = {} if value is None else {"Authorization": value}
            for method, path in (
                ("GET", "/metrics"),
                ("GET", "/v1/models"),
                ("POST", "/summarize"),
                ("GET", "/x"),
            ):
                answer = request(
                    serving, method, path, {"article": "a"} if method == "POST" else None, headers
                )
                refusal(answer, 401, "API key")
                assert answer.headers["WWW-Authenticate"] == "Bearer" and KEY not in answer.text
        right = {"Authorization": f"bearer {KEY}"}
        assert request(serving, "POST", "/summarize", {"article": "a"}, right).status == 200
        assert (
            request(serving, "GET", "/metrics", headers=right | {"Host": "summaries.example"}).status == 200
        )
        assert KEY not in request(serving, "GET", "/").text


# Load, time and failure


def test_32_clients_with_mixed_lengths_get_each_their_own_answer_and_the_same_as_alone(
    exported, articles, direct
):
    clients, each = 32, 10
    order = [random.Random(number).sample(articles, each) for number in range(clients)]
    with running(exported, Limits(queue=256, max_wait_ms=5)) as serving:

        def client(number: int) -> list[dict]:
            connection = http.client.HTTPConnection(*serving.address, timeout=PATIENCE)
            answers = []
            for article in order[number]:
                body = json.dumps({"article": article})
                connection.request("POST", "/summarize", body, {"Content-Type": "application/json"})
                answers += read(connection).value["summaries"]
            connection.close()
            return answers

        with ThreadPoolExecutor(clients) as pool:
            answers = list(pool.map(client, range(clients)))
        metrics = request(serving, "GET", "/metrics").text
    assert answers == [[as_json(direct[article]) for article in own] for own in order]
    batches = float(metrics.partition("onesentence_batch_articles_count")[2].split()[1])
    assert batches < clients * each / 4  # requests did share batches
    assert (
        len({summary.text for summary in direct.values()}) > len(articles) / 2
    )  # so that a mix-up would show


def hold(serving):
    """Keep the model busy until the returned function is called: what comes meanwhile waits in the queue."""
    release = threading.Event()
    serving.service.executor.submit(release.wait, PATIENCE)
    return release.set


def wait_until(condition) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def queue(serving) -> int:
    return len(next(iter(serving.service.models.values())).batcher)


def test_a_full_queue_refuses_with_the_time_to_ask_again_and_the_others_are_answered(
    exported, articles, direct, monkeypatch
):
    limits = Limits(queue=4, max_articles=4, max_batch=2)
    with running(exported, limits) as serving, ThreadPoolExecutor(8) as pool:
        release, given = hold(serving), []
        submit = serving.service.executor.submit
        monkeypatch.setattr(
            serving.service.executor, "submit", lambda *work: given.append(work) or submit(*work)
        )
        # One batch of two is taken out of the queue and waits for the model; four more fill the queue.
        first = pool.submit(post, serving, {"articles": articles[:2]})
        wait_until(lambda: len(given) == 1)
        sent = [pool.submit(post, serving, {"article": article}) for article in articles[2:6]]
        wait_until(lambda: queue(serving) == 4)
        answer = post(serving, {"article": "One too many."})
        refusal(answer, 503, "the queue is full")
        assert int(answer.headers["Retry-After"]) >= 1
        release()
        answers = first.result(PATIENCE).value["summaries"]
        answers += [future.result(PATIENCE).value["summaries"][0] for future in sent]
    assert answers == [as_json(direct[article]) for article in articles[:6]]


def test_a_request_that_takes_too_long_gets_504_and_its_article_is_dropped(exported):
    with running(exported, Limits(timeout=1, max_wait_ms=0)) as serving, ThreadPoolExecutor(2) as pool:
        release = hold(serving)
        first = pool.submit(post, serving, {"article": "Waits for the model."})
        time.sleep(0.2)
        second = pool.submit(post, serving, {"article": "Waits in the queue."})
        wait_until(lambda: queue(serving) == 1)
        for sent in (first, second):
            refusal(sent.result(PATIENCE), 504, "no answer within 1 s")
        assert queue(serving) == 0
        release()
        assert post(serving, {"article": "Asked later."}).status == 200


def test_a_body_that_never_ends_gets_408(exported):
    with running(exported, Limits(timeout=1)) as serving:
        with socket.create_connection(serving.address, timeout=PATIENCE) as client:
            head = "POST /summarize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            client.sendall(f'{head}Content-Length: 100\r\n\r\n{{"article'.encode())
            answer = b"".join(iter(lambda: client.recv(4_096), b""))  # to the end: the connection is closed
        assert answer.startswith(b"HTTP/1.1 408 ") and b"send it faster" in answer


def test_work_for_a_client_that_left_is_dropped(exported):
    with running(exported, Limits(max_wait_ms=0, max_batch=1)) as serving:
        release = hold(serving)
        connections = []
        for _ in range(3):
            connection = http.client.HTTPConnection(*serving.address, timeout=PATIENCE)
            connection.request(
                "POST", "/summarize", b'{"article": "a"}', {"Content-Type": "application/json"}
            )
            connections.append(connection)
        wait_until(lambda: queue(serving) == 2)
        for connection in connections:
            connection.close()
        wait_until(lambda: queue(serving) == 0)
        release()
        assert post(serving, {"article": "Still here."}).status == 200


def test_an_article_that_the_prompt_has_no_room_for_is_refused_and_the_others_of_its_batch_are_not(
    exported, articles, direct
):
    """The model fails for one article of a batch."""
    with running(exported, Limits(max_wait_ms=200)) as serving, ThreadPoolExecutor(8) as pool:
        batcher = next(iter(serving.service.models.values())).batcher
        summarize = batcher.summarize

        def failing(texts: list[str]):
            if "unfit" in texts:
                raise UserError("article: it does not fit")
            if "broken" in texts:
                raise RuntimeError("secret of the inside")
            if "not a number" in texts:
                raise BrokenModelError("article 1: the summary by /secret/model stopped")
            return summarize(texts)

        batcher.summarize = failing
        texts = [*articles[:4], "unfit", "broken", "not a number"]
        answers = list(pool.map(lambda text: post(serving, {"article": text}), texts))
    assert [answer.value["summaries"][0] for answer in answers[:4]] == [
        as_json(direct[t]) for t in articles[:4]
    ]
    refusal(answers[4], 422, "does not fit")
    for answer in answers[5:]:
        refusal(answer, 500, "its log says why")
        assert "secret" not in answer.text


def test_until_the_smoke_test_has_passed_only_health_and_the_page_answer(exported):
    from onesentence.serving.server import Serving, listen

    serving = Serving(listen("127.0.0.1", 0), Limits())
    begin = threading.Event()
    serving.service.executor.submit(begin.wait, PATIENCE)  # the model is loaded after it
    thread = threading.Thread(target=serving.run, args=(str(exported),), daemon=True)
    thread.start()
    try:
        wait_until(lambda: serving.server.started)
        answer = request(serving, "GET", "/health")
        assert (answer.status, answer.value) == (503, {"status": "starting"})
        answer = post(serving, {"article": "Too early."})
        refusal(answer, 503, "starting")
        assert answer.headers["Retry-After"] == "1"
        assert "reloads when the model is ready" in request(serving, "GET", "/").text
        begin.set()
        wait_until(lambda: request(serving, "GET", "/health").status == 200)
        assert post(serving, {"article": "In time."}).status == 200
    finally:
        begin.set()
        serving.stop()
        thread.join(PATIENCE)


def test_a_model_that_writes_nothing_fails_the_smoke_test_and_ends_the_service(tmp_path):
    from safetensors.torch import load_file, save_file

    folder = export_base(tmp_path / "mute")
    weights = load_file(folder / "model.safetensors")
    eos = json.loads((folder / "config.json").read_text())["eos_token_id"]
    weights["lm_head.bias"][eos] = 1_000
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    settings = (folder / "summarization.json").read_text()
    (folder / "summarization.json").write_text(settings.replace('rate": 0.0', 'rate": 0.9'))
    with pytest.raises(UserError, match="succeeded on 0% of 3 articles"), running(folder):
        pass
