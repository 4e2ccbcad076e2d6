"""`/api/ai`: whether the models answer, and what is left of the account."""

from flask import Blueprint

from api.openapi import answers
from pipeline.ai import open_provider, run
from pipeline.database import transaction
from pipeline.probe import probe_models
from pipeline.system_settings import read_ai_config
from schemas.ai_bodies import AiStatusAnswer, BalanceAnswer, ModelStatus

blueprint = Blueprint("ai", __name__, url_prefix="/api/ai")


@blueprint.get("/status")
@answers(AiStatusAnswer)
def status() -> AiStatusAnswer:
    """Call both models once and answer how they did."""
    with transaction() as session:
        config = read_ai_config(session)
    models = [
        ModelStatus(
            purpose=found.purpose,
            model=found.model,
            answers=found.error is None,
            milliseconds=found.milliseconds,
            detail=found.detail,
            error=found.error,
        )
        for found in probe_models(config)
    ]
    is_up = all(model.answers for model in models)
    return AiStatusAnswer(provider=config.provider, status="ok" if is_up else "down", models=models)


@blueprint.get("/balance")
@answers(BalanceAnswer, fails=[502])
def balance() -> BalanceAnswer:
    """Answer with what the key has spent and what is left."""
    with transaction() as session:
        provider = open_provider(read_ai_config(session))
    found = run(provider.balance())
    return BalanceAnswer(
        provider=provider.name,
        is_prepaid=found is not None,
        spent_usd=found.spent_usd if found else None,
        remaining_usd=found.remaining_usd if found else None,
    )
