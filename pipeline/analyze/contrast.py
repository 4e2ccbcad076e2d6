"""Two groups of texts held against each other by counting: no language model judges here."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np

from pipeline.ai import Vectors
from pipeline.analyze.coverage import similarities_to
from schemas.report import TrendsReport

METHOD = (
    "Counted without a language model: words, lengths and the guidelines that texts touch by embedding "
    "similarity. It tells how the groups differ, not why."
)
_WORD = re.compile(r"[^\W\d_]{3,}")
# A word that fewer texts have says nothing about a group.
_LEAST_TEXTS = 3
_MOST_WORDS, _MOST_RULES = 10, 3
# Two standard deviations; the weight of the prior, in words.
_LEAST_Z, _PRIOR_WORDS = 1.96, 500.0
# Embedding more texts would tell no more of a mean, and takes seconds.
_MOST_EMBEDDED = 100
_LEAST_DIFFERENCE = 0.02


def contrast(kind: str, best: Sequence[str], worst: Sequence[str], rules: Sequence[str]) -> TrendsReport:
    """Say how two groups of texts differ.

    Args:
        kind: what the texts are, for the summary.
        best: texts, at least one.
        worst: texts, at least one.
        rules: the guidelines; none where there are none.
    """
    scores = _word_scores(best, worst)
    ordered = sorted(scores, key=lambda word: (-scores[word], word))
    of_best = [word for word in ordered if scores[word] >= _LEAST_Z][:_MOST_WORDS]
    of_worst = [word for word in reversed(ordered) if scores[word] <= -_LEAST_Z][:_MOST_WORDS]
    nearer_best, nearer_worst = _rules(best, worst, rules)
    return TrendsReport(
        method=METHOD,
        summary=(
            f"{len(best):,} TOP_10 and {len(worst):,} BOTTOM_10 {kind} records, spread over their time, were "
            f"compared. The typical best one has {_words(best):,} words, the typical worst one "
            f"{_words(worst):,}."
        ),
        best=[*_word_lines(of_best), *nearer_best] or ["Nothing that stands out beside the length."],
        worst=[*_word_lines(of_worst), *nearer_worst] or ["Nothing that stands out beside the length."],
        advice=[],
    )


def _word_lines(words: Sequence[str]) -> list[str]:
    return [f"Words more frequent here: {', '.join(words)}."] if words else []


def _words(texts: Sequence[str]) -> int:
    return round(median(len(text.split()) for text in texts))


def _word_scores(best: Sequence[str], worst: Sequence[str]) -> dict[str, float]:
    """Give each word's log-odds between the groups in standard deviations, with an informative prior.

    B. L. Monroe, M. P. Colaresi, K. M. Quinn: Fightin' Words, Political Analysis 16 (2008), section 3.5.1.
    """
    counts = [Counter(word for text in group for word in _split(text)) for group in (best, worst)]
    texts = Counter(word for text in (*best, *worst) for word in set(_split(text)))
    pooled = counts[0] + counts[1]
    total = sum(pooled.values())
    totals = [sum(count.values()) for count in counts]
    scores = {}
    for word, frequency in pooled.items():
        if texts[word] < _LEAST_TEXTS or not all(totals):
            continue
        prior = _PRIOR_WORDS * frequency / total
        odds = [
            (count[word] + prior) / (size + _PRIOR_WORDS - count[word] - prior)
            for count, size in zip(counts, totals, strict=True)
        ]
        variance = sum(1 / (count[word] + prior) for count in counts)
        scores[word] = math.log(odds[0] / odds[1]) / math.sqrt(variance)
    return scores


def _split(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _rules(best: Sequence[str], worst: Sequence[str], rules: Sequence[str]) -> tuple[list[str], list[str]]:
    if not rules:
        return [], []
    means = [_mean_similarity(group, rules) for group in (best, worst)]
    difference = means[0] - means[1]
    order = np.argsort(-difference, kind="stable")
    nearer_best = [place for place in order[:_MOST_RULES] if difference[place] >= _LEAST_DIFFERENCE]
    nearer_worst = [place for place in order[::-1][:_MOST_RULES] if difference[place] <= -_LEAST_DIFFERENCE]
    return (
        [_rule_line(rules[place], means[0][place], means[1][place]) for place in nearer_best],
        [_rule_line(rules[place], means[1][place], means[0][place]) for place in nearer_worst],
    )


def _mean_similarity(texts: Sequence[str], rules: Sequence[str]) -> Vectors:
    step = max(1, len(texts) // _MOST_EMBEDDED)
    return np.asarray(similarities_to(texts[::step], rules).mean(axis=0))


def _rule_line(rule: str, here: float, there: float) -> str:
    return f"Nearer to the guideline “{rule}” (similarity {here:.2f}, the other group {there:.2f})."
