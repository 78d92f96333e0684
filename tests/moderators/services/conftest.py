"""Keys in the environment, as users have them."""

from __future__ import annotations

import ssl

import pytest

from tests.moderators.services.wires import KEY, KEYS


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch, clean_environment: object) -> None:
    for variable in KEYS:
        monkeypatch.setenv(variable, KEY)


@pytest.fixture(autouse=True)
def no_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is encrypted, and reading the certificates would take most of the time."""
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *_, **__: None)
