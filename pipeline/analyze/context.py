"""What every chunk of an analysis needs to know, kept with the stage."""

from pydantic import BaseModel, ConfigDict


class AnalysisContext(BaseModel):
    """The provenance that all results of one analysis share."""

    model_config = ConfigDict(frozen=True)

    project_id: str
    provider: str
    model: str
    prompt_version: str
    guidelines_sha256: str
