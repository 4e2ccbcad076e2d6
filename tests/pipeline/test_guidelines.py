"""Guidelines PDFs: their text, their rules, and the files that are refused with a reason."""

import base64
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reportlab.lib.pdfencrypt import StandardEncryption
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import ListFlowable, Paragraph, SimpleDocTemplate

from pipeline import pdf_text
from pipeline.errors import InputError
from pipeline.guidelines import (
    decode_guidelines,
    encode_guidelines,
    read_guidelines,
    split_passages,
    split_rules,
)
from pipeline.pdf_text import clean_text, read_pdf_text
from pipeline.sample import write_guidelines_pdf

TWO = ["Write in plain language.", "Name the audience you write for."]


LONG_RULES = """\
Write in plain language. Explain every term the first time that you use it, because many readers are new \
here. If a term cannot be avoided, define it.
Name the audience. A text for engineers is not a text for customers, and a text for both has to say which \
part is for whom. Ask when you do not know."""
WRAPPED = """\
1. Write in plain language, always and for everybody.
This means that you avoid jargon wherever you can.
2. Name the audience you write for.
Feedback"""
WRAPPED_RULE = (
    "Write in plain language, always and for everybody. This means that you avoid jargon wherever you can."
)
TWO_PAGES = """\
1. Write in plain language, and explain each term in the

Page 1 of 2

first part of the text.
2. Name the audience you write for."""
TWO_PAGES_RULE = "Write in plain language, and explain each term in the first part of the text."


def pdf(*lines: str, password: str | None = None) -> bytes:
    sink = io.BytesIO()
    encryption = StandardEncryption(password) if password else None
    canvas = Canvas(sink, encrypt=encryption)
    for number, line in enumerate(lines):
        canvas.drawString(50, 800 - 20 * number, line)
    canvas.showPage()
    canvas.save()
    return sink.getvalue()


def test_the_samples_rules_are_read_back_word_for_word(tmp_path: Path) -> None:
    rules = write_guidelines_pdf(tmp_path / "g.pdf")
    guidelines = read_guidelines((tmp_path / "g.pdf").read_bytes())
    assert guidelines.rules == rules
    assert "Guidelines for tasks and feedback" in guidelines.text


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (b"", "not a PDF"),
        (b"id,prompt\n1,text\n", "not a PDF"),
        (pdf("Some text that can be read.")[:300], "damaged"),
        (pdf("Some text that can be read.", password="secret"), "encrypted"),
        (pdf(), "no text"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(file: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        read_guidelines(file)


def test_wrapped_rules_of_several_sentences_are_read_whole_from_a_typeset_list() -> None:
    rules = tuple(LONG_RULES.split("\n"))
    body = getSampleStyleSheet()["BodyText"]
    sink = io.BytesIO()
    # Its numbers have no full stop behind them.
    numbered = ListFlowable([Paragraph(rule, body) for rule in rules], bulletType="1")
    SimpleDocTemplate(sink).build(
        [Paragraph("Our house", body), numbered, Paragraph("Ask us when in doubt.", body)]
    )
    assert read_guidelines(sink.getvalue()).rules == rules


def test_a_pdf_without_rules_is_refused() -> None:
    with pytest.raises(InputError, match="no rules"):
        read_guidelines(pdf("Draft", "12"))


def test_a_pdf_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf_text, "_MAX_BYTES", 100)
    with pytest.raises(InputError, match="at most 100 are read"):
        read_pdf_text(pdf("Some text."))


def test_a_reader_that_crashes_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(InputError, match="crashed"):
        read_pdf_text(pdf("Some text."))


def test_a_reading_that_takes_too_long_is_ended() -> None:
    with pytest.raises(InputError, match="took more than"):
        read_pdf_text(pdf("Some text."), timeout_seconds=0.01)


@pytest.mark.parametrize(
    ("name", "words", "reason"),
    [
        ("text_4pages.pdf", 2580, None),
        ("text_multicolumn.pdf", 1081, None),
        ("scan_jbig2.pdf", 0, "no text"),
        ("enc_libreoffice_password.pdf", 0, "encrypted"),
        ("malformed_truncated.pdf", 0, "damaged"),
    ],
)
def test_real_files_are_read_or_refused(shared_data: Path, name: str, words: int, reason: str | None) -> None:
    file = (shared_data / "pdf" / name).read_bytes()
    if reason:
        with pytest.raises(InputError, match=reason):
            read_pdf_text(file)
    else:
        # Words broken at a line's end are one word here and two for some readers.
        assert len(read_pdf_text(file).split()) == pytest.approx(words, rel=0.05)


_lines = st.lists(
    st.one_of(
        st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=30),
        st.sampled_from(
            ["\n", "\n\n", "1.", "\n2.", "\n- ", "\nPage 3 of 4\n", "\nTone\n", "An end.", "3 A"]
        ),
    ),
    max_size=400,
).map(" ".join)


@given(_lines)
def test_every_word_of_a_text_is_in_a_passage_in_its_order_and_none_is_long(text: str) -> None:
    passages = split_passages(text)
    assert " ".join(passages).split() == text.split()
    assert all(len(passage) <= 600 for passage in passages)


def test_passages_are_items_and_paragraphs_with_the_headings_before_them() -> None:
    text = (
        "House rules\n\nTone\n\nWrite as you would speak to a colleague of yours.\n\n"
        "Lists\n- Be brief.\n- no full stop here\n\n2. Dates\nWrite the year first, always and everywhere.\n4"
    )
    assert split_passages(text) == (
        "House rules Tone Write as you would speak to a colleague of yours.",
        "Lists - Be brief.",
        "- no full stop here",
        "2. Dates Write the year first, always and everywhere. 4",
    )


def test_a_long_paragraph_is_split_at_its_sentences() -> None:
    sentences = [f"Sentence {number} says something of the matter in ten words." for number in range(30)]
    passages = split_passages("The matter\n" + " ".join(sentences))
    assert len(passages) == 3
    assert passages[0].startswith("The matter Sentence 0 ")
    assert all(passage.endswith("words.") for passage in passages)


def test_what_pdfium_leaves_in_a_text_is_cleaned() -> None:
    assert clean_text("guide\x02\r\nline one\r\nline\x00 two\x0c") == "guideline one\nline two"


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("1. Write in plain language.\n2. Name the audience you write for.", TWO),
        (
            "• Write in plain\nlanguage, always.\n• Name the audience you write for.",
            [f"{TWO[0][:-1]}, always.", TWO[1]],
        ),
        ("- Write in plain language.\n\n- Write in plain language.", ["Write in plain language."]),
        ("Rules\n\nWrite in plain language. Name the audience you write for.\n\nPage 3 of 4", TWO),
        ("a) Write in plain language.\nb) too short\nc) Name the audience you write for.", TWO),
        ("", []),
        ("1.1 Write in plain language.\n1.2 Name the audience you write for.", TWO),
        ("(1) Write in plain language.\n(b) Name the audience you write for.", TWO),
        ("Rule 1: Write in plain language.\nRule 2: Name the audience you write for.", TWO),
        ("1 Write in plain language.\n2 Name the audience you write for.", TWO),
        ("Headings are no rules\n\nWrite in plain language. Name the audience you write for.", TWO),
        ("Write in plain language\nName the audience you write for", [rule[:-1] for rule in TWO]),
        (WRAPPED, [WRAPPED_RULE, TWO[1]]),
        (TWO_PAGES, [TWO_PAGES_RULE, TWO[1]]),
    ],
)
def test_a_text_is_split_into_its_rules(text: str, rules: list[str]) -> None:
    assert split_rules(text) == rules


def test_there_are_at_most_two_hundred_rules_of_at_most_six_hundred_characters() -> None:
    text = "\n".join(f"{number}. Rule number {number} is this one." for number in range(300))
    assert len(split_rules(text)) == 200
    assert max(map(len, split_rules("- " + "x" * 2000 + "\n- The second rule of this text."))) <= 600


def test_what_is_stored_is_read_back_also_as_a_data_uri() -> None:
    stored = encode_guidelines(b"%PDF-1.7 and so on")
    assert decode_guidelines(stored) == b"%PDF-1.7 and so on"
    assert decode_guidelines(f"data:application/pdf;base64,{stored}") == b"%PDF-1.7 and so on"
    assert decode_guidelines(f"{stored[:8]}\r\n{stored[8:]}\n") == b"%PDF-1.7 and so on"


@pytest.mark.parametrize("stored", ["?" + base64.b64encode(b"x").decode(), "é", "data:text/plain,hello"])
def test_what_is_not_base64_is_refused(stored: str) -> None:
    with pytest.raises(InputError, match="not base64"):
        decode_guidelines(stored)
