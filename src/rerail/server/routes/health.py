"""For those who look after the server. No key is needed, and no name of a tenant is told."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from rerail import __version__
from rerail.server.routes._shared import ServiceDependency

router = APIRouter(tags=["Health"])


@router.get("/healthz")
async def healthz() -> Response:
    """The process answers."""
    return JSONResponse({"status": "ok", "version": __version__})


@router.get(
    "/readyz",
    responses={
        503: {"description": "The server stops, a model is gone, or the keys cannot be read."}
    },
)
async def readyz(service: ServiceDependency) -> Response:
    """Requests are taken."""
    if service.ready:
        return JSONResponse({"status": "ready"})
    return JSONResponse({"status": "not ready"}, 503, {"Retry-After": "5"})


@router.get("/metrics", response_class=Response)
async def metrics(service: ServiceDependency) -> Response:
    """Prometheus metrics."""
    return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)
