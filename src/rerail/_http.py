"""HTTP: what engines and moderators have in common. URLs, patience, and how a client is made.

httpx is not imported here: who needs a client makes it.
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TypeVar
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies

from rerail.errors import RerailError

T = TypeVar("T")

_CREDENTIAL = re.compile(
    r"auth(?!or\b)|cookie|key|token|secret|passw|credential|signature", re.IGNORECASE
)
_PROXY_SCHEMES = {"http", "https", "socks5", "socks5h"}


def checked_url(url: str, error: type[RerailError], example: str = "https://host/path") -> str:
    """The URL without a slash at its end.

    Raises:
        RerailError: of the class ``error``, for what is not http or https, has no host, or carries
            a credential. No message quotes it.
    """
    try:
        parts = urlsplit(url.strip())
        names = [name for name, _ in parse_qsl(parts.query)]
        carries = "@" in parts.netloc or any(map(is_credential, names))
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        carries = usable = False
    if carries:
        raise error(
            "the URL of a service carries a credential: put it into an environment variable, and "
            "name that in the options"
        )
    if not usable:
        # Not quoted: without its scheme, what stands before an @ is not told from a path.
        raise error(f"not a URL of a service: write {example}")
    return url.strip().rstrip("/")


def is_credential(name: str) -> bool:
    """Whether a header or parameter of that name holds a key."""
    return bool(_CREDENTIAL.search(name))


def made(client: Callable[[], T], error: type[RerailError]) -> T:
    """A client of httpx or its kin, which reads proxies and certificates from the environment.

    Raises:
        RerailError: of the class ``error``, where a variable holds what cannot be used. The
            message names it, and quotes nothing of it: it may hold a password.
    """
    proxies = getproxies()
    if "*" in (host.strip() for host in proxies.get("no", "").split(",")):
        proxies = {}
    for kind in ("http", "https", "all"):
        if (proxy := proxies.get(kind)) and not _is_proxy(proxy):
            raise error(f"{_variable(kind)} is no proxy's URL: write http://host:port, or unset it")
    given = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    if given == ["SSL_CERT_DIR"]:
        folders = os.environ["SSL_CERT_DIR"].split(os.pathsep)
        if not any(map(os.path.isdir, folders)):
            raise error("SSL_CERT_DIR names no folder: name one with certificates, or unset it")
    try:
        return client()
    except ImportError:
        socks = [kind for kind in ("http", "https", "all") if "socks" in proxies.get(kind, "")]
        raise error(
            f"{_variable(*socks)} names a SOCKS proxy: pip install socksio, or unset it"
        ) from None
    except OSError as fault:  # that of ssl is one
        if fault.filename and fault.filename == os.environ.get("SSLKEYLOGFILE"):
            given = ["SSLKEYLOGFILE"]
        raise error(
            f"{(given or ['certifi'])[0]} names a file that cannot be used "
            f"({type(fault).__name__}): name another, or unset it"
        ) from None
    except Exception:  # an `InvalidURL`, of which every library has its own
        raise error(
            f"{_variable('no')} holds what is no host: write hosts and addresses with commas "
            "between, IPv6 without brackets, and no networks"
        ) from None


def _is_proxy(url: str) -> bool:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host = (parts.hostname or "").encode("idna")
        fine = parts.scheme in _PROXY_SCHEMES and parts.port != 0 and url.isprintable()
        return bool(host) and fine
    except ValueError:
        return False


def _variable(*kinds: str) -> str:
    """The names of the variables that are set for proxies of these kinds."""
    wanted = [f"{kind}_proxy" for kind in kinds]
    return " and ".join(n for n in os.environ if n.lower() in wanted) or "the system's proxy"


def may_pass(status: int) -> bool:
    """Whether the same request may succeed later, or elsewhere."""
    return status in (408, 425, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` (RFC 9110, 10.2.3) or ``retry-after-ms`` asks to wait."""
    if (milliseconds := _number(headers.get("retry-after-ms"))) is not None:
        return milliseconds / 1000.0
    text = headers.get("retry-after")
    if text is None:
        return 0.0
    if (seconds := _number(text)) is not None:
        return seconds
    try:
        return max(parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return 0.0


def rate_limit_pause(headers: Mapping[str, str]) -> float:
    """Seconds until a used-up ``x-ratelimit-remaining[-requests|-tokens]`` is reset."""
    pause = 0.0
    for kind in ("", "-requests", "-tokens"):
        remaining = _number(headers.get(f"x-ratelimit-remaining{kind}"))
        if remaining is not None and remaining < 1:
            pause = max(pause, duration(headers.get(f"x-ratelimit-reset{kind}", "")))
    return pause


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9


def duration(text: str) -> float:
    """Seconds from ``12ms``, ``6m0s``, ``1.5`` (seconds) or a Unix time; 0 if unclear."""
    if (number := _number(text)) is not None:
        return max(number - time.time(), 0.0) if number > _EPOCH else number
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)", text)
    if "".join(number + unit for number, unit in parts) != text.strip():
        return 0.0
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) and value >= 0 else None
