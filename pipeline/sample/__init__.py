"""The demo's own data: a batch of tasks and feedback from a seed, and guidelines to hold it against."""

from pipeline.sample.batch import SampleFacts, write_sample_csv
from pipeline.sample.guidelines_pdf import RULES, write_guidelines_pdf

__all__ = ["RULES", "SampleFacts", "write_guidelines_pdf", "write_sample_csv"]
