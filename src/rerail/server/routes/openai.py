"""``/v1``: what OpenAI's clients call."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from rerail.server import answers, stream
from rerail.server.answers import OpenAIReply
from rerail.server.errors import ApiError
from rerail.server.responses import ResponsesReply
from rerail.server.routes._examples import CHAT, COMPLETION, MODELS, MODERATION, RESPONSE
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
from rerail.server.schemas import (
    ChatRequest,
    CompletionRequest,
    ModerationRequest,
    ResponsesRequest,
    StreamOptions,
)
from rerail.server.service import Call, Service, named
from rerail.server.worker import Finished

router = APIRouter(prefix="/v1", tags=["OpenAI"])

_OF_ANSWERS = errors(404, 422, 429, 499, 500, 503)


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
    the policy says `release: window`. Calls of tools are judged as text of the answer, and are
    always held.
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


@router.post(
    "/responses",
    responses={**example("The answer, or the policy's message.", RESPONSE), **_OF_ANSWERS},
)
async def responses(
    request: Request,
    body: ResponsesRequest,
    key: Asking,
    service: ServiceDependency,
    policy: PolicyHeader = None,
) -> Response:
    """Answer a conversation under a policy, in the form of OpenAI's Responses.

    No state is kept: the whole conversation comes with each request. What is true of chat
    completions is true of these: the policy's message has the status `incomplete`, for the reason
    `content_filter`.
    """
    call = service.call("/v1/responses", key, body, policy)
    reply = ResponsesReply(call.id, body)
    if not body.stream:
        return await _at_once(request, call, reply.whole)
    return await _stream(
        request,
        call,
        reply.events,
        failed=lambda error: reply.failure(error["error"]),
        begin=reply.begin(),
    )


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
    reply = OpenAIReply(call.id, call.model, (), call.n)

    def whole(answered: Sequence[Finished]) -> dict[str, Any]:
        found = replace(reply, answered=answered)
        return found.chat() if chat else found.text()

    if not body.stream:
        return await _at_once(request, call, whole)
    options = body.stream_options or StreamOptions()
    chunks = answers.Chunks(reply, chat=chat)

    def told(answered: Sequence[Finished]) -> Iterator[bytes]:
        rest = chunks.rest(replace(reply, answered=answered), options.include_usage)
        return map(stream.event, rest)

    def piece(one: stream.Piece) -> Iterator[bytes]:
        return map(stream.event, chunks.piece(one.choice, one.text))

    def progress(so_far: stream.Progress) -> bytes:
        return stream.event(chunks.progress(so_far.document()))

    return await _stream(
        request,
        call,
        told,
        failed=lambda error: [stream.event(error)],
        piece=piece,
        progress=progress if options.include_progress else None,
        end=stream.DONE,
    )


async def _at_once(
    request: Request, call: Call, whole: Callable[[Sequence[Finished]], dict[str, Any]]
) -> Response:
    """One document."""
    try:
        answered = await stream.while_connected(request, service_of(request).answer(call))
    except stream.ClientGoneError:
        return gone()
    return JSONResponse(whole(answered), headers={"X-Request-Id": call.id})


async def _stream(
    request: Request,
    call: Call,
    told: Callable[[Sequence[Finished]], Iterable[bytes]],
    *,
    failed: Callable[[dict[str, Any]], Iterable[bytes]],
    begin: Iterable[bytes] = (),
    piece: Callable[[stream.Piece], Iterator[bytes]] | None = None,
    progress: Callable[[stream.Progress], bytes] | None = None,
    end: bytes = b"",
) -> Response:
    """Events.

    Args:
        request: of the client.
        call: that is answered.
        told: the events of the answers.
        failed: those of an error, by its document.
        begin: what comes before there is an answer.
        piece: the events of text that leaves before the rest of it; None: none does.
        progress: the event that says how far a search is; None: comments do.
        end: the last event, whatever came before.
    """
    service = service_of(request)
    feed = stream.Feed()
    work: asyncio.Future[list[Finished]] = asyncio.ensure_future(
        service.answer(call, feed.put, feed.release if piece else None)
    )
    try:
        await stream.quickly(request, work, min(1.0, service.settings.keep_alive), feed.begun)
    except stream.ClientGoneError:
        return gone()

    async def events() -> Any:
        for event in begin:
            yield event
        signs = stream.held_back(
            work, feed, service.settings.keep_alive, piece or (lambda _: iter(())), progress
        )
        async for sign in signs:
            yield sign
        try:
            answered = work.result()
        except Exception as error:
            found = failed(stream.failure(error))
        else:
            found = told(answered)
        for event in found:
            yield event
        yield end

    response = stream.EventStream(events(), work)
    response.headers["X-Request-Id"] = call.id
    return response
