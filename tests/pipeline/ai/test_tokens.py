"""The guess of how many tokens a text has: careful by itself, better by what servers count, never far off."""

from collections.abc import Callable

import pytest

from pipeline.ai import Limits, Prompt, Provider, embed_texts, guess_tokens, run
from pipeline.ai.tokens import OVERHEAD_TOKENS, chars_within, learn
from tests.ai_server import AiServer

MakeProvider = Callable[..., Provider]

STORY = "write the story of a lighthouse keeper who counts ships " * 80

pytestmark = pytest.mark.usefixtures("no_pauses")


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.ai.tokens._corrections", {})


def _complete(provider: Provider, said: str) -> None:
    run(provider.complete(Prompt("Judge.", said, "verdict", {"type": "object", "properties": {}})))


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("abc def", 3), ("7" * 3_000, 3_001), ("{}[]" * 100, 401), ("語" * 50, 51), ("", 1)],
)
def test_digits_signs_and_other_scripts_are_a_token_each(text: str, tokens: int) -> None:
    assert guess_tokens(text) == tokens


def test_what_goes_into_so_many_tokens_is_told_at_the_texts_own_density() -> None:
    assert chars_within("7" * 3_000, 512, "") == 511
    assert 1_500 < chars_within(STORY, 512, "") < 1_540


def test_a_language_models_counts_move_its_guess_and_no_other_models(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    before = guess_tokens(STORY)
    ai_server.behaviour.chars_a_token = 2.0
    provider = make_provider()
    _complete(provider, STORY)
    counted = ai_server.seen.asked[0]["messages"][1]["content"]
    assert len(counted) / 2 < guess_tokens(STORY, "chatter") < 1.2 * len(counted) / 2
    assert guess_tokens(STORY, "embedder") == guess_tokens(STORY) == before
    ai_server.behaviour.chars_a_token = 4.0
    for _ in range(20):
        _complete(provider, STORY)
    assert len(STORY) / 4 < guess_tokens(STORY, "chatter") < before


def test_a_guess_teaches_nothing(ai_server: AiServer, make_provider: MakeProvider) -> None:
    ai_server.behaviour.gives_usage = False
    provider = make_provider(limits=Limits(embedding_context=100_000))
    _complete(provider, STORY)
    embed_texts(provider, [STORY])
    assert {guess_tokens(STORY, model) for model in ("chatter", "embedder")} == {guess_tokens(STORY)}


def test_what_a_chats_form_adds_to_a_short_prompt_teaches_nothing(
    ai_server: AiServer, make_provider: MakeProvider
) -> None:
    ai_server.behaviour.chars_a_token = 0.1
    _complete(make_provider(), "Are you there?")
    assert guess_tokens(STORY, "chatter") == guess_tokens(STORY)


@pytest.mark.parametrize(("tokens", "least", "most"), [(10**9, 1.9, 2.1), (1, 0.7, 0.8)])
def test_no_count_of_a_chat_moves_the_guess_out_of_bounds(tokens: int, least: float, most: float) -> None:
    for _ in range(50):
        learn("chatter", [STORY], tokens, overhead=OVERHEAD_TOKENS)
    assert least < guess_tokens(STORY, "chatter") / guess_tokens(STORY) < most
