"""Ratings put together: rates by hand, alpha against published and hand-worked values, refusals."""

import json

import numpy as np
import pytest
from conftest import ROOT, command

from onesentence.commands import rate
from onesentence.commands.rate import agreement, lines, outcomes, read_all, summary
from onesentence.core.errors import UserError
from onesentence.report.render import ASSETS

TEST = "5f2b9c01"
LOSS, TIE, WIN, NONE = 0.0, 0.5, 1.0, np.nan


@pytest.fixture
def given(tmp_path):
    """given(by, ratings, **other keys): path of a file that says so."""

    def write(by: str, entries, name: str = "", **other):
        value = {
            "format": "one-sentence ratings 1",
            "rater": by,
            "test": TEST,
            "pair": ["tuned", "lead"],
            "ratings": entries,
            **other,
        }
        path = tmp_path / f"ratings-{name or by}.json"
        path.write_text(json.dumps(value))
        return path

    return write


def overall(**winners: str) -> list[dict]:
    """Ratings of one criterion: item=winner."""
    return [{"id": item, "overall": winner} for item, winner in winners.items()]


def test_rates_and_counts_by_hand(given):
    """Items: a (1 + 1) / 2 = 1; b (0.5 + 1) / 2 = 0.75; c 0; d 0.5. Mean 2.25 / 4 = 56.25%."""
    files = [
        given("Ann", overall(a="tuned", b="equal", c="lead", d="equal")),
        given("Bob", overall(b="tuned", a="tuned")),
    ]
    result = summary(read_all(files))
    assert (result["test"], result["raters"], list(result["pairs"])) == (TEST, 2, ["tuned-lead"])
    assert (result["confidence"], result["resamples"]) == (0.95, 2_000)
    pair = result["pairs"]["tuned-lead"]
    assert (pair["items"], pair["raters"], list(pair["criteria"])) == (4, 2, ["overall"])
    result = pair["criteria"]["overall"]
    assert result["win_rate"] == pytest.approx(56.25)
    assert {key: result[key] for key in ("n", "ratings", "wins", "losses", "ties")} == {
        "n": 4,
        "ratings": 6,
        "wins": 3,
        "losses": 1,
        "ties": 2,
    }
    assert 0 <= result["low"] < 56.25 < result["high"] <= 100
    assert result["bca_low"] < 56.25 < result["bca_high"]


def test_a_win_rate_has_an_interval_and_one_of_every_item_is_not_certain(given):
    winners = {f"i{k}": "tuned" if k < 8 else "lead" for k in range(12)}
    some_won = summary(read_all([given("Ann", overall(**winners))]))
    result = some_won["pairs"]["tuned-lead"]["criteria"]["overall"]
    assert 0 < result["low"] < result["win_rate"] < result["high"] < 100
    assert result["bca_low"] < result["win_rate"] < result["bca_high"]
    all_won = summary(read_all([given("Bob", overall(**dict.fromkeys(winners, "tuned")))]))
    result = all_won["pairs"]["tuned-lead"]["criteria"]["overall"]
    assert result["win_rate"] == result["high"] == 100 and 70 < result["low"] < 80  # Wilson's of 12 of 12
    all_tied = summary(read_all([given("Cyn", overall(**dict.fromkeys(winners, "equal")))]))
    result = all_tied["pairs"]["tuned-lead"]["criteria"]["overall"]
    assert 20 < result["low"] < result["win_rate"] == 50 < result["high"] < 80


def test_criteria_are_counted_apart(given):
    entries = [{"id": "a", "overall": "lead", "fluency": "tuned"}, {"id": "b", "fluency": "tuned"}]
    pair = summary(read_all([given("Ann", entries)]))["pairs"]["tuned-lead"]
    assert pair["items"] == 2 and list(pair["criteria"]) == ["overall", "fluency"]
    assert [(row["n"], row["win_rate"]) for row in pair["criteria"].values()] == [(1, 0), (2, 100)]
    ends = [(round(row["low"]), round(row["high"])) for row in pair["criteria"].values()]
    assert ends == [(0, 79), (34, 100)]  # Wilson's: one or two items show little
    assert all(row["bca_low"] is None for row in pair["criteria"].values())  # nothing varies


def test_a_pair_takes_the_direction_of_the_first_file(given):
    ann = given("Ann", overall(a="tuned", b="tuned", c="lead"))
    bob = given("Bob", overall(a="tuned", b="equal"), pair=["lead", "tuned"])
    forward = summary(read_all([ann, bob]))["pairs"]
    backward = summary(read_all([bob, ann]))["pairs"]
    assert list(forward) == ["tuned-lead"] and list(backward) == ["lead-tuned"]
    one, other = (
        forward["tuned-lead"]["criteria"]["overall"],
        backward["lead-tuned"]["criteria"]["overall"],
    )
    assert one["win_rate"] == pytest.approx(100 * (1 + 0.75 + 0) / 3)
    assert other["win_rate"] == pytest.approx(100 - one["win_rate"])
    assert (one["wins"], one["losses"]) == (other["losses"], other["wins"]) == (3, 1)
    assert one["alpha"] == pytest.approx(other["alpha"])


def test_the_order_of_the_files_moves_nothing(given):
    rng = np.random.default_rng(1)
    files = [
        given(
            name,
            overall(**{f"i{k}": str(rng.choice(["tuned", "lead", "equal"])) for k in range(start, 20)}),
        )
        for start, name in enumerate(["Ann", "Bob", "Cem"])
    ]
    assert summary(read_all(files)) == summary(read_all(files[::-1]))


def test_pairs_of_one_rater_are_kept_apart(given):
    files = [
        given("Ann", overall(a="tuned")),
        given("Ann", overall(a="base"), name="other", pair=["tuned", "base"]),
    ]
    result = summary(read_all(files))
    rates = {pair: entry["criteria"]["overall"]["win_rate"] for pair, entry in result["pairs"].items()}
    assert rates == {"tuned-lead": 100, "tuned-base": 0} and result["raters"] == 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """60 items whose true win rate is 0.5 x 0.3 + 0.5 = 65%: of 200 studies about 95% must cover it."""
    rng = np.random.default_rng(7)
    covered = 0
    for _ in range(200):
        values = rng.choice([WIN, TIE, LOSS], p=[0.5, 0.3, 0.2], size=(1, 60))
        row = rate.criterion_summary(values)
        covered += row["low"] <= 65 <= row["high"]
    assert 180 <= covered <= 199  # 190 +- 3.2 standard deviations of 3.1


def test_outcomes_by_hand(given):
    files = read_all([given("Ann", overall(b="lead", a="equal")), given("Bob", overall(c="tuned"))])
    result = outcomes(files["tuned", "lead"], "tuned", "overall")
    assert np.array_equal(result, [[TIE, LOSS, NONE], [NONE, NONE, WIN]], equal_nan=True)
    assert outcomes(files["tuned", "lead"], "tuned", "fluency").shape == (2, 0)


def test_alpha_is_the_published_one():
    """Four observers, twelve units, five values, gaps: ordinal alpha 0.815 (Krippendorff 2011)."""
    published = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NONE, NONE, NONE],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NONE, 3],
        [NONE, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NONE],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NONE],
    ]
    assert agreement(np.array(published)) == pytest.approx(0.815, abs=0.0005)


def test_alpha_by_hand():
    """Two raters, four shared items: WW, WT, LL, TT.

    Values: L 2, T 3, W 3, of n = 8. Ordinal distances squared, all the values from one to the other less
    half of the two at the ends: LT (5 - 2.5)^2 = 6.25, TW (6 - 3)^2 = 9, LW (8 - 2.5)^2 = 30.25.
    Observed: the one WT, 9. Expected: (2 x 3 x 6.25 + 3 x 3 x 9 + 2 x 3 x 30.25) / (8 - 1) = 300 / 7.
    Alpha = 1 - 9 x 7 / 300 = 0.79. Items of one rater alone change nothing.
    """
    values = np.array([[WIN, WIN, LOSS, TIE, LOSS, NONE], [WIN, TIE, LOSS, TIE, NONE, WIN]])
    assert agreement(values) == pytest.approx(0.79)
    nearer = agreement(np.array([[WIN, WIN, LOSS, TIE], [WIN, LOSS, LOSS, TIE]]))
    assert nearer < 0.79  # a loss against a win is more than a tie against a win


@pytest.mark.parametrize(
    "values",
    [
        [[WIN, LOSS, TIE]],  # one rater
        [[WIN, LOSS, NONE], [NONE, NONE, TIE]],  # no item in common
        [[WIN, WIN], [WIN, WIN]],  # no variation: 0 / 0
        [[WIN, LOSS], [WIN, NONE]],  # none among the items in common
    ],
)
def test_alpha_is_none_where_it_is_undefined(values):
    assert agreement(np.array(values)) is None


A = [{"id": "a", "overall": "tuned"}]


@pytest.mark.parametrize(
    ("entries", "other", "message"),
    [
        (A, {"format": "ratings 2"}, r"format: expected 'one-sentence ratings 1', found 'ratings 2'"),
        (A, {"rater": " "}, r"rater: expected a name, found ' '"),
        (A, {"test": "XYZ"}, r"test: expected a hash in hexadecimal, found 'XYZ'"),
        (A, {"test": None}, r"test: expected a hash in hexadecimal, found None"),
        (A, {"pair": ["tuned"]}, r"pair: expected the names of two different systems, found \['tuned'\]"),
        (A, {"pair": ["tuned", "tuned"]}, r"pair: .* two different systems"),
        (A, {"pair": ["tuned", "equal"]}, r"pair: .* two different systems"),
        (A, {"pair": ["tuned", "a-b"]}, r"pair: .* two different systems"),
        ([], {}, r"ratings: expected a list of at least one rating, found \[\]"),
        ({"a": "tuned"}, {}, r"ratings: expected a list of at least one rating, found \{"),
        (["a"], {}, r"rating 1: expected an item's `id` and its criteria, found 'a\'"),
        ([{"overall": "tuned"}], {}, r"rating 1: .*expected an item's `id`"),
        ([{"id": "a"}], {}, r"rating 1, item 'a': expected at least one criterion of .*, found none"),
        (
            [*A, {"id": "b", "style": "lead"}],
            {},
            r"rating 2, item 'b': expected a criterion of .*, found 'style'",
        ),
        (
            [{"id": "a", "overall": "base"}],
            {},
            r"item 'a': overall: expected 'tuned', 'lead' or 'equal', found 'base'",
        ),
        ([{"id": "a", "overall": ["lead"]}], {}, r"item 'a': overall: expected .*, found \['lead'\]"),
        ([*A, *A], {}, r"item 'a': expected one rating, found two"),
    ],
)
def test_refuses_a_bad_file_and_names_what_is_wrong(given, entries, other, message):
    path = given("Ann", entries, **other)
    with pytest.raises(UserError, match=message) as refused:
        read_all([path])
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not json", b'{"format": ', b"\xff\xfe", b"[]", b"3"])
def test_refuses_what_is_no_file_of_ratings(tmp_path, content):
    path = tmp_path / "ratings-Ann.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"(name a file of ratings|expected 'one-sentence ratings 1')"):
        read_all([path])
    with pytest.raises(UserError, match=r"gone\.json: No such file"):
        read_all([tmp_path / "gone.json"])


def test_refuses_files_that_do_not_go_together(given):
    first = given("Ann", A)
    with pytest.raises(
        UserError, match=r"Bob\.json: test: expected '5f2b9c01' as in .*Ann\.json, found 'ffff'"
    ):
        read_all([first, given("Bob", A, test="ffff")])
    for pair in (["tuned", "lead"], ["lead", "tuned"]):
        with pytest.raises(UserError, match=r"copy\.json: rater 'Ann' rated .* in .*Ann\.json too"):
            read_all([first, given("Ann", A, name="copy", pair=pair)])


def test_the_command_writes_the_result_and_says_it(given, tmp_path):
    files = [
        given("Ann", overall(a="tuned", b="equal", c="lead", d="equal")),
        given("Bob", overall(b="tuned", a="tuned")),
    ]
    output = tmp_path / "metrics/rate.json"
    message = command(ROOT, "rate", *map(str, files), "--output", str(output)).stdout
    result = summary(read_all(files))
    written = json.loads(output.read_text())
    assert written["pairs"]["tuned-lead"]["criteria"]["overall"]["win_rate"] == 56.25
    assert list(written) == list(result) and message.splitlines()[:-1] == lines(result)
    assert message.startswith("tuned-lead overall: win rate 56.2% [")
    assert "3 wins, 2 ties, 1 losses on 4 items by 2 raters, alpha " in message


def test_the_command_fails_with_one_sentence_and_writes_nothing(given, tmp_path):
    path, output = given("Ann", [{"id": "a", "overall": "B"}]), tmp_path / "rate.json"
    failed = command(ROOT, "rate", str(path), "--output", str(output), check=False)
    assert failed.returncode == 1 and failed.stdout == "" and not output.exists()
    assert failed.stderr == (
        f"error: {path}: rating 1, item 'a': overall: expected 'tuned', 'lead' or 'equal', found 'B'\n"
    )


def test_the_page_and_the_stage_name_the_same_format():
    assert f'"{rate.FORMAT}"' in (ASSETS / "report.js").read_text()
