"""What every chunk of an analysis needs to know, kept with the stage."""

from pydantic import BaseModel, ConfigDict


class AnalysisContext(BaseModel):
    """The project that is analyzed.

    Provider, model and guidelines are not here: a chunk takes those that are set when it begins, so that one
    that is taken up again later does not judge by what was replaced.
    """

    model_config = ConfigDict(frozen=True)

    project_id: str
