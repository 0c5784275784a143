"""All routes of a listener as one ASGI application behind its gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from starlette.routing import BaseRoute, Route, Router
from starlette.types import Receive, Scope, Send

from genrecall.serve.dialects.oip import OpenInference
from genrecall.serve.dialects.openai import ChatCompletions
from genrecall.serve.dialects.tf_serving import TfServing
from genrecall.serve.http.admin import Admin
from genrecall.serve.http.api import NativeApi
from genrecall.serve.http.gate import Gate
from genrecall.serve.http.health import Health
from genrecall.serve.http.insight import Insight
from genrecall.serve.http.openapi import openapi_route
from genrecall.serve.http.pages import Pages
from genrecall.serve.limiter import Limiter
from genrecall.serve.service import Service

_ADMINS = 8


def data_routes(service: Service, health: Health) -> list[Route]:
    """Everything that clients may ask for; nothing is asked of the service yet."""
    return [
        *NativeApi(service).routes(),
        *Insight(service).routes(),
        *health.routes(),
        *OpenInference(service).routes(),
        *ChatCompletions(service).routes(),
        *TfServing(service).routes(),
        openapi_route(),
        *Pages().routes(),
    ]


def data_app(service: Service, health: Health | None = None) -> Gate:
    """What clients reach."""
    health = health or Health(service)
    routes = data_routes(service, health)
    gate = Gate(_Routes(routes), service.config, service.metrics, routes, service.limiter, service.tracing)
    health.gate = gate
    return gate


def admin_app(service: Service) -> Gate:
    """What the operator reaches, over a socket that only the owner can open: no keys."""
    routes: list[BaseRoute] = [*Admin(service).routes(), *Health(service).routes()]
    config = replace(service.config, keys=None, host="127.0.0.1", rate_per_s=None)
    return Gate(_Routes(routes), config, service.metrics, routes, Limiter(_ADMINS, config.deadline_s))


class _Routes:
    """Starlette's router, without the middleware that Starlette's application puts around it."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # then unknown paths and methods raise, and the gate words the answer
        await self._router(scope, receive, send)
