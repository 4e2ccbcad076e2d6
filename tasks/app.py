"""The Celery application. Its settings are in celeryconfig.py and are read at first use."""

import gc
import os
import sys
from typing import Any

from celery import Celery
from celery.signals import worker_init, worker_process_init

from pipeline.database import forget_engine
from pipeline.errors import PipelineError
from pipeline.migrations import prepare_database
from tasks.queues import DeclareQueues

app = Celery("opspipe", include=["tasks.ingest", "tasks.vectorize", "tasks.analyze", "tasks.schedule"])
app.config_from_object("celeryconfig")
app.steps["consumer"].add(DeclareQueues)


@worker_init.connect
def _prepare(**_: Any) -> None:  # noqa: ANN401 - what Celery sends is its own
    """Start on a database of the right revision, or say what to run and do not start."""
    try:
        prepare_database()
    except PipelineError as error:
        # Celery takes an exception of a signal's handler for a fault of its own and goes on.
        sys.stderr.write(f"opspipe: the worker does not start: {error}\n")
        sys.stderr.flush()
        os._exit(1)


@worker_process_init.connect
def _start_clean(**_: Any) -> None:  # noqa: ANN401 - what Celery sends is its own
    """Give the forked worker connections of its own: a shared one mixes up answers."""
    forget_engine()
    # What was imported stays for good, and what a chunk makes is freed without the collector, which looked
    # through thousands of records over and over: 7% of a load's own work.
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
