"""Celery's settings. Why each is as it is: docs/decisions/0002-queue.md.

Read when Celery first needs them, not at import of the application: with no broker URL set, reading them
starts or joins the embedded broker.
"""

from kombu import Queue

from beat_schedule import SCHEDULE
from pipeline.ai import longest_work_seconds as _longest_work_seconds
from pipeline.database import PATIENCE_SECONDS as _PATIENCE_SECONDS
from pipeline.servers import endpoints
from pipeline.settings import get_settings
from tasks.queues import quorum_queue as _quorum_queue

# Work ends by itself before: when its time is up, the calls that are under way are still waited for in each
# of an analysis' two steps, a list of models may be asked for, and then the database is waited for, to write
# and to ask whether it has written.
_HARD_LIMIT_SECONDS = int(
    max(
        3600,
        _longest_work_seconds() + 4 * get_settings().ai_call_seconds + 2 * _PATIENCE_SECONDS + 60,
    )
)
_is_amqp = get_settings().broker_url.startswith("amqp")

broker_url = endpoints().broker_url
broker_connection_retry_on_startup = True
broker_connection_max_retries = None  # the default gives up after 100

# The ledger decides when a stage is over, so results are nobody's business.
result_backend = None
task_ignore_result = True

accept_content = ["json"]
task_serializer = "json"

# A message stays on the queue until its chunk's outcome is on the ledger, whoever dies in between.
task_acks_late = True
task_reject_on_worker_lost = True
worker_prefetch_multiplier = 1
# What runs goes on without its broker: the outcome is the ledger's, and a second delivery finds the lease.
worker_cancel_long_running_tasks_on_connection_loss = False

task_soft_time_limit = _HARD_LIMIT_SECONDS - 60
task_time_limit = _HARD_LIMIT_SECONDS

# A stopping worker may finish its chunk, which takes less; an idle one leaves at once.
worker_soft_shutdown_timeout = 3.0
worker_max_tasks_per_child = 2000
worker_send_task_events = True
task_send_sent_event = True
worker_hijack_root_logger = True

timezone = get_settings().timezone
enable_utc = True

task_default_queue = "schedule"
task_create_missing_queues = False
_queue_names = ("ingest", "vectorize", "analyze", "schedule")
task_routes = {f"{name}.*": {"queue": name} for name in _queue_names}

if _is_amqp:
    task_default_queue_type = "quorum"
    # A countdown on a direct exchange blocks the worker; on a topic exchange it does not.
    task_default_exchange_type = "topic"
    task_default_exchange = "opspipe"
    # Nobody uses countdowns, but each worker declares 28 queues for them: these are the cheaper ones.
    broker_native_delayed_delivery_queue_type = "classic"
    # Publishing returns when the message is on its queue, and not when it has left this process.
    broker_transport_options: dict[str, object] = {"confirm_publish": True}
    # A second try is for a connection that the broker has closed meanwhile; the sweeper does the others.
    task_publish_retry_policy = {
        "max_retries": 1,
        "interval_start": 0,
        "interval_step": 0.2,
        "interval_max": 0.2,
    }
    # With quorum queues a running consumer's prefetch cannot be changed (there is no global QoS): what is
    # reduced after a lost connection would stay so, and the worker would run one task at a time.
    worker_enable_prefetch_count_reduction = False
    task_queues = [_quorum_queue(name) for name in _queue_names]
else:
    task_queues = [Queue(name, routing_key=name) for name in _queue_names]
    broker_transport_options = {
        # What a worker has held for so long is delivered to another one too: it may have died, and while it
        # works the ledger says so.
        "visibility_timeout": 4 * get_settings().lease_seconds,
        "socket_keepalive": True,
        "socket_timeout": 30,
        "global_keyprefix": "opspipe:",
    }

beat_schedule = SCHEDULE
beat_max_loop_interval = 5
