"""The Celery application. Its settings are in celeryconfig.py and are read at first use."""

from typing import Any

from celery import Celery
from celery.signals import worker_process_init

from pipeline.database import forget_engine

app = Celery("opspipe", include=["tasks.ingest", "tasks.vectorize", "tasks.analyze", "tasks.schedule"])
app.config_from_object("celeryconfig")


@worker_process_init.connect
def _start_clean(**_: Any) -> None:  # noqa: ANN401 - what Celery sends is its own
    """Give the forked worker connections of its own: a shared one mixes up answers."""
    forget_engine()
