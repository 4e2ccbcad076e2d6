"""What several routes answer with: a job's progress, what it has cost."""

from pipeline.jobviews import JobView
from schemas.bodies import Progress, Spent


def progress_of(view: JobView) -> Progress | None:
    """Say how far the stage under way, or the last one, is; None before the first."""
    if not view.stages:
        return None
    stage = view.stages[-1]
    return Progress(
        stage=stage.stage,
        done=stage.settled,
        total=stage.total,
        failed=stage.failed,
        rate_per_second=stage.rate,
        eta_seconds=stage.eta_seconds,
    )


def spent_of(view: JobView) -> Spent | None:
    """Say what a job's calls of models have used; None where there were none."""
    spent = view.spent
    if spent is None:
        return None
    return Spent(
        calls=spent.calls,
        input_tokens=spent.input_tokens,
        output_tokens=spent.output_tokens,
        cost_usd=spent.cost_usd or 0.0,
    )
