"""The structure of an analysis, whoever wrote it: a language model or the local coverage measure."""

from pydantic import BaseModel, ConfigDict, Field


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
    findings: list[GuidelineFinding]
    suggestions: list[str]

    def to_markdown(self) -> str:
        """Render the text that is kept in `alignmentAnalysis`."""
        parts = [f"**Alignment score: {self.score}/100**", f"_{self.method}_", self.summary]
        for title, covered in (("Covered guidelines", True), ("Guidelines not covered", False)):
            lines = [_finding_line(finding) for finding in self.findings if finding.covered is covered]
            if lines:
                parts.append(f"### {title}\n\n" + "\n".join(lines))
        if self.suggestions:
            parts.append("### What to look at\n\n" + "\n".join(f"- {line}" for line in self.suggestions))
        return "\n\n".join(parts)


def _finding_line(finding: GuidelineFinding) -> str:
    if finding.similarity is None:
        return f"- {finding.guideline}"
    return f"- {finding.guideline} (similarity {finding.similarity:.2f})"
