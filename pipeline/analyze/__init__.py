"""The analyze stage: records held against the project's guidelines; trends, and what it costs."""

from pipeline.analyze.assess import assess_chunk
from pipeline.analyze.estimate import Estimate, measure_analysis, price_analysis
from pipeline.analyze.plan import plan_analyze
from pipeline.analyze.single import RecordAlignment, align_record
from pipeline.analyze.start import (
    AnalysisStart,
    require_guidelines,
    start_analysis,
    start_due_analyses,
)
from pipeline.analyze.trends import analyze_trends

__all__ = [
    "AnalysisStart",
    "Estimate",
    "RecordAlignment",
    "align_record",
    "analyze_trends",
    "assess_chunk",
    "measure_analysis",
    "plan_analyze",
    "price_analysis",
    "require_guidelines",
    "start_analysis",
    "start_due_analyses",
]
