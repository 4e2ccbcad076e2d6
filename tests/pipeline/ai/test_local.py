"""The local provider: real embeddings, a measure that says what it is, and no network."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.ai import AiConfig, Limits, Vectors, embed_or_raise, open_provider
from pipeline.ai.local import LocalProvider
from pipeline.analyze.coverage import assess_coverage, score_of
from pipeline.analyze.plan import require_able
from pipeline.analyze.review import RecordText
from pipeline.errors import FatalError
from pipeline.sample import RULES
from schemas.options import AnalysisOptions

ON_TOPIC = (
    "The goal of this task is to explain the new expense policy to new employees. Write an email of 120 "
    "words in plain language. Background: the policy changes next month; most have never seen the old one."
)
OFF_TOPIC = "Mitochondria are found in most cells, and the sea was roaring at night."


def embed(texts: list[str]) -> Vectors:
    return embed_or_raise(LocalProvider(Limits()), texts)


def test_paraphrases_are_nearer_than_strangers() -> None:
    texts = ["How do I reset my password?", "I forgot my password, how can I change it?", "The cat sleeps."]
    first, second, third = embed(texts)
    assert first.shape == (512,)
    assert first @ second > 0.5 > first @ third


def test_an_embedding_does_not_depend_on_the_batch() -> None:
    alone = embed([ON_TOPIC])[0]
    together = embed([OFF_TOPIC * 5, ON_TOPIC, "short"])[1]
    assert np.allclose(alone, together, atol=1e-5)


def test_a_record_on_topic_scores_well_above_one_off_topic() -> None:
    records = [RecordText("1", ON_TOPIC, None), RecordText("2", OFF_TOPIC, None)]
    on_topic, off_topic = assess_coverage(records, RULES)
    assert on_topic.score > off_topic.score + 30
    assert any(finding.covered for finding in on_topic.findings)
    assert not any(finding.covered for finding in off_topic.findings)


def test_a_report_says_what_it_is_and_names_every_guideline_once() -> None:
    (report,) = assess_coverage([RecordText("1", ON_TOPIC, None)], RULES)
    assert "without a language model" in report.method
    assert sorted(finding.guideline for finding in report.findings) == sorted(RULES)
    assert report.suggestions
    markdown = report.to_markdown()
    assert f"{report.score}/100" in markdown
    assert all(rule in markdown for rule in RULES)


def test_a_stored_embedding_is_used_as_it_is() -> None:
    rule = embed([RULES[0]])[0]
    (report,) = assess_coverage([RecordText("1", OFF_TOPIC, rule)], RULES)
    assert report.findings[0].guideline == RULES[0]
    assert report.findings[0].similarity == pytest.approx(1.0, abs=1e-3)


def test_an_embedding_that_another_client_stored_is_scaled_or_made_again() -> None:
    own = embed([ON_TOPIC])[0]
    records = [
        RecordText("1", ON_TOPIC, embedding)
        for embedding in (own, 40 * own, np.zeros(512), np.full(512, np.nan), np.ones(384))
    ]
    scores = {report.score for report in assess_coverage(records, RULES)}
    assert len(scores) == 1


def test_the_scores_of_real_texts_spread_and_follow_relevance(shared_data: Path) -> None:
    medians = []
    for name in ("xstest_prompts.csv", "prompts_2025-01-06.csv"):
        with (shared_data / "csv" / name).open(encoding="utf-8", newline="") as source:
            texts = [row["prompt"] for row in csv.DictReader(source)][:100]
        reports = assess_coverage([RecordText("1", text, None) for text in texts], RULES)
        scores = [report.score for report in reports]
        assert np.ptp(np.percentile(scores, [5, 95])) > 20
        medians.append(np.median(scores))
    # Short questions about anything say little of how to write a task; descriptions of roles say more.
    assert medians[0] + 10 < medians[1]


@pytest.mark.parametrize(("similarity", "score"), [(-0.5, 0), (0.0, 0), (0.2, 50), (0.4, 100), (0.9, 100)])
def test_the_score_grows_with_the_similarity_and_stays_in_range(similarity: float, score: int) -> None:
    assert score_of(np.full(12, similarity)) == score


def test_the_score_looks_at_the_nearest_third_of_the_rules() -> None:
    assert score_of(np.array([0.4] * 4 + [0.0] * 8)) == 100
    assert score_of(np.array([0.4] * 2 + [0.0] * 10)) == 50


def test_ratings_need_a_language_model_and_say_how_to_get_one() -> None:
    with pytest.raises(FatalError, match="ai_provider lmstudio"):
        require_able(LocalProvider(Limits()), AnalysisOptions(likert=True))


def test_openrouter_without_a_key_says_how_to_set_one() -> None:
    with pytest.raises(FatalError, match="settings set openrouter_key"):
        open_provider(AiConfig("openrouter", "http://127.0.0.1:9/v1", "m", "e"))


OFFLINE = """
import sys
def refuse(event, arguments):
    # An event loop wakes itself through a pair of sockets; an address is what makes it network.
    if event.startswith("socket.") and event not in {"socket.__new__", "socket.gethostname"}:
        raise SystemExit(f"touched the network: {event} {arguments}")
sys.addaudithook(refuse)
from pipeline.ai import Limits, embed_or_raise
from pipeline.ai.local import LocalProvider
from pipeline.analyze.coverage import assess_coverage
from pipeline.analyze.review import RecordText
vectors = embed_or_raise(LocalProvider(Limits()), ["a text", "another text"])
report = assess_coverage([RecordText("1", "a text", None)], ["Write a text."])[0]
print(vectors.shape, report.score > 0)
"""


def test_the_local_provider_never_touches_the_network() -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(2, 512) True\n"), done.stderr
