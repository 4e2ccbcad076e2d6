"""How work is queued: the Celery application and thin tasks.

`celery -A tasks worker` finds `app` here. A task takes ids and numbers, calls one function of `pipeline`,
and publishes what comes next; anything more belongs into `pipeline`.
"""

from tasks.app import app
from tasks.publish import publish, publish_removals

__all__ = ["app", "publish", "publish_removals"]
