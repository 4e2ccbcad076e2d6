"""What every chunk of an analysis needs to know, kept with the stage."""

from pydantic import BaseModel, ConfigDict


class AnalysisContext(BaseModel):
    """The guidelines that all records of one analysis are held against.

    Provider and model are not here: a chunk takes those that are set when it begins.
    """

    model_config = ConfigDict(frozen=True)

    project_id: str
    guidelines_sha256: str
