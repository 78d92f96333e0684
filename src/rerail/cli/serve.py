"""``rerail serve``: the OpenAI-compatible server, and the keys for it."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from rerail.cli import _options as options
from rerail.cli._frame import Report, notes
from rerail.cli._options import Setup
from rerail.cli._rows import show_rows
from rerail.engines import DEFAULT_MODEL
from rerail.errors import MissingDependencyError, StoreError
from rerail.policy import Policy
from rerail.server.settings import ServerSettings

if TYPE_CHECKING:
    from rerail.server.keys import ApiKey

commands = typer.Typer(
    help="Serve models under policies, with OpenAI's API.",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
keys_commands = typer.Typer(help="Make, list and revoke API keys.", no_args_is_help=True)
commands.add_typer(keys_commands, name="keys")

DEFAULT_NAME = "rerail"
"""Of the model where none is given."""

NO_STORE = "none"
_DEFAULTS = ServerSettings()
_server, _limits, _security, _records = (
    partial(typer.Option, rich_help_panel=panel)
    for panel in ("Server", "Limits", "Security", "Records")
)


class Recorded(StrEnum):
    """Which answers are recorded."""

    INTERVENTIONS = "interventions"
    ALL = "all"


class LogLevel(StrEnum):
    """What is logged. Never a prompt or an answer."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def data_folder() -> Path:
    """Where a user's keys and records are, if nothing else is said."""
    import platformdirs

    return platformdirs.user_data_path("rerail")


def default_keys() -> Path:
    """The file of keys, if nothing else is said."""
    return data_folder() / "keys.yaml"


def default_store() -> Path:
    """The records of a server, if nothing else is said."""
    return data_folder() / "serve.sqlite"


@commands.callback()
def serve(
    context: typer.Context,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="[NAME=]MODEL, several times for several: NAME is what clients use, MODEL is "
            f"{options.MODELS}, vllm:MODEL, vllm-server:URL?model=MODEL, or 'fake'. "
            f"Default: {DEFAULT_NAME}={DEFAULT_MODEL}.",
            rich_help_panel="Model",
        ),
    ] = None,
    policies: options.PoliciesOption = None,
    policy: Annotated[
        str,
        typer.Option(
            "--policy",
            help="Default policy of the server.",
            autocompletion=options.policy_names,
        ),
    ] = _DEFAULTS.default_policy,
    model_policy: Annotated[
        list[str] | None,
        typer.Option("--model-policy", help="NAME=POLICY: default policy of a model."),
    ] = None,
    host: Annotated[str, _server("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, _server("--port", min=0, max=65535, help="0: any.")] = 8000,
    keys: Annotated[
        Path | None,
        _security("--keys", help="File of API keys; needed on any address but loopback."),
    ] = None,
    limits: Annotated[
        str | None,
        _security(
            "--limits",
            help="redis://HOST:PORT where what keys ask for is counted for several servers "
            "together. Default: each counts for itself.",
        ),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        _security(
            "--cors-origin",
            help="A page's origin that may call, as https://app.example; may be repeated.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        _security(
            "--allowed-host",
            help="Name that the server answers to; may be repeated. Default: any with keys, else "
            "loopback's.",
        ),
    ] = None,
    tls_certificate: Annotated[
        Path | None, _security("--tls-certificate", exists=True, dir_okay=False, help="PEM file.")
    ] = None,
    tls_key: Annotated[
        Path | None, _security("--tls-key", exists=True, dir_okay=False, help="PEM file.")
    ] = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    max_new_tokens: options.MaxNewTokensOption = _DEFAULTS.max_new_tokens,
    max_new_tokens_limit: Annotated[
        int,
        _limits(
            "--max-new-tokens-limit",
            min=1,
            help="Tokens per answer at most, whatever a request says.",
        ),
    ] = _DEFAULTS.max_new_tokens_limit,
    temperature: options.TemperatureOption = _DEFAULTS.temperature,
    seed: options.SeedOption = _DEFAULTS.seed,
    max_open: options.MaxOpenOption = _DEFAULTS.max_open,
    max_waiting: Annotated[
        int,
        _limits("--max-waiting", min=1, help="Requests of one key that may wait; more get 429."),
    ] = _DEFAULTS.max_waiting,
    request_seconds: Annotated[
        float,
        _limits("--request-seconds", min=0.001, help="Deadline of a request, its wait included."),
    ] = _DEFAULTS.request_seconds,
    max_body_bytes: Annotated[
        int, _limits("--max-body-bytes", min=1, help="Of a request.")
    ] = _DEFAULTS.max_body_bytes,
    grace: Annotated[
        float,
        _limits("--grace", min=0, help="Seconds that open requests get to finish at SIGTERM."),
    ] = _DEFAULTS.grace,
    store: Annotated[
        str | None,
        _records(
            "--store",
            help="Path or SQLAlchemy URL of the records; 'none' keeps none. Default: "
            "serve.sqlite in the user's data folder.",
        ),
    ] = None,
    record: Annotated[
        Recorded, _records("--record", help="What is recorded.")
    ] = Recorded.INTERVENTIONS,
    retention_days: Annotated[
        float | None, _records("--retention-days", min=0.001, help="Delete records that are older.")
    ] = None,
    otel: Annotated[
        bool,
        _server("--otel", help="OpenTelemetry traces over OTLP, to where OTEL_... variables say."),
    ] = False,
    log_level: Annotated[LogLevel, _server("--log-level", help="Of the log.")] = LogLevel.INFO,
) -> None:
    """Serve models under policies, with OpenAI's API; a page at / shows it at work.

    Without options: smollm2-safe under the name rerail, at http://127.0.0.1:8000, without
    keys. Any other address needs --keys.
    """
    if context.invoked_subcommand is not None:
        return
    _imports()
    from rerail.server.app import create_app
    from rerail.server.keys import KeyRing
    from rerail.server.limits import MEMORY, RateLimits
    from rerail.server.run import Server, listening
    from rerail.server.service import is_loopback
    from rerail.server.tracing import Tracing
    from rerail.store import Store

    if keys is None and not is_loopback(host):
        raise typer.BadParameter(
            f"--host {host} is reachable from elsewhere and needs --keys: make one with "
            "`rerail serve keys new NAME`"
        )
    if tls_key is not None and tls_certificate is None:
        # Without a certificate the server would speak plain HTTP.
        raise typer.BadParameter("--tls-key needs --tls-certificate")
    models = _pairs(model or [DEFAULT_MODEL], "--model", one_name=DEFAULT_NAME)
    try:
        settings = ServerSettings(
            default_policy=policy,
            model_policies=_pairs(model_policy or [], "--model-policy"),
            max_open=max_open,
            max_waiting=max_waiting,
            max_body_bytes=max_body_bytes,
            max_new_tokens=min(max_new_tokens, max_new_tokens_limit),
            max_new_tokens_limit=max_new_tokens_limit,
            temperature=temperature,
            seed=seed,
            request_seconds=request_seconds,
            grace=grace,
            record=record.value,
            retention_days=retention_days,
            cors_origins=tuple(cors_origin or ()),
            hosts=tuple(allowed_host) if allowed_host else None,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    unknown = settings.model_policies.keys() - models.keys()
    if unknown:
        raise typer.BadParameter(f"--model-policy names no --model: {', '.join(sorted(unknown))}")
    ring = KeyRing.read(keys) if keys is not None else None
    if ring is not None and not len(ring):
        raise typer.BadParameter(f"{keys} has no keys: make one with `rerail serve keys new NAME`")
    counts = RateLimits(limits or MEMORY)
    try:
        place = listening(host, port)
    except OSError as error:
        raise typer.BadParameter(f"cannot listen on {host}, port {port}: {error}") from None
    with place:
        placeholder = Policy(name="default")
        engines = {
            name: Setup(model=source, policy=placeholder, device=device, dtype=dtype).engine()
            for name, source in models.items()
        }
        app = create_app(
            engines,
            folder=policies,
            keys=ring,
            store=None if store == NO_STORE else Store.open(_location(store)),
            settings=settings,
            tracing=Tracing.otlp() if otel else None,
            limits=counts,
        )
        server = Server(
            app, certificate=tls_certificate, private_key=tls_key, log_level=log_level.value
        )
        scheme = "https" if tls_certificate else "http"
        address = f"[{host}]" if ":" in host else host
        port = place.getsockname()[1]
        notes().print(f"rerail serves {', '.join(models)} at {scheme}://{address}:{port}")
        server.run(sockets=[place])


KeysOption = Annotated[
    Path | None,
    typer.Option("--keys", help="File of keys. Default: keys.yaml in the user's data folder."),
]


@keys_commands.command()
def new(
    name: Annotated[str, typer.Argument(help="Tenant that the key stands for.")],
    keys: KeysOption = None,
    admin: Annotated[bool, typer.Option("--admin", help="The key opens /admin.")] = False,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Policy of its requests, if they name none.")
    ] = None,
    may_choose: Annotated[
        list[str] | None,
        typer.Option("--may-choose", help="Policy that its requests may name; * for all."),
    ] = None,
    expires: Annotated[
        str | None,
        typer.Option("--expires", help="When it ends: a day (2027-06-30), or 90d from now."),
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", min=1, help="More get 429.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", min=1, help="Generated ones, at most.")
    ] = None,
    tokens_per_day: Annotated[
        int | None, typer.Option("--tokens-per-day", min=1, help="Generated ones, at most.")
    ] = None,
    as_json: options.JsonOption = False,
) -> Report:
    """Make a key. It is shown once; the file keeps its hash."""
    _imports()
    from rerail.server.keys import new_key

    path = keys or default_keys()
    secret = new_key(
        path,
        name,
        admin=admin,
        policy=policy,
        policies=may_choose or (),
        expires=_time(expires),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        tokens_per_day=tokens_per_day,
    )
    document = {"name": name, "key": secret, "admin": admin, "keys": str(path)}

    def show(console: Console) -> None:
        console.print(secret, soft_wrap=True)
        notes().print(f"{name}: shown once; its hash is in {path}", soft_wrap=True)

    return Report(document, show, as_json)


@keys_commands.command("list")
def list_(keys: KeysOption = None, as_json: options.JsonOption = False) -> Report:
    """The keys there are, without their hashes.

    A server tells at /admin/keys when each was last used, and what it may still ask for.
    """
    _imports()
    from rerail.server.keys import listed

    found = listed(keys or default_keys())
    document = {
        "keys": [
            {**key.model_dump(mode="json", exclude={"sha256"}), "expired": key.expired}
            for key in found
        ]
    }

    def show(console: Console) -> None:
        rows = [_key_row(key) for key in found]
        show_rows(console, rows, fold={"policy", "may choose", "limits"})

    return Report(document, show, as_json)


def _key_row(key: ApiKey) -> dict[str, str]:
    limits = (
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.tokens_per_day, "tokens/day"),
    )
    ends = key.expires.date().isoformat() if key.expires else ""
    return {
        "name": key.name,
        "admin": "yes" if key.admin else "",
        "policy": key.policy or "",
        "may choose": ", ".join(key.policies),
        "expires": f"{ends}{' (past)' if key.expired else ''}",
        "limits": ", ".join(f"{n} {unit}" for n, unit in limits if n is not None),
    }


@keys_commands.command()
def revoke(
    name: Annotated[str, typer.Argument(help="Name of the key.")],
    keys: KeysOption = None,
    as_json: options.JsonOption = False,
) -> Report:
    """Remove a key; a running server takes that in by itself."""
    _imports()
    from rerail.server.keys import revoke as remove

    path = keys or default_keys()
    remove(path, name)
    return Report(
        {"name": name, "revoked": True}, lambda console: console.print(f"{name} revoked"), as_json
    )


def _time(text: str | None) -> datetime | None:
    """A time from a day, which is the end of it in UTC, or a number of days from now."""
    if text is None:
        return None
    try:
        if days := re.fullmatch(r"(\d{1,5})d", text):
            return datetime.now(UTC).replace(microsecond=0) + timedelta(days=int(days[1]))
        return datetime.combine(date.fromisoformat(text), time(), UTC) + timedelta(days=1)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"--expires {text}: write 2027-06-30, or 90d") from None


def _imports() -> None:
    """Fail early, with the remedy, where the extra is missing."""
    try:
        import fastapi  # noqa: F401
        import limits  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "fastapi", "server") from error


def _location(store: str | None) -> str:
    if store is not None:
        return store
    path = default_store()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot make {path.parent}: {error.strerror}; give --store") from None
    return str(path)


def _pairs(values: list[str], option: str, one_name: str | None = None) -> dict[str, str]:
    """``NAME=VALUE`` options as a mapping; a single one may leave the name out."""
    pairs: dict[str, str] = {}
    for value in values:
        # A model may hold = itself, after the ? of its options.
        match = re.fullmatch(r"([\w./@-]+)=(.+)", value)
        if match is None and (one_name is None or len(values) > 1):
            raise typer.BadParameter(f"{option} {value}: write NAME=VALUE")
        name, rest = match.groups() if match else (one_name or "", value)
        if name in pairs:
            raise typer.BadParameter(f"{option}: {name!r} stands twice")
        pairs[name] = rest
    return pairs
