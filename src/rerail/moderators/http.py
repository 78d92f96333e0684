"""Services that take JSON and give JSON: declared, by a policy file or by a few lines of ours.

moderators:
  - name: http
    options:
      url: https://moderation.example/v2/classify
      headers: {Authorization: "Bearer ${MODERATION_KEY}"}
      request: {text: "{answer}", context: "{prompt}"}
      scores:
        hate: labels.hate
        illicit: ["labels.crime", "labels.weapons"]
        custom/brand: 'labels[?name=brand].score'
      divide_by: 100
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from rerail._http import checked_url, is_credential, made
from rerail._keys import read_key
from rerail.errors import MissingDependencyError, ModeratorError
from rerail.moderators._http import Item, Options, Reply, Service, limited
from rerail.moderators._wire import ServiceError
from rerail.moderators.taxonomy import Taxonomy

_STEP = re.compile(
    r"""\.?(?P<key>[\w/-]+) | \["(?P<quoted>[^"]+)"\] | \[(?P<index>\d+)\]
      | \[\?(?P<where>[\w/-]+)="?(?P<equals>[^\]"]+)"?\]""",
    re.VERBOSE,
)
_PLACEHOLDER = re.compile(r"\{(answer|prompt|text|id)\}")
_VARIABLE = re.compile(r"\$\{([^}]*)\}")
_JUDGED = re.compile(r"\{(answer|text|turns)\}")


class JsonService(Service):
    """A service declared by its address, a template of its requests, and the path of its scores.

    Args:
        url: where it is asked.
        headers: sent with every request; the place for keys.
        taxonomy: how its names map to ours.
        request: the template of the body.
        score: the path of a name's score in a verdict, with ``{name}`` in the name's place.
        method: as for `HttpModerator`, like the others.
        item: in a template.
        results: a path.
        id: a path.
        divide_by: a number.
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: the URL, a path or an option is not usable, or a variable of the
            environment names a proxy or certificates that cannot be used.
        MissingDependencyError: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        taxonomy: Taxonomy,
        request: Any,
        score: str = "{name}",
        *,
        method: str = "POST",
        item: Any = None,
        results: str | None = None,
        id: str | None = None,
        divide_by: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        if results is None:
            options["batch_size"] = 1
        super().__init__(taxonomy, **options)
        self.url = checked_url(url, ModeratorError)
        self._method, self._request_template, self._item_template = method, request, item
        mapped = self.taxonomy.mapped
        self._paths = {name: parse_path(score.replace("{name}", name)) for name in mapped}
        self._results = None if results is None else parse_path(results)
        self._id = None if id is None else parse_path(id)
        self._divide_by = divide_by
        try:
            import httpx
        except ImportError:
            raise MissingDependencyError("httpx", "services") from None
        n = self.settings.concurrency
        pool = httpx.Limits(max_connections=n, max_keepalive_connections=n)
        self._client = made(
            # No time limit: `_request` sets it.
            lambda: httpx.AsyncClient(headers=dict(headers), limits=pool, timeout=None),  # noqa: S113
            ModeratorError,
        )
        self._thread.closers.append(self._client.aclose)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def send(self, items: Sequence[Item]) -> Reply:
        """One request through the pool; at most 8 MiB of reply are read.

        Raises:
            ServiceError: there is no reply.
        """
        import httpx

        body = self._filled(self._request_template, items)
        try:
            async with self._client.stream(self._method, self.url, json=body) as response:
                content = await limited(response.aiter_bytes())
        except httpx.TransportError as error:
            raise ServiceError(f"connection failed ({type(error).__name__})", retry=True) from None
        return Reply(response.status_code, response.headers, content)

    def parse(self, body: Any, items: Sequence[Item]) -> Sequence[Mapping[str, object]]:
        """What stands at the paths."""
        verdicts = [body] if self._results is None else list(find(body, self._results))
        if self._id is not None:
            by_id = {str(find(verdict, self._id)): verdict for verdict in verdicts}
            ids = [str(n) for n in range(len(items))]
            if len(verdicts) != len(items) or sorted(by_id) != sorted(ids):
                raise ServiceError("the reply's ids are not those that were sent")
            verdicts = [by_id[n] for n in ids]
        return [
            {name: _divided(find(v, path), self._divide_by) for name, path in self._paths.items()}
            for v in verdicts
        ]

    def _filled(self, template: Any, items: Sequence[Item], n: int = 0) -> Any:
        if template == "{texts}":
            return [item.joined for item in items]
        if template == "{items}":
            return [self._filled(self._item_template, [item], n) for n, item in enumerate(items)]
        if template == "{turns}":
            return items[0].turns
        if isinstance(template, str):
            item = items[0]
            values = {"answer": item.text, "prompt": item.prompt or "", "text": item.joined}
            return _PLACEHOLDER.sub(lambda match: {**values, "id": str(n)}[match[1]], template)
        if isinstance(template, Mapping):
            return {key: self._filled(value, items, n) for key, value in template.items()}
        if isinstance(template, list | tuple):
            return [self._filled(value, items, n) for value in template]
        return template


class HttpModerator(JsonService):
    """A service declared by its URL, a request template, and the paths to its scores.

    In the template, ``{answer}`` and ``{prompt}`` (the last user turn) stand for text, anywhere
    within strings; ``{text}`` is the answer too, behind the last user turn and an empty line where
    ``include_prompt`` is set, and ``"{turns}"`` the two as a list of messages with ``role`` and
    ``content``. A service that takes many texts in one request has ``"{texts}"`` (a list of
    texts) or ``"{items}"`` (a list of ``item``, a template that may hold ``{id}`` too) in its
    place, and ``results`` says where the list of its verdicts stands.

    A path is keys with dots between, ``["any key"]``, ``[0]``, or ``[?name=value]``: the first
    element of a list whose ``name`` is ``value``.

    Args:
        url: where the service is asked.
        scores: our category to the path of its score, or to several, of which the largest counts.
        request: the template of the body.
        headers: header to value; ``${NAME}`` is the environment variable NAME. A key cannot be
            written out.
        method: the HTTP method.
        item: the template of one element of ``"{items}"``.
        results: path to the list of verdicts, to which the paths of ``scores`` then apply.
        id: path within a verdict to the ``{id}`` it belongs to; without it, order decides.
        divide_by: what a number of the service is divided by to lie in [0, 1].
        options: those of `rerail.moderators._http.Settings`.

    Raises:
        ModeratorError: a path, a header, a template or an option is not usable, or a variable is
            not set.
    """

    name = "http"

    def __init__(
        self,
        url: str,
        scores: Mapping[str, str | Sequence[str]],
        request: Any,
        headers: Mapping[str, str] | None = None,
        method: str = "POST",
        item: Any = None,
        results: str | None = None,
        id: str | None = None,
        divide_by: float = 1.0,
        **options: Unpack[Options],
    ) -> None:
        used, used_in_item = set(_strings(request)), set(_strings(item))
        batched = bool(used & {"{texts}", "{items}"})
        if batched != (results is not None):
            raise ModeratorError("option 'results' belongs to a request with {texts} or {items}")
        if ("{items}" in used) != (item is not None) or "{items}" in used_in_item:
            raise ModeratorError("option 'item' belongs to a request with {items}")
        if not batched and not any(map(_JUDGED.search, used)):
            raise ModeratorError("option 'request' has no {answer}: nothing would be judged")
        if item is not None and not any(map(_JUDGED.search, used_in_item)):
            raise ModeratorError("option 'item' has no {answer}: nothing would be judged")
        if isinstance(divide_by, bool | str) or not 0 < divide_by < math.inf:
            raise ModeratorError(f"option 'divide_by' cannot be {divide_by!r}")
        if any("{prompt}" in text for text in used | used_in_item):
            options["include_prompt"] = True
        super().__init__(
            url,
            {name: _header(name, value) for name, value in (headers or {}).items()},
            _taxonomy(scores),
            request,
            method=method,
            item=item,
            results=results,
            id=id,
            divide_by=divide_by,
            **options,
        )


Path = tuple[str | int | tuple[str, str], ...]


def parse_path(path: str) -> Path:
    """The steps of a path: a key, an index, or a key with its value.

    Raises:
        ModeratorError: it cannot be read.
    """
    steps: list[str | int | tuple[str, str]] = []
    at = 1 if path.startswith("$") else 0
    while match := _STEP.match(path, at):
        at = match.end()
        if match["where"]:
            steps.append((match["where"], match["equals"]))
        else:
            steps.append(int(match["index"]) if match["index"] else match["key"] or match["quoted"])
    if at < len(path) or not steps:
        raise ModeratorError(f'not a path: {path!r} (such as results[0].scores["a key"])')
    return tuple(steps)


def find(value: Any, path: Path) -> Any:
    """What stands at a path; None if nothing does."""
    for step in path:
        if isinstance(step, tuple):
            name, wanted = step
            value = next((entry for entry in value if str(entry.get(name)) == wanted), None)
        elif isinstance(step, int):
            value = value[step] if step < len(value) else None
        else:
            value = value.get(step)
        if value is None:
            return None
    return value


def _taxonomy(scores: Mapping[str, str | Sequence[str]]) -> Taxonomy:
    mapped: dict[str, str] = {}
    for category, given in scores.items():
        for path in [given] if isinstance(given, str) else given:
            if path in mapped:
                raise ModeratorError(f"path {path!r} stands for two categories")
            mapped[path] = category
    return Taxonomy(mapped)


def _header(name: str, value: str) -> str:
    if is_credential(name) and not _VARIABLE.search(value):
        raise ModeratorError(
            f"header {name!r} holds a key: write ${{NAME}} and set the environment variable NAME"
        )
    return _VARIABLE.sub(
        lambda match: read_key(match[1], ModeratorError, f"headers: {name}"), value
    )


def _strings(template: Any) -> list[str]:
    """Every string in a template."""
    if isinstance(template, str):
        return [template]
    if isinstance(template, Mapping):
        template = list(template.values())
    if isinstance(template, list | tuple):
        return [text for value in template for text in _strings(value)]
    return []


def _divided(value: object, by: float) -> object:
    """A number divided; anything else as it is, to be found out later."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return value / by if number else value  # type: ignore[operator]
