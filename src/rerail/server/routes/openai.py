"""``/v1``: what OpenAI's clients call."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from rerail.server import answers, stream
from rerail.server.answers import OpenAIReply
from rerail.server.errors import ApiError
from rerail.server.routes._examples import CHAT, COMPLETION, MODELS, MODERATION
from rerail.server.routes._shared import (
    Asking,
    Caller,
    PolicyHeader,
    ServiceDependency,
    errors,
    example,
    gone,
    service_of,
)
from rerail.server.schemas import ChatRequest, CompletionRequest, ModerationRequest
from rerail.server.service import Call, Service, named
from rerail.server.worker import Finished

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_OF_ANSWERS = errors(404, 429, 499, 500, 503)


@router.post(
    "/chat/completions",
    responses={**example("The answer, or the policy's message.", CHAT), **_OF_ANSWERS},
)
async def chat_completions(
    request: Request,
    body: ChatRequest,
    key: Asking,
    service: ServiceDependency,
    policy: PolicyHeader = None,
) -> Response:
    """Answer a conversation under a policy.

    An answer that the policy does not flag is the model's own, byte for byte. Otherwise the model
    is steered to another one; where none is found, the answer is the policy's message and
    `finish_reason` is `content_filter`. With `stream`, text is held until it is accepted, unless
    the policy says `release: window`.
    """
    call = service.call("/v1/chat/completions", key, body, policy)
    return await _answer(request, call, body, chat=True)


@router.post(
    "/completions",
    responses={**example("The continuation, or the policy's message.", COMPLETION), **_OF_ANSWERS},
)
async def completions(
    request: Request,
    body: CompletionRequest,
    key: Asking,
    service: ServiceDependency,
    policy: PolicyHeader = None,
) -> Response:
    """Continue texts as they stand, without the model's chat template."""
    call = service.call("/v1/completions", key, body, policy)
    return await _answer(request, call, body, chat=False)


@router.get("/models", responses={**example("The models.", MODELS), **errors()})
async def models(key: Caller, service: ServiceDependency) -> Response:
    """The models that there are."""
    return JSONResponse({"object": "list", "data": [_model(service, m) for m in service.workers]})


@router.get(
    "/models/{model:path}", responses={**example("A model.", MODELS["data"][0]), **errors(404)}
)
async def model(model: str, key: Caller, service: ServiceDependency) -> Response:
    """One model."""
    if model not in service.workers:
        raise ApiError(f"no model {model[:256]!r}", "model_not_found", param="model")
    return JSONResponse(_model(service, model))


@router.post(
    "/moderations", responses={**example("A verdict per text.", MODERATION), **errors(429, 503)}
)
async def moderations(
    body: ModerationRequest, key: Asking, service: ServiceDependency, policy: PolicyHeader = None
) -> Response:
    """Judge texts by the policy's moderators, in OpenAI's format.

    `flagged` is the policy's word, moderators that confirm included. Categories are those that its
    moderators give. With `messages`, texts are judged as answers to that conversation, as they are
    when rerail answers; `rerail.conversation` says whether they were.
    """
    served = service.choose(key, None, named(policy, body.policy))
    exchanges = body.exchanges()
    if any(not exchange.answer.strip() for exchange in exchanges):
        raise ApiError(
            "there is nothing to judge in an empty text", "invalid_request", param="input"
        )
    verdicts = await service.moderated(served, exchanges)
    if causes := [v.unscored for v in verdicts if v.unscored is not None]:
        raise ApiError(
            f"no verdict: {causes[0]}",
            "moderator_unavailable",
            retry_after=service.settings.retry_after,
        )
    tag = served.policy.tag
    return JSONResponse(
        {
            "id": f"modr-{secrets.token_hex(12)}",
            "model": f"{tag.name}@{tag.version}",
            "results": [answers.verdict_fields(v, served.panel) for v in verdicts],
            "rerail": {"conversation": body.messages is not None},
        }
    )


def _model(service: Service, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": service.started, "owned_by": "rerail"}


async def _answer(
    request: Request,
    call: Call,
    body: ChatRequest | CompletionRequest,
    *,
    chat: bool,
) -> Response:
    service = service_of(request)
    headers = {"X-Request-Id": call.id}
    if body.stream:
        return await _stream(request, call, body, chat=chat)
    try:
        answered = await stream.while_connected(request, service.answer(call))
    except stream.ClientGoneError:
        return gone()
    reply = OpenAIReply(call.id, call.model, answered, call.n)
    return JSONResponse(reply.chat() if chat else reply.text(), headers=headers)


async def _stream(
    request: Request,
    call: Call,
    body: ChatRequest | CompletionRequest,
    *,
    chat: bool,
) -> Response:
    service = service_of(request)
    options = body.stream_options
    feed = stream.Feed()
    work: asyncio.Future[list[Finished]] = asyncio.ensure_future(
        service.answer(call, feed.put, feed.release)
    )
    try:
        await stream.quickly(request, work, min(1.0, service.settings.keep_alive), feed.begun)
    except stream.ClientGoneError:
        return gone()
    reply = OpenAIReply(call.id, call.model, (), call.n)
    chunks = answers.Chunks(reply, chat=chat)

    def piece(one: stream.Piece) -> Iterator[bytes]:
        return map(stream.event, chunks.piece(one.choice, one.text))

    def progress(so_far: stream.Progress) -> bytes:
        return stream.event(chunks.progress(so_far.document()))

    async def events() -> Any:
        wanted = progress if options is not None and options.include_progress else None
        async for sign in stream.held_back(work, feed, service.settings.keep_alive, piece, wanted):
            yield sign
        try:
            answered = replace(reply, answered=work.result())
        except Exception as error:
            yield stream.event(stream.failure(error))
        else:
            for chunk in chunks.rest(answered, options is not None and options.include_usage):
                yield stream.event(chunk)
        yield stream.DONE

    response = stream.EventStream(events(), work)
    response.headers["X-Request-Id"] = call.id
    return response
