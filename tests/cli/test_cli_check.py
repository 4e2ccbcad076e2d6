"""`opspipe check` as a person uses it: it needs no server and leaves nothing behind."""

import json
import os
import subprocess
import sys
from pathlib import Path

OPSPIPE = Path(sys.executable).with_name("opspipe")
BATCH = "id,prompt,rating\n1,A prompt that is long enough,5\n1,The same identity again,5\n2,,1\n"


def check(folder: Path, *arguments: str, content: str = BATCH) -> subprocess.CompletedProcess[str]:
    file, home = folder / "batch.csv", folder / "home"
    file.write_text(content)
    environment = os.environ | {"OPSPIPE_HOME": str(home), "COLUMNS": "120"}
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
    assert "the provider local costs nothing" in done.stdout
    assert done.stderr == ""


def test_a_file_is_described_for_programs(tmp_path: Path) -> None:
    report = json.loads(check(tmp_path, "--json").stdout)

    assert report["skipped_lines"] == {"Duplicate ID": [3], "Empty Content": [4]}
    assert report["columns"]["TASK"]["rating"] == ["rating"]


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
