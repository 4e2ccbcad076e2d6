"""`opspipe ingest`: batches on their way in."""

from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from cli.common import database
from cli.output import console
from cli.wait import StrictOption, WaitOption, require_wait, wait_for
from pipeline.analyze import require_guidelines
from pipeline.errors import InputError
from pipeline.ingest.fetched import submit_url
from pipeline.ingest.submit import submit_csv
from pipeline.projects import ensure_project
from schemas.enums import RecordType
from schemas.options import IngestOptions
from tasks import publish


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ingest)


TypeOption = Annotated[
    RecordType, typer.Option("--type", case_sensitive=False, help="What rows are by default.")
]
KeywordsOption = Annotated[
    str, typer.Option(help="Keep only rows whose content has one of these, comma-separated.")
]
MappingOption = Annotated[
    list[str] | None, typer.Option("--map", metavar="TARGET=COLUMN", help="Take a value from a column.")
]
EncodingOption = Annotated[str | None, typer.Option(help="The file's encoding, where it is not UTF-8.")]
DelimiterOption = Annotated[
    str | None, typer.Option(help="The file's delimiter, where it is not to be detected.")
]


def ingest(
    sources: Annotated[
        list[str], typer.Argument(metavar="FILE|URL...", help="CSV files, or URLs of batches in JSON.")
    ],
    *,
    project: Annotated[str, typer.Option(help="Project that gets the records; made if missing.")],
    record_type: TypeOption,
    keywords: KeywordsOption = "",
    mapping: MappingOption = None,
    encoding: EncodingOption = None,
    delimiter: DelimiterOption = None,
    embed: Annotated[bool, typer.Option("--embed/--no-embed", help="Vectorize after loading.")] = True,
    analyze: Annotated[bool, typer.Option("--analyze", help="Analyze after that.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Load bytes again that were loaded before.")] = False,
    wait: WaitOption = False,
    strict: StrictOption = False,
) -> None:
    """Load CSV files, or batches in JSON by URL. With --wait, exit 0 only if every job completed."""
    options = make_options(
        record_type=record_type,
        keywords=keywords,
        mapping=mapping,
        encoding=encoding,
        delimiter=delimiter,
        embed=embed,
        analyze=analyze,
    )
    require_wait(wait=wait, strict=strict)
    _refuse_missing(sources)
    with database() as session:
        project_id = ensure_project(session, project).id
        if analyze:
            require_guidelines(session, project_id)
    job_ids = [_submit(source, project_id, options, force=force) for source in sources]
    if not wait:
        console.print("Follow with [bold]opspipe watch JOB[/]; jobs run while `opspipe up` does.")
        return
    if not all([wait_for(job_id, follow=analyze, strict=strict) for job_id in job_ids]):  # noqa: C419 - every job is waited for
        raise typer.Exit(1)


def make_options(
    *, keywords: str, mapping: list[str] | None, delimiter: str | None, **others: object
) -> IngestOptions:
    """Make a job's options of what the command line says.

    Raises:
        InputError: an option holds what it may not hold.
    """
    values = others | {
        "keywords": tuple(word.strip() for word in keywords.split(",") if word.strip()),
        "mapping": _parse_mapping(mapping or []),
        "delimiter": {"\\t": "\t", "tab": "\t"}.get(delimiter or "", delimiter),
    }
    try:
        return IngestOptions.model_validate(values)
    except ValidationError as error:
        raise InputError("; ".join(item["msg"] for item in error.errors())) from None


def _parse_mapping(entries: list[str]) -> dict[str, str]:
    mapping = {}
    for entry in entries:
        target, separator, column = entry.partition("=")
        if not separator or not target or not column:
            raise InputError(f"--map takes TARGET=COLUMN, for example content=answer, not {entry!r}")
        mapping[target] = column
    return mapping


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _refuse_missing(sources: list[str]) -> None:
    """See that every file is there before the first one is submitted."""
    for source in sources:
        if not _is_url(source) and not Path(source).is_file():
            raise typer.BadParameter(f"there is no file {source}", param_hint="FILE|URL")


def _submit(source: str, project_id: str, options: IngestOptions, *, force: bool) -> str:
    if _is_url(source):
        submission = submit_url(project_id, source, options=options, force=force)
        size = "to be fetched"
    else:
        file = Path(source)
        with file.open("rb") as data:
            submission = submit_csv(project_id, data, file_name=file.name, options=options, force=force)
        size = f"{submission.size_bytes:,} bytes"
    publish([submission.plan])
    console.print(f"{source}: job [bold]{submission.job_id}[/], {size}", soft_wrap=True)
    return submission.job_id
