"""The structure of an analysis, whoever wrote it: a language model or the local coverage measure."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from schemas.storable import CheckStorable

Sentence = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1, max_length=20_000), CheckStorable
]


class GuidelineFinding(BaseModel):
    """How one guideline stands in a record."""

    model_config = ConfigDict(extra="forbid")

    guideline: str = Field(min_length=1)
    covered: bool
    # Cosine similarity of record and guideline, -1 to 1; None where a language model judged.
    similarity: float | None = Field(default=None, ge=-1.0, le=1.0, allow_inf_nan=False)


class AlignmentReport(BaseModel):
    """What an analysis says of one record."""

    model_config = ConfigDict(extra="forbid")

    score: int = Field(ge=0, le=100, strict=True)
    method: str = Field(min_length=1, description="What made this report, in one sentence")
    summary: str = Field(min_length=1)
    # What a language model says in full; empty where none did.
    analysis: str = ""
    findings: list[GuidelineFinding]
    suggestions: list[str]

    def to_markdown(self) -> str:
        """Render the text that is kept in `alignmentAnalysis`."""
        parts = [f"**Alignment score: {self.score}/100**", f"_{self.method}_", self.summary]
        if self.analysis:
            parts.append(f"### Detailed analysis\n\n{self.analysis}")
        for title, covered in (("Covered guidelines", True), ("Guidelines not covered", False)):
            lines = [_finding_line(finding) for finding in self.findings if finding.covered is covered]
            if lines:
                parts.append(f"### {title}\n\n" + "\n".join(lines))
        if self.suggestions:
            title = "Suggested improvements" if self.analysis else "What to look at"
            parts.append(f"### {title}\n\n" + "\n".join(f"- {line}" for line in self.suggestions))
        return "\n\n".join(parts)


def _finding_line(finding: GuidelineFinding) -> str:
    if finding.similarity is None:
        return f"- {finding.guideline}"
    return f"- {finding.guideline} (similarity {finding.similarity:.2f})"


class AlignmentAnswer(BaseModel):
    """What a language model is to answer when it holds a record against guidelines."""

    model_config = ConfigDict(extra="ignore")

    score: int = Field(ge=0, le=100, strict=True)
    summary: Sentence
    analysis: Sentence
    suggestions: list[Sentence] = Field(max_length=20)


class LikertAnswer(BaseModel):
    """What a language model is to answer when it rates a record, both from 1 to 7."""

    model_config = ConfigDict(extra="ignore")

    realism: int = Field(ge=1, le=7, strict=True)
    quality: int = Field(ge=1, le=7, strict=True)


class TrendsReport(BaseModel):
    """What distinguishes a project's best records from its worst, whoever found it."""

    model_config = ConfigDict(extra="forbid")

    method: str = Field(min_length=1, description="What made this report, in one sentence")
    summary: str = Field(min_length=1)
    best: list[str]
    worst: list[str]
    advice: list[str]

    def to_markdown(self) -> str:
        """Render the text that is kept in `lastTaskAnalysis` and `lastFeedbackAnalysis`."""
        parts = [f"_{self.method}_", self.summary]
        for title, lines in (("Best", self.best), ("Worst", self.worst), ("Advice", self.advice)):
            if lines:
                parts.append(f"### {title}\n\n" + "\n".join(f"- {line}" for line in lines))
        return "\n\n".join(parts)


class TrendsAnswer(BaseModel):
    """What a language model is to answer when it compares the best records with the worst."""

    model_config = ConfigDict(extra="ignore")

    summary: Sentence
    best: list[Sentence] = Field(min_length=1, max_length=20)
    worst: list[Sentence] = Field(min_length=1, max_length=20)
    advice: list[Sentence] = Field(max_length=20)
