"""The handshake, pure: who is let in, and every way of not being."""

from __future__ import annotations

import msgspec
import pytest
from tests.link_world import DOMAIN, GATEWAY_KEY, PROVIDER_KEY, build_offer

from steelyard.errors import BadMessage, BadSignature, PeerError
from steelyard.link.frames import Hello, Proof
from steelyard.link.handshake import GatewayHandshake, NodeHandshake
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.signing import Domain, SigningKey

CHANNEL = b"\x11" * 32
NODE_NONCE, GATEWAY_NONCE = b"\x21" * 32, b"\x22" * 32
OTHER_KEY = SigningKey(b"\x09" * 32)


def _node(
    key: SigningKey = PROVIDER_KEY, domain: Domain = DOMAIN, channel: bytes = CHANNEL, expected: bytes | None = None
) -> NodeHandshake:
    return NodeHandshake(key, domain, channel, NODE_NONCE, expected)


def _gateway(
    key: SigningKey = GATEWAY_KEY, domain: Domain = DOMAIN, channel: bytes = CHANNEL, nonce: bytes = GATEWAY_NONCE
) -> GatewayHandshake:
    return GatewayHandshake(key, domain, channel, nonce)


def _shake(node: NodeHandshake, gateway: GatewayHandshake) -> bytes:
    proof = node.answer(gateway.welcome(node.hello()), b"", 0, 10, (build_offer(),))
    return gateway.verify(proof)


def test_handshake_of_two_honest_ends_proves_the_provider() -> None:
    """Both signatures recover, and the gateway learns the node's account."""
    assert _shake(_node(expected=GATEWAY_KEY.account), _gateway()) == PROVIDER_KEY.account


@pytest.mark.parametrize("channel", [ZERO32, b"\x12" * 32])
def test_handshake_over_another_channel_is_refused(channel: bytes) -> None:
    """Who stands between two TLS connections can't pass signatures on."""
    with pytest.raises(BadSignature):
        _shake(_node(), _gateway(channel=channel))


def test_handshake_with_another_gateway_than_expected_is_refused() -> None:
    """A node that dials a registered gateway talks to that account or to nobody."""
    with pytest.raises(BadMessage) as caught:
        _shake(_node(expected=OTHER_KEY.account), _gateway())
    assert caught.value.code == "other_gateway"


@pytest.mark.parametrize("domain", [Domain(31416, DOMAIN.salt), Domain(31415, b"\x06" * 32)])
def test_handshake_across_deployments_is_refused_by_name(domain: Domain) -> None:
    """A wiped chain or another deployment is told apart before any signature."""
    with pytest.raises(BadMessage) as caught:
        _shake(_node(domain=domain), _gateway())
    assert caught.value.code == "other_deployment"


def test_signature_of_another_deployment_is_refused() -> None:
    """Even if it claims our deployment, a signature under another salt recovers to somebody else."""
    foreign = _node(domain=Domain(31415, b"\x06" * 32))
    gateway = _gateway(domain=Domain(31415, b"\x06" * 32))
    proof = foreign.answer(gateway.welcome(foreign.hello()), b"", 0, 10, ())
    ours = _gateway()
    ours.welcome(_node().hello())
    with pytest.raises(BadSignature):
        ours.verify(proof)


def test_proof_for_another_nonce_is_refused() -> None:
    """A recorded handshake opens nothing later."""
    node, gateway = _node(), _gateway()
    recorded = node.answer(gateway.welcome(node.hello()), b"", 0, 10, ())
    later = _gateway(nonce=b"\x23" * 32)
    later.welcome(node.hello())
    with pytest.raises(BadSignature):
        later.verify(recorded)


def test_welcome_signed_by_another_key_is_refused() -> None:
    """Nobody can claim a gateway's account without its key."""
    node = _node()
    forged = msgspec.structs.replace(_gateway(OTHER_KEY).welcome(node.hello()), account=GATEWAY_KEY.account)
    with pytest.raises(BadSignature):
        node.answer(forged, b"", 0, 10, ())


def test_proof_signed_by_another_key_is_refused() -> None:
    """Nobody can claim a provider's account without its key."""
    thief = _node(OTHER_KEY)
    gateway = _gateway()
    gateway.welcome(msgspec.structs.replace(thief.hello(), account=PROVIDER_KEY.account))
    stolen = thief.answer(_gateway().welcome(thief.hello()), b"", 0, 10, ())
    with pytest.raises(BadSignature):
        gateway.verify(stolen)


def test_gateway_signature_does_not_pass_as_a_node_proof() -> None:
    """What a gateway signs for a node can't be reflected as a node's own half."""
    gateway = _gateway()
    welcome = gateway.welcome(_node().hello())
    other = _gateway(PROVIDER_KEY)
    other.welcome(Hello(1, DOMAIN.separator, GATEWAY_KEY.account, GATEWAY_NONCE))
    with pytest.raises(BadSignature):
        other.verify(Proof(welcome.signature, b"", 0, 10, ()))


def test_handshake_with_ones_own_account_is_refused_at_both_ends() -> None:
    """An account that is both ends would make reflection possible."""
    with pytest.raises(BadMessage, match="own account"):
        _gateway().welcome(_node(GATEWAY_KEY).hello())
    with pytest.raises(BadMessage, match="own account"):
        _node(GATEWAY_KEY).answer(_gateway().welcome(_node().hello()), b"", 0, 10, ())


@pytest.mark.parametrize("version", [0, 2])
def test_hello_of_another_version_is_refused(version: int) -> None:
    """A later protocol says so instead of guessing."""
    with pytest.raises(BadMessage) as caught:
        _gateway().welcome(msgspec.structs.replace(_node().hello(), version=version))
    assert caught.value.code == "bad_version"


def test_handshake_frames_out_of_turn_are_refused() -> None:
    """A proof comes after one hello, and a hello comes once."""
    node, gateway = _node(), _gateway()
    proof = node.answer(_gateway().welcome(node.hello()), b"", 0, 10, ())
    with pytest.raises(BadMessage):
        gateway.verify(proof)
    gateway.welcome(node.hello())
    with pytest.raises(BadMessage):
        gateway.welcome(node.hello())


def test_proof_with_offers_of_somebody_else_or_twice_is_refused() -> None:
    """A provider speaks for itself, once for each service."""
    for offers in ((build_offer(OTHER_KEY),), (build_offer(), build_offer())):
        node, gateway = _node(), _gateway()
        proof = node.answer(gateway.welcome(node.hello()), b"", 0, 10, offers)
        with pytest.raises(PeerError):
            gateway.verify(proof)
