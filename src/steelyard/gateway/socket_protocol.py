"""A client's WebSocket: uvicorn's protocol, which can also be dropped while its client doesn't read.

1. `drop` writes the close frame behind what is buffered already (bounded by the transport's high water) and cuts the
   connection after `LINGER_S`, whether the client has read it or not: nobody waits for a client that doesn't read.
2. uvicorn logs a socket's path, and a path may hold a key: here it logs nothing.

Law: docs/spec/relay.md, section 4.
"""

from __future__ import annotations

import logging
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

LINGER_S = 5.0
DROP = "steelyard.drop"
"""Where in a scope's extensions the function stands that drops its socket."""

_SILENT = logging.getLogger("steelyard.gateway.sockets")
_SILENT.setLevel(logging.CRITICAL)


class SocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's protocol for one WebSocket."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], **options: Any) -> None:
        super().__init__(config, server_state, app_state, **options)
        self.logger = self.conn.logger = _SILENT
        self.conn.debug = False

    async def run_asgi(self) -> None:
        """Called once a client asks for a socket."""
        extensions: Any = self.scope["extensions"]
        extensions[DROP] = self.drop
        await super().run_asgi()

    def drop(self, code: int, reason: str) -> None:
        """Close with a code without waiting for the client."""
        if self.transport.is_closing() or self.close_sent:
            return
        self.stop_keepalive()
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.writable.set()
        self.transport.close()
        self.loop.call_later(LINGER_S, self.transport.abort)
