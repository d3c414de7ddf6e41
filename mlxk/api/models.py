"""GET /v1/models and /v1/models/{id}"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path
from fastapi.responses import JSONResponse

from mlxk.api.answers import ModelCard, ModelList
from mlxk.api.examples import MODEL, MODELS
from mlxk.api.facade import Service
from mlxk.api.openapi import error_responses, json_answer
from mlxk.workers.protocol import FaultCode, fault

ModelPath = Annotated[
    str,
    Path(
        description="A model's name. Its slash may stand as it is or as `%2F`.",
        openapi_examples={"tiny": {"summary": "The built-in model", "value": "tiny"}},
    ),
]


def model_json(facts: Mapping[str, Any]) -> dict[str, Any]:
    """One model, in OpenAI's shape and with what a client needs to choose one."""
    name: str = facts["name"]
    organization, slash, _ = name.partition("/")
    return {
        "id": name,
        "object": "model",
        "created": int(facts["created"]),
        "owned_by": organization if slash else "mlxk",
        "context_length": facts["context_length"],
        "loaded": facts["loaded"],
        "capabilities": _capabilities(facts["capabilities"]),
    }


def _capabilities(capabilities: Any) -> dict[str, bool]:
    """From a mapping of names to booleans or from a list of names."""
    if isinstance(capabilities, Mapping):
        capabilities = [name for name, able in capabilities.items() if able]
    return {
        "tools": "tools" in capabilities,
        "reasoning": "reasoning" in capabilities,
        "vision": False,
    }


def models_router(service: Service) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", response_class=JSONResponse, responses=json_answer(ModelList, MODELS))
    async def list_models() -> JSONResponse:
        """The installed and healthy models."""
        models = [model_json(one) for one in await service.describe_models() if one["healthy"]]
        return JSONResponse({"object": "list", "data": models})

    @router.get(
        "/v1/models/{model:path}",
        response_class=JSONResponse,
        responses={**json_answer(ModelCard, MODEL), **error_responses(400, 404)},
    )
    async def get_model(model: ModelPath) -> JSONResponse:
        """One of them, by its name, an alias or an unmistakable part of its name. It need not be loaded."""
        if not model.strip("/"):
            raise HTTPException(404)
        facts = await service.describe_model(model)
        if not facts["healthy"]:
            message = f"Model '{model}' is installed but not complete. `mlxk list` says why."
            raise fault(FaultCode.MODEL_NOT_FOUND, message, param="model")
        return JSONResponse(model_json(facts))

    return router
