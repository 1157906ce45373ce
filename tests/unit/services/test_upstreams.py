"""services/upstreams.py: an operator's URL is checked, and the environment's proxy is found once."""

from __future__ import annotations

import pytest

from steelyard.errors import ConfigError
from steelyard.services.upstreams import find_proxy, split_url

HTTP = ("http", "https")


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin without proxies."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("url", ["http://h", "https://u:p@h:1/v1?key=k", "http://[::1]:8545/"])
def test_url_of_a_server_passes(url: str) -> None:
    """With a port, a path, a key or a user: it is the operator's."""
    assert split_url(url, HTTP, "upstream").geturl() == url


@pytest.mark.parametrize(
    "url", ["", "h", "//h", "file:///etc/passwd", "ws://h", "http://", "http://[::1", "http://h#x"]
)
def test_url_of_none_is_refused_with_what_to_write(url: str) -> None:
    """Another scheme, no host, or a fragment; the value isn't repeated, since it may hold a key."""
    with pytest.raises(
        ConfigError, match=r"^the option upstream is no URL of a server: write http:// or https://HOST$"
    ):
        split_url(url, HTTP, "upstream")


def test_proxy_of_the_environment_is_found_but_for_hosts_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """http_proxy and https_proxy, for WebSockets too; no_proxy excepts hosts."""
    node = split_url("https://node.example/v1", HTTP, "upstream")
    assert find_proxy(node) is None
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "localhost,inside.example")
    assert find_proxy(node) == "http://proxy.example:3128"
    assert find_proxy(split_url("wss://node.example", ("wss",), "upstream_ws")) == "http://proxy.example:3128"
    assert find_proxy(split_url("http://node.example", HTTP, "upstream")) is None
    assert find_proxy(split_url("https://user:p@inside.example:8545", HTTP, "upstream")) is None
