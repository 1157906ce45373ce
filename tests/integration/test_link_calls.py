"""Calls over real sockets: whole, streamed, many at once, cancelled, slow, over TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.link_world import (
    DOMAIN,
    GATEWAY_KEY,
    LANE,
    LIMITS,
    PROVIDER_KEY,
    EchoNode,
    RecordingGateway,
    build_offer,
    build_voucher,
    linked,
    until,
    with_limits,
)

from steelyard.errors import ConfigError
from steelyard.link.channel import load_tls
from steelyard.link.client import LinkClient
from steelyard.link.server import LinkServer, unix_ms
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.lanes import LaneState, SignedBatch
from steelyard.protocol.messages import Batch


def test_call_without_stream_comes_as_one_piece_with_its_receipt() -> None:
    """The sink hears one piece and the receipt."""

    async def scenario() -> None:
        async with linked() as world:
            call = world.call(b"hello")
            await call.ended.wait()
            assert (call.content, len(call.pieces)) == (b"hello", 1)
            assert call.receipt is not None
            assert world.link.calls_in_flight == 0

    asyncio.run(scenario())


def test_stream_comes_piece_by_piece_beyond_its_window() -> None:
    """A stream of 700 pieces needs grants ten times over, and comes whole and in order."""

    async def scenario() -> None:
        body = bytes(range(256)) * 8
        async with linked(node=EchoNode(step=3)) as world:
            call = world.call(body, is_stream=True)
            await call.ended.wait()
            assert call.content == body
            assert len(call.pieces) == -(-len(body) // 3)

    asyncio.run(scenario())


def test_stream_without_grants_stops_at_its_window() -> None:
    """A gateway that consumes nothing gets 64 pieces and no more; with grants the rest comes."""

    async def scenario() -> None:
        async with linked(node=EchoNode(step=1)) as world:
            call = world.call(b"x" * 300, is_stream=True, grants=0)
            await until(lambda: len(call.pieces) == LIMITS.window_pieces)
            await asyncio.sleep(0.05)
            assert len(call.pieces) == LIMITS.window_pieces
            call.link.grant_pieces(call.call_id, 300)
            await call.ended.wait()
            assert call.content == b"x" * 300

    asyncio.run(scenario())


def test_thousand_calls_in_flight_all_come_back() -> None:
    """A thousand calls wait at the node at once, half of them streams, and each gets its own answer."""

    async def scenario() -> None:
        async with linked(node=EchoNode(step=50)) as world:
            world.node.hold.clear()
            calls = [world.call(b"%d " % n * 40, is_stream=bool(n % 2)) for n in range(1000)]
            await until(lambda: len(world.node.tasks) == 1000)
            assert world.link.calls_in_flight == 1000
            world.node.hold.set()
            await asyncio.gather(*(call.ended.wait() for call in calls))
            assert [call.content for call in calls] == [b"%d " % n * 40 for n in range(1000)]

    asyncio.run(scenario())


def test_call_beyond_the_nodes_limit_fails_as_busy() -> None:
    """The node says how many calls it bears; one more fails at once and is retryable."""

    async def scenario() -> None:
        async with linked(node_limits=with_limits(max_calls=2)) as world:
            world.node.hold.clear()
            calls = [world.call(b"x") for _ in range(3)]
            await calls[2].ended.wait()
            assert calls[2].failure is not None
            assert (calls[2].failure.code, calls[2].failure.is_retryable) == ("busy", True)
            world.node.hold.set()
            await calls[0].ended.wait()
            await calls[1].ended.wait()

    asyncio.run(scenario())


def test_cancelled_stream_ends_with_the_receipt_for_what_was_sent() -> None:
    """Cancelling reaches the node while the stream waits for grants, and the call ends with reason 4."""

    async def scenario() -> None:
        async with linked(node=EchoNode(step=1)) as world:
            call = world.call(b"x" * 300, is_stream=True, grants=0)
            await until(lambda: len(call.pieces) == LIMITS.window_pieces)
            world.link.cancel_call(call.call_id)
            await call.ended.wait()
            assert call.receipt is not None
            assert call.receipt.finish_reason == 4
            assert world.node.cancelled == [call.call_id]

    asyncio.run(scenario())


def test_call_past_its_deadline_fails_and_is_cancelled_at_the_node() -> None:
    """A node that never answers doesn't hold the call for ever."""

    async def scenario() -> None:
        async with linked() as world:
            world.node.hold.clear()
            call = world.call(b"x", is_stream=True, deadline_ms=unix_ms() - 9_500)
            await call.ended.wait()
            assert call.failure is not None
            assert call.failure.code == "deadline"
            await until(lambda: world.node.cancelled == [call.call_id])

    asyncio.run(scenario())


def test_body_of_megabytes_passes_in_fragments() -> None:
    """Bodies and results far beyond one WebSocket frame arrive whole; beyond the limit they fail before they leave."""

    async def scenario() -> None:
        async with linked() as world:
            body = b"0123456789abcdef" * (3 << 16)
            call = world.call(body)
            small = world.call(b"small")
            await asyncio.gather(call.ended.wait(), small.ended.wait())
            assert call.content == body
            over = world.call(b"x" * (LIMITS.max_body_bytes + 1))
            await over.ended.wait()
            assert over.failure is not None
            assert (over.failure.code, over.failure.is_retryable) == ("invalid_request", False)

    asyncio.run(scenario())


def test_batches_vouchers_and_wishes_pass_in_order() -> None:
    """What isn't a call arrives too, in the order in which it was sent."""

    async def scenario() -> None:
        async with linked() as world:
            for seq in range(1, 301):
                batch = Batch(LANE.gateway, LANE.provider, LANE.service_id, 7, seq, ZERO32, ZERO32, 1, seq)
                world.node_link.send_batch(SignedBatch(batch, b"\x00" * 65), [seq.to_bytes(16, "big")])
                world.link.send_voucher(build_voucher(seq))
            world.link.request_batches(LaneState(lane=LANE, seq=3))
            await until(lambda: len(world.gateway.batches) == 300 and len(world.node.vouchers) == 300)
            assert [signed.batch.seq for signed, _, _ in world.gateway.batches] == list(range(1, 301))
            assert [signed.voucher.cumulative for signed in world.node.vouchers] == list(range(1, 301))
            await until(lambda: [state.seq for state in world.node.wanted] == [3])

    asyncio.run(scenario())


def test_slow_gateway_makes_the_node_wait_and_loses_nothing() -> None:
    """While the database of the gateway hangs, reading pauses instead of filling memory; then all batches come."""

    async def scenario() -> None:
        async with linked(limits=with_limits(backlog=8)) as world:
            world.gateway.batch_gate.clear()
            entries_free = [n.to_bytes(16, "big") for n in range(64)]
            for seq in range(1, 2001):
                batch = Batch(LANE.gateway, LANE.provider, LANE.service_id, 7, seq, ZERO32, ZERO32, 64, seq)
                world.node_link.send_batch(SignedBatch(batch, b"\x00" * 65), entries_free)
                if seq % 100 == 0:
                    await asyncio.sleep(0.002)
            await asyncio.sleep(0.1)
            waiting = world.link.pipe.inbox.received
            assert waiting < 2000
            world.gateway.batch_gate.set()
            await until(lambda: len(world.gateway.batches) == 2000)

    asyncio.run(scenario())


def test_new_offers_reach_the_gateway() -> None:
    """Changed terms are asked about again and stand in the link."""

    async def scenario() -> None:
        async with linked() as world:
            world.node_link.update_offers(())
            await until(lambda: world.link.offers == ())
            assert world.gateway.ups == 2
            world.node_link.update_offers((build_offer(),))
            await until(lambda: world.link.offers == (build_offer(),))

    asyncio.run(scenario())


def test_link_sets_tcp_nodelay_at_both_ends() -> None:
    """Small frames leave at once."""

    async def scenario() -> None:
        async with linked() as world:
            for pipe in (world.link.pipe, world.node_link.pipe):
                transport = pipe._wire._transport.underlying_transport  # type: ignore[union-attr]
                assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    asyncio.run(scenario())


def test_port_in_use_is_one_clear_line() -> None:
    """A taken port stops the start."""

    async def scenario() -> None:
        async with linked() as world:
            second = LinkServer(GATEWAY_KEY, DOMAIN, RecordingGateway())
            with pytest.raises(ConfigError, match=str(world.port)):
                await second.start("127.0.0.1", world.port)

    asyncio.run(scenario())


def _make_certificate(folder: Path, name: str) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = folder / f"{name}.key", folder / f"{name}.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def test_link_over_tls_is_bound_to_the_servers_certificate(tmp_path: Path) -> None:
    """Over TLS calls pass; a middleman with another certificate, even a trusted one, breaks the handshake."""
    certificate, key = _make_certificate(tmp_path, "gateway")
    other, other_key = _make_certificate(tmp_path, "middle")

    async def scenario() -> None:
        gateway, node = RecordingGateway(), EchoNode()
        server = LinkServer(GATEWAY_KEY, DOMAIN, gateway, LIMITS)
        port = await server.start("127.0.0.1", 0, load_tls(certificate, key))
        trust = ssl.create_default_context(cafile=str(certificate))
        trust.load_verify_locations(str(other))
        client = LinkClient(f"wss://localhost:{port}", PROVIDER_KEY, DOMAIN, node, limits=LIMITS, ssl_context=trust)
        task = asyncio.create_task(client.run())
        await asyncio.wait_for(gateway.up.wait(), 5)
        await client.aclose()
        await task

        middle_context = load_tls(other, other_key).context
        through = ssl.create_default_context(cafile=str(certificate))

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            far_reader, far_writer = await asyncio.open_connection("localhost", port, ssl=through)

            async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    sink.write(data)
                sink.close()

            await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)

        middle = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=middle_context)
        middle_port = middle.sockets[0].getsockname()[1]
        victim = LinkClient(
            f"wss://localhost:{middle_port}", PROVIDER_KEY, DOMAIN, node, limits=LIMITS, ssl_context=trust
        )
        gateway.up.clear()
        task = asyncio.create_task(victim.run())
        await until(lambda: node.refused)
        assert node.refused[0][1].code == "bad_signature"
        assert not gateway.up.is_set()
        await victim.aclose()
        await task
        middle.close()
        await server.aclose()

    asyncio.run(scenario())
