"""`opspipe check` as a person uses it: it needs no server and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.ai import guess_tokens
from pipeline.analyze.prompts import alignment_prompt
from pipeline.guidelines import read_guidelines
from pipeline.sample import write_guidelines_pdf

OPSPIPE = Path(sys.executable).with_name("opspipe")
BATCH = "id,prompt,rating\n1,A prompt that is long enough,5\n1,The same identity again,5\n2,,1\n"


PRICED = {
    "AI_PROVIDER": "lmstudio",
    "EMBEDDING_PRICE": "1000",
    "LLM_INPUT_PRICE": "2000",
    "LLM_OUTPUT_PRICE": "4000",
}


def check(
    folder: Path, *arguments: str | Path, content: str = BATCH, **variables: str
) -> subprocess.CompletedProcess[str]:
    file, home = folder / "batch.csv", folder / "home"
    file.write_text(content)
    environment = os.environ | {"OPSPIPE_HOME": str(home), "COLUMNS": "120"} | variables
    done = subprocess.run(
        [OPSPIPE, "check", file, "--type", "task", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not home.exists()
    return done


def test_a_file_is_described_for_people(tmp_path: Path) -> None:
    done = check(tmp_path)

    assert done.returncode == 0
    assert "3 rows in utf-8, delimiter comma, 3 columns" in done.stdout
    assert "1 would become records" in done.stdout
    assert "Duplicate ID" in done.stdout
    assert "tokens to embed; the provider local costs nothing" in done.stdout
    assert "An analysis by the provider local asks no language model and costs nothing." in done.stdout
    assert done.stderr == ""


def test_a_file_is_described_for_programs(tmp_path: Path) -> None:
    report = json.loads(check(tmp_path, "--json").stdout)

    assert report["skipped_lines"] == {"Duplicate ID": [3], "Empty Content": [4]}
    assert report["columns"]["TASK"]["rating"] == ["rating"]
    assert report["estimated_cost_usd"] == 0.0
    assert report["estimated_analysis"] == {
        "calls": 0,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": 0.0,
        "has_guidelines": False,
    }


def test_embedding_and_an_analysis_are_priced_as_the_environment_says(tmp_path: Path) -> None:
    report = json.loads(check(tmp_path, "--json", **PRICED).stdout)

    # 28 characters of one record.
    assert (report["estimated_tokens"], report["estimated_cost_usd"]) == (7, pytest.approx(0.007))
    analysis = report["estimated_analysis"]
    prompt = alignment_prompt("", "")
    assert analysis["input_tokens"] == guess_tokens(prompt.system + prompt.user) + 7
    assert (analysis["calls"], analysis["output_tokens"], analysis["has_guidelines"]) == (1, 350, False)
    assert analysis["cost_usd"] == pytest.approx(analysis["input_tokens"] * 2e-3 + 350 * 4e-3)
    said = check(tmp_path, **PRICED).stdout
    assert "About 7 tokens to embed; 0.0070 USD." in said
    assert (
        f"An analysis would make 1 calls, with about {analysis['input_tokens']:,} tokens to read, without "
        "the guidelines' text (see --guidelines), and 350 to write; "
    ) in said
    assert said.rstrip().endswith(f"{analysis['cost_usd']:.2f} USD.")


def test_an_analysis_reads_the_guidelines_that_are_given_as_far_as_the_model_takes_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "g.pdf"
    write_guidelines_pdf(file)
    text = read_guidelines(file.read_bytes()).text

    without, whole, cut = (
        json.loads(check(tmp_path, "--json", *more, **PRICED, **variables).stdout)["estimated_analysis"]
        for more, variables in (
            ((), {}),
            (("--guidelines", file), {}),
            (("--guidelines", file), {"LLM_CONTEXT": "1700"}),
        )
    )

    assert whole["has_guidelines"]
    assert whole["input_tokens"] == without["input_tokens"] + guess_tokens(text)
    assert without["input_tokens"] < cut["input_tokens"] < whole["input_tokens"]
    said = check(tmp_path, "--guidelines", file, **PRICED).stdout
    assert f"{whole['input_tokens']:,} tokens to read and 350 to write" in said


def test_what_nobody_has_priced_is_counted_and_said_to_be_unknown(tmp_path: Path) -> None:
    done = check(tmp_path, AI_PROVIDER="lmstudio", EMBEDDING_PRICE="", LLM_INPUT_PRICE="1")

    assert "what they cost is not known: EMBEDDING_PRICE says it" in done.stdout
    assert "what they cost is not known: LLM_INPUT_PRICE and LLM_OUTPUT_PRICE say it" in done.stdout


def test_a_price_that_is_none_is_an_error_in_one_line(tmp_path: Path) -> None:
    done = check(tmp_path, **PRICED | {"EMBEDDING_PRICE": "cheap"})

    assert done.returncode == 1
    assert "EMBEDDING_PRICE is 'cheap': it must be a price" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_file_that_would_be_refused_is_an_error_in_one_line(tmp_path: Path) -> None:
    done = check(tmp_path, content='id,prompt\n1,"open\n')

    assert done.returncode == 1
    assert "line 2" in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_a_mapping_to_no_column_is_an_error(tmp_path: Path) -> None:
    done = check(tmp_path, "--map", "content=answer")

    assert done.returncode == 1
    assert "answer" in done.stderr


def test_a_file_without_a_content_column_says_what_stands_in_for_it(tmp_path: Path) -> None:
    done = check(tmp_path, content="id,remark\n1,A remark that is long enough\n")

    assert "the longest value of the row" in done.stdout
