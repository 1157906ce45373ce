"""Where a link may do without TLS, and what it is bound to where it may not."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from steelyard.errors import BadMessage, ConfigError
from steelyard.link.channel import TlsIdentity, check_url, client_channel, is_loopback, load_tls, server_channel
from steelyard.protocol.hashing import ZERO32


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", "localhost"])
def test_loopback_addresses_are_known(host: str) -> None:
    """Every spelling of this machine counts."""
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "::", "::ffff:10.0.0.1", "localhost.example", "", "127.1"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    """Names and addresses that only look near aren't this machine."""
    assert not is_loopback(host)


@pytest.mark.parametrize("url", ["ws://a.example:9100/link", "ws://10.0.0.1/link", "http://127.0.0.1", "nonsense"])
def test_url_without_tls_off_this_machine_is_refused(url: str) -> None:
    """A plain link is for loopback alone; the message says what to write."""
    with pytest.raises(ConfigError):
        check_url(url)


@pytest.mark.parametrize("url", ["ws://127.0.0.1:1/link", "ws://[::1]:1/link", "ws://localhost:1", "wss://a.example"])
def test_url_with_tls_or_on_loopback_is_taken(url: str) -> None:
    """Both sorts of good URL pass."""
    check_url(url)


def test_server_without_tls_refuses_a_peer_off_this_machine() -> None:
    """Zero is the channel of loopback only."""
    assert server_channel(None, "127.0.0.1") == ZERO32
    with pytest.raises(BadMessage) as caught:
        server_channel(None, "10.0.0.1")
    assert caught.value.code == "no_tls"


def test_server_behind_a_local_proxy_binds_to_the_proxys_certificate() -> None:
    """A proxy on this machine may end TLS; one elsewhere may not."""
    identity = TlsIdentity(None, b"certificate")
    assert server_channel(identity, "127.0.0.1") == sha256(b"certificate").digest()
    with pytest.raises(BadMessage):
        server_channel(identity, "10.0.0.1")


def test_client_without_tls_refuses_a_server_off_this_machine() -> None:
    """A name that resolves elsewhere is caught by its address."""
    assert client_channel(None, "::1") == ZERO32
    with pytest.raises(BadMessage):
        client_channel(None, "192.0.2.1")


def test_load_tls_of_missing_or_malformed_files_says_which(tmp_path: Path) -> None:
    """A wrong path or file is one clear line."""
    with pytest.raises(ConfigError, match=r"missing\.pem"):
        load_tls(tmp_path / "missing.pem", None)
    (tmp_path / "bad.pem").write_text("no certificate")
    with pytest.raises(ConfigError, match=r"bad\.pem"):
        load_tls(tmp_path / "bad.pem", None)
