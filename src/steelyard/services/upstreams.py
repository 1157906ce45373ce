"""The operator's own HTTP servers behind relaying kinds: their URLs, and one session for all calls to one of them.

1. A URL comes from the node's configuration alone; it is checked before anything is sent.
2. The proxy of the environment is looked up once. Nothing else of the environment is used: no netrc, no cookies.
3. A session bounds connecting and silence; whoever reads an answer bounds its size.

Law: docs/spec/kinds/rpc.md, section 5; docs/spec/kinds/rest.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from steelyard.errors import ConfigError

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 5.0
SILENCE_S = 60.0
CONNECTIONS = 256


def split_url(url: str, schemes: Sequence[str], option: str) -> SplitResult:
    """Return the parts of an upstream's URL; raises ConfigError unless it has one of the schemes and a host."""
    with suppress(ValueError):
        parts = urlsplit(url)
        if parts.scheme in schemes and parts.hostname and not parts.fragment:
            return parts
    raise ConfigError(f"the option {option} is no URL of a server: write {' or '.join(s + '://' for s in schemes)}HOST")


def find_proxy(parts: SplitResult) -> str | None:
    """Return the proxy that the environment names for a URL (http_proxy, https_proxy, no_proxy), or None."""
    proxies = getproxies_environment()
    if proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxies.get({"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)) or None


def open_session() -> aiohttp.ClientSession:
    """Return a session; it is the caller's to close."""
    import aiohttp

    return aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=SILENCE_S),
        connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=30),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Content-Type",),
        # each request would look for a netrc file in a thread; `find_proxy` does once what is wanted of it
        trust_env=False,
    )
