"""The numbers in the law are the numbers in the code."""

from __future__ import annotations

import re
from pathlib import Path

from steelyard.link import asks, client, frames, limits
from steelyard.link.limits import LinkLimits
from steelyard.link.port import MAX_CLAIM_BATCHES
from steelyard.node import evidence_desk, lane_feed, node, orders, redeemer, seen, serve, watch
from steelyard.node.settings import NodeSettings
from steelyard.protocol.pricing import NANO_PER_YARD

SPEC = Path(__file__).parents[3] / "docs" / "spec"


def _words(name: str) -> str:
    return " ".join((SPEC / name).read_text("utf-8").split())


def test_link_law_names_every_frame_by_its_number() -> None:
    """The table of frames is the code's, in number, name and fields' count of counted ones."""
    rows = dict(re.findall(r"^\| (\d+) \| `(\w+)` \|", (SPEC / "link.md").read_text("utf-8"), re.MULTILINE))
    found = {
        str(kind.__struct_config__.tag): name
        for name, kind in vars(frames).items()
        if isinstance(kind, type) and issubclass(kind, frames.Frame) and kind is not frames.Frame
    }
    assert rows == found


def test_link_law_states_the_bounds_of_the_code() -> None:
    """Each bound that the page states is what the code enforces."""
    law, bounds = _words("link.md"), LinkLimits()
    for statement in (
        f"1 to {limits.MAX_FRAMES_PER_MESSAGE} frames, at most {bounds.max_message_bytes >> 20} MiB",
        f"(up to {limits.COALESCED_BYTES >> 10} KiB, then another)",
        f"Messages longer than {limits.FRAGMENT_BYTES >> 10} KiB",
        f"frame has at most {limits.WS_FRAME_BYTES >> 20} MiB",
        f"pings after {bounds.ping_s:.0f} s without a word and hangs up {bounds.ping_s:.0f} s later",
        f"version ({frames.VERSION})",
        f"at most {MAX_CLAIM_BATCHES} batches",
        f"has {bounds.handshake_s:.0f} s to be proven, its first message at most {limits.HELLO_BYTES} bytes",
        f"most {limits.PROOF_BYTES >> 20} MiB; at most {bounds.max_pending} connections "
        f"({bounds.max_pending_per_host} from one address)",
        f"after {limits.ACK_FRAMES} frames, {limits.ACK_BYTES >> 10} KiB, or {limits.ACK_DELAY_S} s",
        f"pauses of at most {client._LONGEST_PAUSE_S} s",
        f"outlives its connection by {bounds.resume_window_s:.0f} s",
        f"have {bounds.window_pieces} pieces on the way and {bounds.stream_buffer_bytes >> 10} KiB not acknowledged",
        f"`deadline` ({limits.DEADLINE_GRACE_S:.0f} s after the order's own)",
        f"| request body | {bounds.max_body_bytes >> 20} MiB |",
        f"| calls in flight on a link | {bounds.max_calls},",
        f"| {bounds.messages_per_s:,} a second, {bounds.burst_messages:,} in a burst |",
        f"| sent and not acknowledged | {bounds.outbox_bytes >> 20} MiB |",
        f"| batches, claims and vouchers waiting for a database | {bounds.backlog} |",
        f"of at most {limits.SHOW_BYTES >> 10} KiB, in order from 0, at most {limits.MAX_SHOW_CHUNKS} of them",
        f"at most {asks.MAX_ASKS} asks open on a link and gives one up after {asks.ASK_S:.0f} s",
        f"| providers of one gateway process | {bounds.max_links} |",
        f"| {frames.MAX_OFFERS}, {frames.MAX_LANES} |",
    ):
        assert statement in law, statement


def test_node_law_states_the_numbers_of_the_code() -> None:
    """Each number that the page states is what the code does."""
    law, terms = _words("node.md"), NodeSettings()
    for statement in (
        f"gives calls in flight {serve.DRAIN_S:.0f} s",
        f"({orders.CLOCK_SKEW_MS // 1000} s of slack) and not beyond {terms.max_deadline_s:.0f} s",
        f"at most {node.MAX_LANES} lanes with one gateway account",
        f"At most {seen.MAX_SEEN:,} are remembered",
        f"at most {terms.batch_calls} calls or {terms.batch_delay_s} s",
        f"at most {lane_feed.MAX_CLAIMS} times",
        f"redeemed at {terms.redeem_value_nano / NANO_PER_YARD} YARD, after {terms.redeem_after_s:.0f} s",
        f"at most {terms.redeem_lanes} lanes in one transaction",
        f"at most {redeemer.BLOB_CALLS:,} calls each",
        f"rests {redeemer.REST_MS // 1000} s, doubling to an hour",
        f"at most every {redeemer.LONGEST_PAUSE_S:.0f} s",
        f"a gateway's stake every {watch.STAKE_LOOK_S:.0f} s",
        f"`evidence_keep_s` ({terms.evidence_keep_s:,.0f} s)",
        f"at most {evidence_desk.ASKS_PER_S} a second and {evidence_desk.BYTES_PER_S >> 20} MiB a second; "
        f"{evidence_desk.MAX_WAITING} may wait",
    ):
        assert statement in law, statement
    assert redeemer.LONGEST_REST_MS == 3_600_000
