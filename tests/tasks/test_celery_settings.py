"""What Celery would ignore without a word: settings that do not exist, entries that name no task."""

import inspect

from celery.app.defaults import NAMESPACES, flatten

import celeryconfig
from beat_schedule import SCHEDULE
from schemas.enums import Stage
from tasks import app
from tasks.publish import TASKS

OURS = {"Queue", "SCHEDULE", "endpoints", "get_settings"}


def test_every_setting_is_one_that_celery_knows() -> None:
    known = {name for name, _ in flatten(NAMESPACES)}
    used = {name for name in vars(celeryconfig) if not name.startswith("_")} - OURS
    assert used <= known


def test_every_beat_entry_names_a_registered_task_and_expires_before_its_next_run() -> None:
    app.loader.import_default_modules()
    for name, entry in SCHEDULE.items():
        assert entry["task"] in app.tasks, name
        assert entry["options"]["expires"] <= entry["schedule"], name


def test_every_stage_has_registered_tasks_on_a_queue_that_exists(servers: None) -> None:  # noqa: ARG001
    app.loader.import_default_modules()
    queues = {queue.name for queue in app.conf.task_queues}
    assert set(TASKS) == set(Stage)
    for name in (name for pair in TASKS.values() for name in pair):
        assert name in app.tasks
        assert app.amqp.router.route({}, name)["queue"].name in queues


def test_tasks_take_ids_and_numbers_alone() -> None:
    app.loader.import_default_modules()
    for name, task in app.tasks.items():
        if not name.startswith("celery."):
            kinds = {parameter.annotation for parameter in inspect.signature(task.run).parameters.values()}
            assert kinds <= {str, int}, name


def test_the_visibility_timeout_is_longer_than_any_task_may_run(servers: None) -> None:  # noqa: ARG001
    conf = app.conf
    assert conf.task_soft_time_limit < conf.task_time_limit
    assert conf.task_time_limit < conf.broker_transport_options["visibility_timeout"]
