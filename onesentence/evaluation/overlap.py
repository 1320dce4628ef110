"""Overlap of one output with its reference: ROUGE, BLEU, chrF and METEOR, each by its own library.

Scores run from 0 to 100. A failed or empty output scores 0 and enters the corpus scores as an empty text.
"""

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from importlib import metadata
from itertools import groupby
from multiprocessing import get_context
from operator import itemgetter

import numpy as np

from onesentence.core.errors import UserError
from onesentence.core.language import (
    ENGLISH,
    STEMMERS,
    Stemmer,
    bleu_tokenizer,
    rouge_signature,
    rouge_tokens,
    stemmer_signature,
)
from onesentence.core.text import WORD_SIGNATURE, sentences, words

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
PER_PAIR = (*ROUGE, "sentence_bleu", "sentence_chrf", "meteor")
BLEU_ORDER = 4
CHRF_ORDER = 6
CHRF_BETA = 2
BLEU_STATISTICS = 2 + 2 * BLEU_ORDER  # length of output, of reference; n-grams matched; n-grams in the output
CHRF_STATISTICS = 3 * CHRF_ORDER  # for each order: n-grams in the output, in the reference, matched
CHUNK = 256  # pairs handed to a worker at once; a score depends on its pair alone
FEW = 1_500  # pairs below which starting workers costs more than it saves


def lcs_length(left: list[str], right: list[str]) -> int:
    """Length of the longest common subsequence: a row of the table is the bits of one number (Hyyrö 2004)."""
    places: dict[str, int] = {}
    for place, token in enumerate(left):
        places[token] = places.get(token, 0) | 1 << place
    whole = row = (1 << len(left)) - 1  # a 0 for each place where the length grows
    for token in right:
        met = row & places.get(token, 0)
        row = ((row + met) | (row - met)) & whole
    return len(left) - row.bit_count()


def _places_by_sentence(sentence_tokens: list[list[str]]) -> dict[str, list[tuple[int, int]]]:
    """(sentence, place in it) of every occurrence of each token, in order."""
    found: dict[str, list[tuple[int, int]]] = {}
    for sentence, tokens in enumerate(sentence_tokens):
        for place, token in enumerate(tokens):
            found.setdefault(token, []).append((sentence, place))
    return found


def _chosen(target: list[str], tokens: list[tuple[str, bool]]) -> set[int]:
    """Places in `target` of the longest common subsequence that rouge_score reads out of its table.

    tokens: those of the other sentence that `target` has, and whether others follow each of them before the
    next one; others leave the table's row as it is, but let the reading step back to where it last grew.
    """
    masks: dict[str, int] = {}
    for place, token in enumerate(target):
        masks[token] = masks.get(token, 0) | 1 << place
    row = (1 << len(target)) - 1  # as in `lcs_length`: a 0 for each place where the length grows
    whole, rows = row, [row]
    for token, _ in tokens:
        met = row & masks[token]
        row = ((row + met) | (row - met)) & whole
        rows.append(row)

    def grown(row: int, until: int) -> int:
        """The length of the subsequence within the first `until` places."""
        return until - (row & ((1 << until) - 1)).bit_count()

    found = set()
    i, j, stepped = len(target), len(tokens), None
    while i and j:
        token, others = tokens[j - 1]
        if others and stepped != j:  # to the last place where the row grew, once
            i, stepped = (~rows[j] & ((1 << i) - 1)).bit_length(), j
            continue
        if target[i - 1] == token:
            found.add(i - 1)
            i, j = i - 1, j - 1
        elif grown(rows[j - 1], i) > grown(rows[j], i - 1):
            j -= 1
        else:
            i -= 1
    return found


def union_hits(targets: list[list[str]], outputs: list[list[str]]) -> int:
    """Size of ROUGE-Lsum's union subsequences (Lin 2004, section 3.2), clipped as rouge_score clips it.

    targets, outputs: tokens by sentence. The same as rouge_score's, without a table a pair of sentences:
    a sentence of the reference meets only the tokens that it has.
    """
    left = [Counter(token for tokens in side for token in tokens) for side in (targets, outputs)]
    places = _places_by_sentence(outputs)
    hits = 0
    for target in targets:
        met = sorted((*at, token) for token in set(target) for at in places.get(token, ()))
        union: set[int] = set()
        for sentence, group in groupby(met, key=itemgetter(0)):
            rows = [(place, token) for _, place, token in group]
            following = [place for place, _ in rows[1:]] + [len(outputs[sentence])]
            tokens = [
                (token, after > place + 1) for (place, token), after in zip(rows, following, strict=True)
            ]
            union |= _chosen(target, tokens)
        for place in sorted(union):
            token = target[place]
            if left[0][token] > 0 and left[1][token] > 0:
                hits += 1
                left[0][token] -= 1
                left[1][token] -= 1
    return hits


def _ngrams(tokens: list[str], n: int) -> Counter:
    return Counter(zip(*(tokens[k:] for k in range(n)), strict=False))


class _Rouge:
    """rouge_score's F1 (0 to 1), bit for bit: its formulas, for English its tokens, without its tables."""

    def __init__(self, language: str, stemmer: Stemmer) -> None:
        from rouge_score.scoring import fmeasure

        self.fmeasure = fmeasure
        # Each text is cut once for all of its metrics.
        self.tokens = lru_cache(maxsize=4_096)(lambda text: rouge_tokens(text, language, stemmer))

    def f1(self, matched: int, reference: int, output: int) -> float:
        """F1 of counts: what is in both, in the reference, in the output."""
        return self.fmeasure(matched / max(output, 1), matched / max(reference, 1))

    def ngrams(self, reference: Counter, output: Counter) -> float:
        """ROUGE-n of the n-grams of both."""
        return self.f1((reference & output).total(), reference.total(), output.total())

    def several(self, reference: str, output: str) -> float:
        """ROUGE-Lsum, which takes a line for a sentence."""
        sides = [[self.tokens(line) for line in text.split("\n")] for text in (reference, output)]
        return self.f1(union_hits(*sides), *(sum(map(len, side)) for side in sides))

    def all(self, reference: str, output: str) -> list[float]:
        """In the order of ROUGE. ROUGE-Lsum of one line each is ROUGE-L."""
        target, found = self.tokens(reference), self.tokens(output)
        longest = self.f1(lcs_length(target, found), len(target), len(found))
        several = longest
        if "\n" in reference or "\n" in output:
            several = self.several(reference, output)
        return [
            *(self.ngrams(_ngrams(target, n), _ngrams(found, n)) for n in (1, 2)),
            longest,
            several,
        ]


class _NoSynonyms:
    """Stands in for WordNet where METEOR's synonym stage is off: no word has another."""

    def synsets(self, word: str) -> list:
        return []


def word_net():
    """nltk's WordNet, or a UserError: METEOR without it would be another metric under the same name."""
    from nltk.corpus import wordnet

    try:
        wordnet.ensure_loaded()
    except LookupError as error:
        raise UserError(
            "evaluate.meteor_synonyms: true needs WordNet, which nltk does not find on this machine. Fetch "
            "it with `python -m nltk.downloader wordnet`, or set evaluate.meteor_synonyms: false"
        ) from error
    return wordnet


def lines_of_sentences(text: str, language: str) -> str:
    """A sentence a line, for ROUGE-Lsum. A line's end ends a sentence too, as in rouge_score."""
    return "\n".join(sentence for line in text.split("\n") for sentence in sentences(line, language))


class Scorers:
    """The libraries' scorers, set up once a process.

    language: ISO 639; meteor_synonyms: use WordNet in METEOR.
    """

    def __init__(self, language: str, meteor_synonyms: bool) -> None:
        from nltk.tokenize.destructive import NLTKWordTokenizer
        from sacrebleu.metrics import BLEU, CHRF

        self.language = language
        self.stemmer = Stemmer(language)
        self.rouge = _Rouge(language, self.stemmer)
        # For sentences; the corpus score has its own aggregate.
        self.bleu = BLEU(effective_order=True, tokenize=bleu_tokenizer(language))
        self.chrf = CHRF(char_order=CHRF_ORDER, word_order=0, beta=CHRF_BETA)
        self.words = NLTKWordTokenizer().tokenize if language == ENGLISH else words
        self.wordnet = word_net() if meteor_synonyms else _NoSynonyms()

    def pair(self, reference: str, output: str) -> tuple[list[float], list[int], list[int]]:
        """(scores in the order of PER_PAIR, BLEU statistics, chrF statistics) of one output."""
        rouge = self.rouge.all(*(lines_of_sentences(text, self.language) for text in (reference, output)))
        bleu = self.bleu.sentence_score(output, [reference])
        chrf = self.chrf._extract_corpus_statistics([output], [[reference]])[0]
        scores = [100 * score for score in rouge]
        scores += [bleu.score, self.chrf._compute_f_score(chrf), 100 * self.meteor(reference, output)]
        return scores, [bleu.sys_len, bleu.ref_len, *bleu.counts, *bleu.totals], chrf

    def meteor(self, reference: str, output: str) -> float:
        """METEOR (0 to 1): exact and stem stages, and synonyms where asked for. English is cut into Treebank
        tokens, any other language into the words of ROUGE."""
        from nltk.translate.meteor_score import single_meteor_score

        return single_meteor_score(
            self.words(reference), self.words(output), stemmer=self.stemmer, wordnet=self.wordnet
        )

    def oracle(self, document: str, reference: str) -> str:
        """The sentence of the document with the best ROUGE-1 + ROUGE-2 F1; the first of equal ones."""
        target = {n: _ngrams(self.rouge.tokens(reference), n) for n in (1, 2)}
        best, chosen = -1.0, ""
        for sentence in sentences(document, self.language):
            tokens = self.rouge.tokens(sentence)
            found = sum(self.rouge.ngrams(grams, _ngrams(tokens, n)) for n, grams in target.items())
            if found > best:
                best, chosen = found, sentence
        return chosen


_scorers: Scorers | None = None  # of a worker process


def _start_worker(language: str, meteor_synonyms: bool) -> None:
    global _scorers
    _scorers = Scorers(language, meteor_synonyms)


def _pairs(pairs: list[tuple[str, str]]) -> list[tuple]:
    return [_scorers.pair(reference, output) for reference, output in pairs]


def _oracles(pairs: list[tuple[str, str]]) -> list[str]:
    return [_scorers.oracle(document, reference) for document, reference in pairs]


def usable_cores() -> int:
    """Cores that this process may use, which a container or taskset may have made fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_workers(
    function, pairs: list[tuple[str, str]], language: str, meteor_synonyms: bool, workers: int | None
) -> list:
    """`function` of chunks of pairs, in order, over `workers` processes (None: one for each core)."""
    if meteor_synonyms:
        word_net()  # its error is one sentence here; from a worker it would break the pool
    if workers is None:
        workers = 1 if len(pairs) < FEW else usable_cores()
    if workers == 1:
        _start_worker(language, meteor_synonyms)
        return function(pairs)
    chunks = [pairs[start : start + CHUNK] for start in range(0, len(pairs), CHUNK)]
    options = {"mp_context": get_context("spawn"), "initializer": _start_worker}
    with ProcessPoolExecutor(workers, initargs=(language, meteor_synonyms), **options) as pool:
        return [item for found in pool.map(function, chunks) for item in found]


def overlap_scores(
    references: list[str],
    outputs: list[str],
    language: str,
    meteor_synonyms: bool,
    workers: int | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Scores of outputs against their references; a failed output is to be given as "".

    Returns ({name of PER_PAIR: scores [outputs]}, BLEU statistics [outputs, 10], chrF statistics
    [outputs, 18]).
    """
    pairs = list(zip(references, outputs, strict=True))
    found = _in_workers(_pairs, pairs, language, meteor_synonyms, workers)
    scores = np.array([row[0] for row in found], dtype=np.float64)
    columns = {name: scores[:, k] for k, name in enumerate(PER_PAIR)}
    bleu, chrf = (np.array([row[k] for row in found], dtype=np.int64) for k in (1, 2))
    return columns, bleu, chrf


def oracle_sentences(
    documents: list[str], references: list[str], language: str, workers: int | None = None
) -> list[str]:
    """The extractive oracle of each document (Narayan et al. 2018): the best that one sentence can do."""
    return _in_workers(_oracles, list(zip(documents, references, strict=True)), language, False, workers)


def corpus_bleu(sums: np.ndarray) -> np.ndarray:
    """Corpus BLEU [...] from summed statistics [..., 10]: sacrebleu's, exponential smoothing."""
    sums = np.asarray(sums, dtype=np.float64)
    length, reference_length = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + BLEU_ORDER], sums[..., 2 + BLEU_ORDER :]
    with np.errstate(divide="ignore", invalid="ignore"):
        missed = np.cumsum(matches == 0, axis=-1)  # each order without a match counts half of the one before
        precisions = np.where(matches > 0, matches / totals, 1 / (2.0**missed * totals))
        brevity = np.where(length < reference_length, np.exp(1 - reference_length / length), 1.0)
        scores = 100 * brevity * np.exp(np.log(precisions).mean(axis=-1))
    return np.where((matches.sum(axis=-1) > 0) & (totals > 0).all(axis=-1), scores, 0.0)


def corpus_chrf(sums: np.ndarray) -> np.ndarray:
    """Corpus chrF2 [...] from summed statistics [..., 18]: sacrebleu's, averaged over the orders there."""
    sums = np.asarray(sums, dtype=np.float64)
    output, reference, matched = (sums[..., k::3] for k in range(3))
    there = (output > 0) & (reference > 0)
    orders = np.maximum(there.sum(axis=-1), 1)
    precision = np.where(there, matched / np.maximum(output, 1), 0).sum(axis=-1) / orders
    recall = np.where(there, matched / np.maximum(reference, 1), 0).sum(axis=-1) / orders
    weighted = CHRF_BETA**2 * precision + recall
    return np.where(
        weighted > 0, 100 * (1 + CHRF_BETA**2) * precision * recall / np.where(weighted > 0, weighted, 1), 0.0
    )


def overlap_signatures(language: str, meteor_synonyms: bool) -> dict[str, str]:
    """What each score was computed with, by name."""
    rouge = f"F1|{rouge_signature(language)}|rouge_score:{metadata.version('rouge_score')}"
    sacrebleu = f"case:mixed|sacrebleu:{metadata.version('sacrebleu')}"
    bleu = f"lang:{language}|tokens:{bleu_tokenizer(language)}|smooth:exp|{sacrebleu}"
    chrf = f"chars:{CHRF_ORDER}|words:0|beta:{CHRF_BETA}|space:no|{sacrebleu}"
    stages = "exact+stem" if language == ENGLISH or language in STEMMERS else "exact"
    if meteor_synonyms:
        stages += f"+wordnet{word_net().get_version()}"
    cut = "tokens:treebank|case:lower"
    if language != ENGLISH:
        cut = f"stemmer:{stemmer_signature(language)}|{WORD_SIGNATURE}"
    found = {name: rouge for name in ROUGE}
    found["rougeLsum"] = rouge.replace("|tokens", f"|sentences:lines, text.py's of {language}|tokens")
    found |= {"sentence_bleu": f"effective_order:yes|{bleu}", "bleu": f"effective_order:no|{bleu}"}
    found |= {"sentence_chrf": chrf, "chrf": chrf}
    found["meteor"] = f"lang:{language}|stages:{stages}|{cut}|nltk:{metadata.version('nltk')}"
    return found
