"""What is said of an alert address: never a credential, whatever its scheme puts where a host would stand."""

from __future__ import annotations

import pytest

from homelab_pipelines.observability.alerts import describe_address


@pytest.mark.parametrize(
    ("address", "described"),
    [
        ("https://hc-ping.com/6f9a1c2e-secret", "https://hc-ping.com"),
        ("https://user:secret@ping.example.org:8443/secret?key=secret#secret", "https://ping.example.org"),
        ("mailto://admin:secret@example.org?to=me@example.org", "mailto://example.org"),
        ("mailtos://admin:secret@mail.example.org:465", "mailtos://mail.example.org"),
        ("gotify://gotify.home.lan/secret", "gotify://gotify.home.lan"),
        ("JSONS://Receiver.Home.Lan/secret", "jsons://receiver.home.lan"),
        ("json://[::1]:8080/secret", "json://::1"),
        ("tgram://123456789:secret/12315544", "tgram"),
        ("discord://4174216298/secret", "discord"),
        ("slack://secret/secret/secret/#homelab", "slack"),
        ("ntfy://secret-topic", "ntfy"),
        ("pover://user@secret", "pover"),
        ("json://", "json"),
        ("json://[secret/", "not a URL"),
        ("secret", "not a URL"),
        ("secret:secret", "not a URL"),
        ("://secret", "not a URL"),
        ("", "not a URL"),
    ],
)
def test_description_of_an_address_holds_no_credential(address: str, described: str) -> None:
    assert describe_address(address) == described
    assert "secret" not in described
