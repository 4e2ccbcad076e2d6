"""The analyze stage: records held against the project's guidelines."""

from pipeline.analyze.assess import assess_chunk
from pipeline.analyze.plan import plan_analyze
from pipeline.analyze.start import (
    AnalysisStart,
    require_guidelines,
    start_analysis,
    start_due_analyses,
)

__all__ = [
    "AnalysisStart",
    "assess_chunk",
    "plan_analyze",
    "require_guidelines",
    "start_analysis",
    "start_due_analyses",
]
