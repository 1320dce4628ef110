"""Copying, numbers, names and repetition by hand, and against brute force from the definitions."""

import random
import time
import unicodedata

import pytest

from onesentence.evaluation.extraction import (
    Article,
    canonical_number,
    extraction_scores,
    form_scores,
    name_spans,
    number_spans,
    output_marks,
    segments,
    word_spans,
)

# Emoji, a flag of two characters, a combining accent, a letter whose lower case is longer, white space at
# which str.splitlines cuts, right-to-left text.
STRANGE = [
    "\U0001f600",
    "\U0001f1ec\U0001f1e7",
    "Cafe\u0301",
    "\u0130stanbul",
    "\u2028",
    "\x85",
    "\u05e9\u05dc",
    "\u00df",
]


def cut(text: str, spans: list[tuple[int, int]]) -> list[str]:
    return [text[start:end] for start, end in spans]


def words(text: str) -> list[str]:
    """What onesentence.core.text.words returns for the texts here, from the general categories of Unicode."""
    tokens, inside = [], False
    for character in text:
        if character in "\U0001f600\U0001f1ec":
            tokens.append(character)
            inside = False
        elif character == "\U0001f1e7":  # the second half of a flag
            tokens[-1] += character
        elif unicodedata.category(character)[0] in "LMN" or character == "_":
            tokens = [*tokens[:-1], tokens[-1] + character] if inside else [*tokens, character]
            inside = True
        else:
            inside = False
    return [unicodedata.normalize("NFC", word.casefold()).replace("i\u0307", "i") for word in tokens]


def random_texts(seed: int) -> tuple[str, str]:
    """(article, output) of few different words, so that runs repeat and overlap; half of an output copied."""
    rng = random.Random(seed)
    vocabulary = [*"abcde"[: rng.randint(2, 5)], *rng.sample([*STRANGE, "Bob", "1,000", "10th", "2.50"], 4)]

    def draw(longest: int) -> list[str]:
        return [rng.choice(vocabulary) for _ in range(rng.randint(0, longest))]

    article, output = draw(40), draw(6)
    for _ in range(rng.randint(0, 3)):
        start = rng.randint(0, len(article))
        output += article[start : start + rng.randint(1, 8)] + draw(3)
    gaps = [" ", ", ", ". ", "\n\n", ' "', "-"]
    return tuple("".join(word + rng.choice(gaps) for word in side) for side in (article, output))


def occurs_in(part: list[str], whole: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))


# Copying.


def greedy_fragments(article: list[str], output: list[str]) -> list[list[str]]:
    """Shared fragments as Grusky et al. 2018 define them: from the left, the longest one each time."""
    fragments, place = [], 0
    while place < len(output):
        shared = [
            output[place:end]
            for end in range(place + 1, len(output) + 1)
            if occurs_in(output[place:end], article)
        ]
        if shared:
            fragments.append(shared[-1])
        place += len(shared) or 1  # every beginning of a shared run is shared too
    return fragments


def longest_common_run(article: list[str], output: list[str]) -> int:
    runs = (output[i:j] for i in range(len(output)) for j in range(i + 1, len(output) + 1))
    return max((len(run) for run in runs if occurs_in(run, article)), default=0)


@pytest.mark.parametrize("seed", range(60))
def test_copying_of_random_texts_by_brute_force(seed):
    text, output = random_texts(seed)
    article, tokens = words(text), words(output)
    fragments = greedy_fragments(article, tokens)
    scores = extraction_scores(Article(text), output)
    n = len(tokens)
    if n == 0:
        assert all(value is None for value in scores.values())
        return
    assert scores["coverage"] == pytest.approx(100 * sum(map(len, fragments)) / n)
    assert scores["density"] == pytest.approx(sum(len(fragment) ** 2 for fragment in fragments) / n)
    assert scores["compression"] == pytest.approx(len(article) / n)
    assert scores["longest_copy"] == longest_common_run(article, tokens)
    assert scores["verbatim"] == 100 * occurs_in(tokens, article)
    for size in (1, 2, 3, 4):
        grams = {" ".join(tokens[k : k + size]) for k in range(n - size + 1)}
        new = [gram for gram in grams if not occurs_in(gram.split(" "), article)]
        assert scores[f"novel_{size}"] == (pytest.approx(100 * len(new) / len(grams)) if grams else None)


def test_the_random_texts_cover_all_cases():
    scores = [extraction_scores(Article(text), output) for text, output in map(random_texts, range(60))]
    verbatim = {entry["verbatim"] for entry in scores}
    assert verbatim == {None, 0, 100}
    assert len({entry["longest_copy"] for entry in scores}) > 5
    assert any(entry["coverage"] not in (None, 0, 100) for entry in scores)


def test_copying_by_hand():
    article = Article("The cat sat on the mat. A dog ran by.")  # 10 words
    scores = extraction_scores(article, "The cat sat by the dog.")
    # Fragments: "the cat sat", "by", "the", "dog".
    assert scores["coverage"] == 100
    assert scores["density"] == (9 + 1 + 1 + 1) / 6
    assert scores["compression"] == 10 / 6
    assert (scores["longest_copy"], scores["verbatim"]) == (3, 0)
    # Bigrams: the-cat, cat-sat, sat-by, by-the, the-dog: the last three are new. Trigrams: all but the first.
    assert (scores["novel_1"], scores["novel_2"], scores["novel_3"]) == (0, 60, 75)
    assert scores["novel_4"] == 100


def test_an_output_of_new_words_copies_nothing():
    scores = extraction_scores(Article("one two three"), "four five")
    assert (scores["coverage"], scores["density"], scores["longest_copy"], scores["verbatim"]) == (0, 0, 0, 0)
    assert (scores["novel_1"], scores["novel_2"], scores["novel_3"]) == (100, 100, None)
    empty = extraction_scores(Article(""), "four five")
    assert (empty["coverage"], empty["compression"], empty["novel_2"]) == (0, 0, 100)


def test_verbatim_is_one_span_of_the_article_whatever_its_case_and_punctuation():
    article = Article("It rained, and THE CAT sat (on a mat).")
    assert extraction_scores(article, "The cat sat on a mat.")["verbatim"] == 100
    assert extraction_scores(article, "It rained. The cat sat.")["verbatim"] == 0  # "and" is left out
    assert extraction_scores(article, "mat")["verbatim"] == 100


@pytest.mark.parametrize(
    ("article", "copied", "new"),
    [
        ("昨日，猫坐在垫子上。狗在公园里跑。", "猫坐在垫子上", "天空很蓝"),
        ("แมวนั่งบนเสื่อ สุนัขวิ่ง", "นั่งบนเสื่อ", "ฟ"),
        ("जो बिल्ली चटाई पर बैठी।", "बिल्ली चटाई पर", "आसमान नीला"),
        ("וגם החתול ישב על השטיח.", "החתול ישב על", "שמים כחולים"),
        ("ثم جلس القط على السجادة.", "جلس القط على", "سماء زرقاء"),
        ("Вчера кошка сидела на коврике.", "КОШКА сидела на", "небо синее"),
        ("Χθες η γάτα κάθισε εδώ.", "Η ΓΆΤΑ ΚΆΘΙΣΕ", "μπλε ουρανός"),
        ("Dort traf Mu\u0308ller den Bären.", "traf M\u00fcller den Bären", "Möller Bur"),
        ("Tokyo has \uff11\uff12 towers now", "tokyo has 12 towers", "the sky"),
        ("so 😀 👍🏽 ❤️ it is", "😀 👍🏽 ❤", "🙁 🇬🇧"),
    ],
)
def test_copying_in_any_script(article, copied, new):
    scores = extraction_scores(Article(article), copied)
    assert (scores["novel_1"], scores["novel_2"], scores["verbatim"], scores["coverage"]) == (0, 0, 100, 100)
    scores = extraction_scores(Article(article), new)
    assert (scores["novel_1"], scores["verbatim"], scores["coverage"]) == (100, 0, 0)


def test_lengths_in_scripts_without_blanks_are_in_characters():
    scores = extraction_scores(Article("猫坐在垫子上，狗在跑。"), "猫在跑")  # 9 characters, 3
    assert scores["compression"] == 3 and scores["longest_copy"] == 2
    assert form_scores("猫在跑", "猫坐在垫子上")["length_ratio"] == 1 / 2


def test_matches_are_the_longest_at_their_first_place():
    rng = random.Random(0)
    for _ in range(300):
        text, output = ([rng.choice("abc"[: rng.randint(1, 3)]) for _ in range(30)] for _ in "ab")
        for start, match in enumerate(Article(" ".join(text)).longest_matches(output)):
            lengths = []
            for place in range(len(text)):
                pairs = zip(output[start:], text[place:], strict=False)
                lengths.append(next((k for k, (a, b) in enumerate(pairs) if a != b), None))
                if lengths[-1] is None:
                    lengths[-1] = min(len(output) - start, len(text) - place)
            best = max(lengths)
            assert match == (best, lengths.index(best) if best else 0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: "the",
        lambda rng: rng.choice("ab"),
        lambda rng: f"w{rng.randrange(3_000)}",
        lambda rng: "Bob.",
        lambda rng: "1,000 2.5",
        lambda rng: rng.choice("猫坐在垫子上"),
    ],
)
def test_the_time_for_20000_words_is_not_the_product_of_lengths(draw):
    rng = random.Random(0)
    text, output = (" ".join(draw(rng) for _ in range(20_000)) for _ in "ab")
    started = time.process_time()
    article = Article(text)
    extraction_scores(article, output)
    form_scores(output, text)
    marks, sources = output_marks(article, output)
    segments(output, marks)
    segments(text, {"copied": sources})
    assert time.process_time() - started < 3  # measured: 0.2 to 0.4 s


def test_a_fragment_is_the_longest_even_where_the_article_repeats_itself():
    # A single pass from the left that skips matches would miss "a a b" at 1 behind "a a" at 0.
    article = Article("a a a b")
    assert article.longest_matches(["a", "a", "b"])[0] == (3, 1)
    assert extraction_scores(article, "a a b")["verbatim"] == 100


@pytest.mark.parametrize("text", ["", " ", "\n", "...!"])
def test_an_output_without_a_word_is_undefined(text):
    scores = extraction_scores(Article("The cat sat."), text)
    assert set(scores.values()) == {None}
    assert form_scores(text, "A cat.") == {
        "words": 0,
        "length_ratio": 0,
        "distinct_2": None,
        "repeated_trigram": None,
    }
    assert output_marks(Article("The cat sat."), text) == ({"copied": [], "number": [], "name": []}, [])


# Numbers.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000 or 1000 or 3.5%", ["1,000", "1000", "3.5"]),
        ("in 2015-16, and 1998/99", ["2015", "16", "1998", "99"]),
        ("the 10th of 5", ["10", "5"]),
        ("float32, h2o, v1.2, x_1", []),
        ("\u00a330m and $4.5bn", ["30", "4.5"]),
        ("It ended 3-2. In 2015.", ["3", "2", "2015"]),
        ("1.2.3 and .5", ["1.2.3", "5"]),
        ("two or three", []),
        ("1, 2,3", ["1", "2,3"]),
        ("共123人，第10回", ["123", "10"]),  # after a letter of a script without capitals
        ("총123명 في٢٥ يوم", ["123", "٢٥"]),
        ("１，０００ ３．５", ["１", "０００", "３．５"]),  # a wide comma separates clauses
        ("Über32, é2, м3", []),
    ],
)
def test_numbers_by_hand(text, expected):
    assert cut(text, number_spans(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", "1000"),
        ("1,234,567", "1234567"),
        ("1,000.50", "1000.5"),
        ("3.50", "3.5"),
        ("3.00", "3"),
        ("100", "100"),
        ("1,00", "1,00"),
        ("1,0000", "1,0000"),
        ("1.2.30", "1.2.30"),
        ("0.5", "0.5"),
        ("１２３", "123"),
        ("１．５０", "1.5"),
        ("١٬٢٣٤٫٥٠", "1234.5"),
        ("२०१५", "2015"),
        ("๑๒", "12"),
        ("\U0001ccf2\U0001ccf0", "\U0001ccf2\U0001ccf0"),  # newer than Python's tables
    ],
)
def test_equal_numbers_have_one_form(text, expected):
    assert canonical_number(text) == expected


def test_unsupported_numbers_by_hand():
    article = Article("Some 1,000 people paid 3.5 million in 2015, the 10th time; float32.")
    text = "1000 paid 3.50 million in 2015-16 for the 10th time with 32 and two others."
    assert cut(text, article.unsupported_numbers(text)) == ["16", "32"]
    # 1000, 3.50, 2015, 16, 10, 32: four of six.
    assert extraction_scores(article, text)["number_precision"] == pytest.approx(100 * 4 / 6)
    assert extraction_scores(article, "No number here.")["number_precision"] is None


# Names.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The man met Mary in Leeds.", ["Mary", "Leeds"]),
        ("Mary met him. Leeds won! Who? Bob did: Yes.", []),  # each begins a sentence or follows a colon
        ("NATO met. NASA and McDonald ran.", ["NATO", "NASA", "McDonald"]),
        ("So DataFrame and iPhone do.", ["DataFrame"]),  # a lower-case letter first: no name
        ("He saw Obama's and Blair\u2019s cat.", ["Obama", "Blair"]),
        ("I think J. K. Rowling wrote it", []),  # initials are no name, and a full stop is before Rowling
        ("He said: \u201cLeeds won.\u201d And \u2018Bob\u2019 ran.", ["Bob"]),
        ('He said "Leeds won."', ["Leeds"]),
        ("One line\n\nMary ran", []),
        ("One line\nMary ran", ["Mary"]),
        ("in \u00c9dinbourg and \u0130zmir", ["\u00c9dinbourg", "\u0130zmir"]),
        ("met A and B in Covid19", ["Covid19"]),
        ("seen in E\u0301vry by Mu\u0308ller", ["E\u0301vry", "Mu\u0308ller"]),  # accents of their own
        ("вчера Анна и Пётр", ["Анна", "Пётр"]),
        ("«Анна ушла.» „Пётр“ ушёл", []),
        ("他在NATO和Paris", ["NATO", "Paris"]),
        ("猫坐在垫子上 बिल्ली القط החתול แมว", []),  # no capitals
    ],
)
def test_names_by_hand(text, expected):
    assert cut(text, name_spans(text)) == expected


def test_a_script_without_capitals_has_no_name_precision():
    assert extraction_scores(Article("猫坐在垫子上"), "猫在床上")["name_precision"] is None
    scores = extraction_scores(Article("他在Paris有１２只猫"), "NATO在PARIS有12只猫和5只狗")
    assert (scores["name_precision"], scores["number_precision"]) == (50, 50)


def test_unsupported_names_by_hand():
    article = Article("The president, barack OBAMA, met Angela Merkel's staff.")
    text = "It was Obama who met Merkel and Putin at NATO."
    assert cut(text, article.unsupported_names(text)) == ["Putin", "NATO"]
    assert extraction_scores(article, text)["name_precision"] == 50
    assert extraction_scores(article, "nobody met anybody")["name_precision"] is None


def test_the_heading_supports_names_and_numbers_but_cannot_be_copied():
    article = Article("It sorts rows.", source="Table.sort(key, 5)\n\nIt sorts rows.")
    assert article.unsupported_numbers("of 5 and 6") == [(9, 10)]
    assert article.unsupported_names("a Table or a Frame") == [(13, 18)]
    assert extraction_scores(article, "Table sort key")["coverage"] == 0


# Form.


def test_form_by_hand():
    # Bigrams a-b, b-a, a-b, b-c, c-d: 4 of 5 distinct. Trigrams a-b-a, b-a-b, a-b-c, b-c-d: none twice.
    assert form_scores("A b a b c d", "one two three") == {
        "words": 6,
        "length_ratio": 2,
        "distinct_2": 80,
        "repeated_trigram": 0,
    }
    assert form_scores("a b c. A B C!", "x")["repeated_trigram"] == 100
    assert form_scores("a b", "x y z w") == {
        "words": 2,
        "length_ratio": 0.5,
        "distinct_2": 100,
        "repeated_trigram": None,
    }
    assert form_scores("a", "...")["length_ratio"] == 1  # no word to divide by counts as one


# Marks.


@pytest.mark.parametrize("seed", range(40))
def test_segments_put_together_are_the_text_and_carry_every_mark(seed):
    text, output = random_texts(seed)
    article = Article(text)
    marks, sources = output_marks(article, output)
    for whole, spans in ((output, marks), (text, {"source": sources})):
        pieces = segments(whole, spans)
        assert "".join(piece for piece, _ in pieces) == whole
        assert all(piece for piece, _ in pieces)
        at = 0
        for piece, kinds in pieces:
            here = {k for k, of_kind in spans.items() for a, b in of_kind if a < at + len(piece) and at < b}
            assert set(kinds.split()) == here
            at += len(piece)
    for copied, source in zip(marks["copied"], sources, strict=True):
        same = words(output[slice(*copied)])
        assert same == words(text[slice(*source)]) and len(same) >= 3


def test_marks_are_at_the_right_characters():
    article = Article("\U0001f600 I\u0307 saw the old cat in 2015 with Mary.")
    text = "\U0001f600\U0001f600 \u0130zmir: The OLD cat in 2016 met Bob \U0001f1ec\U0001f1e7 and Mary."
    marks, sources = output_marks(article, text)
    assert cut(text, marks["copied"]) == ["The OLD cat in"]
    assert cut(article.text, sources) == ["the old cat in"]
    assert cut(text, marks["number"]) == ["2016"]
    assert cut(text, marks["name"]) == ["\u0130zmir", "Bob"]
    assert segments(text, marks) == [
        ["\U0001f600\U0001f600 ", ""],
        ["\u0130zmir", "name"],
        [": ", ""],
        ["The OLD cat in", "copied"],
        [" ", ""],
        ["2016", "number"],
        [" met ", ""],
        ["Bob", "name"],
        [" \U0001f1ec\U0001f1e7 and Mary.", ""],
    ]


def test_a_letter_whose_lower_case_is_longer_does_not_move_a_span():
    text = "\u0130\u0130\u0130 one two three"
    assert cut(text, word_spans(text)) == ["\u0130\u0130\u0130", "one", "two", "three"]
    marks, _ = output_marks(Article("one two three \u0130"), text)
    assert cut(text, marks["copied"]) == ["one two three"]


def test_overlapping_marks_are_cut_where_one_of_them_ends():
    assert segments("abcdef", {"x": [(0, 4)], "y": [(2, 6)]}) == [["ab", "x"], ["cd", "x y"], ["ef", "y"]]
    assert segments("ab", {}) == [["ab", ""]]
    assert segments("", {"x": []}) == []


def test_two_words_in_a_row_are_no_sign_of_copying():
    assert output_marks(Article("the cat sat"), "the cat ran")[0]["copied"] == []
    assert output_marks(Article("the cat sat"), "the cat sat")[0]["copied"] == [(0, 11)]
