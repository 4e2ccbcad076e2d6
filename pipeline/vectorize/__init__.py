"""The vectorize stage: embeddings for records that have none yet, of a job or of a whole project."""

from pipeline.vectorize.chunk import vectorize_chunk
from pipeline.vectorize.plan import plan_vectorize
from pipeline.vectorize.start import VectorizationStart, start_vectorization

__all__ = ["VectorizationStart", "plan_vectorize", "start_vectorization", "vectorize_chunk"]
