"""`/api/ai`: whether the models answer, and what is left of the account."""

from flask import Blueprint, Response

from api.answers import answer
from api.auth import require_role
from pipeline.ai import open_provider, run
from pipeline.database import transaction
from pipeline.probe import probe_models
from pipeline.system_settings import read_ai_config
from schemas.bodies import AiStatusAnswer, BalanceAnswer, ModelStatus
from schemas.enums import UserRole

blueprint = Blueprint("ai", __name__, url_prefix="/api/ai")


@blueprint.get("/status")
def status() -> Response:
    """Call both models once and answer how they did."""
    require_role(UserRole.ADMIN)
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
    return answer(AiStatusAnswer(provider=config.provider, status="ok" if is_up else "down", models=models))


@blueprint.get("/balance")
def balance() -> Response:
    """Answer with what the key has spent and what is left."""
    require_role(UserRole.ADMIN)
    with transaction() as session:
        provider = open_provider(read_ai_config(session))
    found = run(provider.balance())
    return answer(
        BalanceAnswer(
            provider=provider.name,
            is_prepaid=found is not None,
            spent_usd=found.spent_usd if found else None,
            remaining_usd=found.remaining_usd if found else None,
        )
    )
