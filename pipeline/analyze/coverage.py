"""The analysis of the provider `local`, without a language model: how near a record is to each guideline."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from pipeline.ai import Limits, Vectors, embed_or_raise
from pipeline.ai.local import DIMENSIONS, LocalProvider
from pipeline.analyze.review import RecordText
from schemas.report import AlignmentReport, GuidelineFinding

# Cosine similarities of whole records to single rules, measured on 175 role prompts, 450 safety prompts and
# tasks and feedback written for the purpose, against twelve rules: a text lies between -0.10 and 0.10 of a
# rule that it has nothing to do with, and between 0.20 and 0.50 of one that it speaks of. With these numbers
# the median scores were 20 (safety prompts), 39 (role prompts), 51 and 48 (the sample's tasks and feedback).
COVERED_SIMILARITY = 0.20
FULL_SIMILARITY = 0.40
# A record need not speak of every rule: the score looks at the nearest third, at least three.
_SHARE, _LEAST_RULES = 3, 3
_MOST_SUGGESTIONS = 3
_SHORT_CHARS = 80

COVERAGE_MODEL = "guideline-coverage-1"
COVERAGE_VERSION = "coverage-1"

METHOD = (
    "Measured without a language model: how near the record's text is to each guideline by embedding "
    "similarity. It tells which guidelines the text touches, not whether it obeys them."
)


def assess_coverage(records: Sequence[RecordText], rules: Sequence[str]) -> list[AlignmentReport]:
    """Measure each record against all rules, in the order of the records."""
    if not records:
        return []
    similarities = _record_vectors(records) @ _rule_vectors(tuple(rules)).T
    return [
        _report(record, rules, row)
        for record, row in zip(records, np.clip(similarities, -1.0, 1.0), strict=True)
    ]


def similarities_to(texts: Sequence[str], rules: Sequence[str]) -> Vectors:
    """Give the cosine similarities of n texts to m rules as an array of shape (n, m)."""
    vectors = embed_or_raise(LocalProvider(Limits()), texts)
    return np.clip(vectors @ _rule_vectors(tuple(rules)).T, -1.0, 1.0)


@lru_cache(maxsize=16)
def _rule_vectors(rules: tuple[str, ...]) -> Vectors:
    return embed_or_raise(LocalProvider(Limits()), rules)


def _record_vectors(records: Sequence[RecordText]) -> Vectors:
    """Take the embeddings that the records bring, make the others; all of length 1."""
    vectors = np.zeros((len(records), DIMENSIONS))
    missing = []
    for index, record in enumerate(records):
        own = record.usable_embedding(DIMENSIONS)
        if own is None:
            missing.append(index)
        else:
            vectors[index] = own
    if missing:
        vectors[missing] = embed_or_raise(
            LocalProvider(Limits()), [records[index].content for index in missing]
        )
    # Other clients write to the same column: a cosine holds only for vectors of length 1.
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def score_of(similarities: Vectors) -> int:
    """Turn the similarities of one record to n rules into a score from 0 to 100.

    The mean over the nearest third of the rules of `similarity / FULL_SIMILARITY`, held between 0 and 1.
    """
    count = min(len(similarities), max(_LEAST_RULES, len(similarities) // _SHARE))
    nearest = np.sort(similarities)[-count:]
    return round(100 * float(np.clip(nearest / FULL_SIMILARITY, 0.0, 1.0).mean()))


def _report(record: RecordText, rules: Sequence[str], similarities: Vectors) -> AlignmentReport:
    order = np.argsort(-similarities, kind="stable")
    findings = [
        GuidelineFinding(
            guideline=rules[index],
            covered=bool(similarities[index] >= COVERED_SIMILARITY),
            similarity=round(float(similarities[index]), 4),
        )
        for index in order
    ]
    covered = sum(finding.covered for finding in findings)
    nearest = f"The nearest is: {findings[0].guideline}"
    return AlignmentReport(
        score=score_of(similarities),
        method=METHOD,
        summary=f"The text touches {covered} of {len(rules)} guidelines. {nearest}",
        findings=findings,
        suggestions=_suggestions(record, findings),
    )


def _suggestions(record: RecordText, findings: list[GuidelineFinding]) -> list[str]:
    suggestions = []
    if len(record.content) < _SHORT_CHARS:
        suggestions.append(f"The text has {len(record.content)} characters: there is little to measure.")
    open_rules = [finding.guideline for finding in reversed(findings) if not finding.covered]
    suggestions += [f"See whether this applies: {rule}" for rule in open_rules[:_MOST_SUGGESTIONS]]
    return suggestions
