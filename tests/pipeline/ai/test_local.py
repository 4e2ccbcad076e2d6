"""The local provider: real embeddings, a measure that says what it is, and no network."""

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.ai import RecordText, analyst, embed_texts, embedding_model
from pipeline.ai.local import score_of
from pipeline.errors import FatalError
from pipeline.sample import RULES

ON_TOPIC = (
    "The goal of this task is to explain the new expense policy to new employees. Write an email of 120 "
    "words in plain language. Background: the policy changes next month; most have never seen the old one."
)
OFF_TOPIC = "Mitochondria are found in most cells, and the sea was roaring at night."


def test_paraphrases_are_nearer_than_strangers() -> None:
    texts = ["How do I reset my password?", "I forgot my password, how can I change it?", "The cat sleeps."]
    first, second, third = embed_texts(embedding_model("local"), texts)
    assert first.shape == (512,)
    assert first @ second > 0.5 > first @ third


def test_an_embedding_does_not_depend_on_the_batch() -> None:
    model = embedding_model("local")
    alone = embed_texts(model, [ON_TOPIC])[0]
    together = embed_texts(model, [OFF_TOPIC * 5, ON_TOPIC, "short"])[1]
    assert np.allclose(alone, together, atol=1e-5)


def test_a_record_on_topic_scores_well_above_one_off_topic() -> None:
    records = [RecordText("1", ON_TOPIC, None), RecordText("2", OFF_TOPIC, None)]
    on_topic, off_topic = (result.report for result in analyst("local").assess(records, RULES))
    assert on_topic.score > off_topic.score + 30
    assert any(finding.covered for finding in on_topic.findings)
    assert not any(finding.covered for finding in off_topic.findings)


def test_a_report_says_what_it_is_and_names_every_guideline_once() -> None:
    (result,) = analyst("local").assess([RecordText("1", ON_TOPIC, None)], RULES)
    report = result.report
    assert "without a language model" in report.method
    assert sorted(finding.guideline for finding in report.findings) == sorted(RULES)
    assert report.suggestions
    markdown = report.to_markdown()
    assert f"{report.score}/100" in markdown
    assert all(rule in markdown for rule in RULES)
    assert (result.input_tokens, result.cost_usd) == (None, None)


def test_a_stored_embedding_is_used_as_it_is() -> None:
    rule = embed_texts(embedding_model("local"), [RULES[0]])[0]
    (result,) = analyst("local").assess([RecordText("1", OFF_TOPIC, rule)], RULES)
    assert result.report.findings[0].guideline == RULES[0]
    assert result.report.findings[0].similarity == pytest.approx(1.0, abs=1e-3)


def test_an_embedding_that_another_client_stored_is_scaled_or_made_again() -> None:
    own = embed_texts(embedding_model("local"), [ON_TOPIC])[0]
    records = [
        RecordText("1", ON_TOPIC, embedding)
        for embedding in (own, 40 * own, np.zeros(512), np.full(512, np.nan), np.ones(384))
    ]
    scores = {result.report.score for result in analyst("local").assess(records, RULES)}
    assert len(scores) == 1


def test_the_scores_of_real_texts_spread_and_follow_relevance(shared_data: Path) -> None:
    medians = []
    for name in ("xstest_prompts.csv", "prompts_2025-01-06.csv"):
        with (shared_data / "csv" / name).open(encoding="utf-8", newline="") as source:
            texts = [row["prompt"] for row in csv.DictReader(source)][:100]
        results = analyst("local").assess([RecordText("1", text, None) for text in texts], RULES)
        scores = [result.report.score for result in results]
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


@pytest.mark.parametrize("provider", ["lmstudio", "openrouter", "oracle"])
def test_a_provider_that_is_not_there_yet_says_what_to_set(provider: str) -> None:
    with pytest.raises(FatalError, match="ai_provider local"):
        embedding_model(provider)
    with pytest.raises(FatalError, match="ai_provider local"):
        analyst(provider)


def test_a_provider_that_nobody_knows_is_told_which_ones_there_are() -> None:
    with pytest.raises(FatalError, match=r"not known \(known: local, lmstudio, openrouter"):
        embedding_model("oracle")
    with pytest.raises(FatalError, match="not available in this version"):
        embedding_model("lmstudio")


OFFLINE = """
import sys
def refuse(event, arguments):
    if event.startswith("socket."):
        raise SystemExit(f"touched the network: {event} {arguments}")
sys.addaudithook(refuse)
from pipeline.ai import RecordText, analyst, embed_texts, embedding_model
vectors = embed_texts(embedding_model("local"), ["a text", "another text"])
report = analyst("local").assess([RecordText("1", "a text", None)], ["Write a text."])[0].report
print(vectors.shape, report.score > 0)
"""


def test_the_local_provider_never_touches_the_network() -> None:
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(2, 512) True\n"), done.stderr
