"""gateway/serve.py: a port that somebody holds stops the start."""

from __future__ import annotations

import socket

import pytest

from steelyard.errors import ConfigError
from steelyard.gateway.serve import _bind


def test_port_in_use_is_one_line_that_names_it_and_the_setting() -> None:
    """Address, reason and what to change, before anything is served."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(ConfigError) as caught:
            _bind("127.0.0.1", port)
    said = caught.value.message
    assert f"127.0.0.1:{port}" in said
    assert "in use" in said
    assert "gateway.port" in said
    assert "\n" not in said
