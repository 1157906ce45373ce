"""The handshake: both ends prove their accounts to each other, for this connection alone.

node     Hello(version, deployment, account, nonce)                       →
         ←  Welcome(account, nonce, signature over Handshake(gateway, node, its nonce, ours, channel))    gateway
         Proof(signature over Handshake(node, gateway, our nonce, its, channel), session, offers)         →
         ←  Ready(session, …) or Goodbye(code, message)

1. Each signs both nonces, both accounts and the TLS channel: nothing signed here is good on another connection, for
   another peer, or as the other end's half (the nonces change places, and the two accounts must differ).
2. The channel is the SHA-256 of the server's certificate as the client sees it; zero only where `channel.py` allows it.
3. Pure: nonces, keys and the channel come as arguments, frames go out as values.

Law: docs/spec/link.md, section 3.
"""

from __future__ import annotations

from steelyard.errors import BadMessage
from steelyard.link.checks import check_offers
from steelyard.link.frames import VERSION, Hello, Proof, Welcome
from steelyard.link.port import SignedOffer
from steelyard.protocol.messages import Handshake
from steelyard.protocol.signing import Domain, SigningKey, require_signer


class NodeHandshake:
    """The node's half: `hello`, then `answer`.

    Args:
        key: the provider's. channel: 32 bytes. nonce: 32 fresh random bytes.
        expected: the gateway that this link is meant for, or None for whoever proves to be one.
    """

    def __init__(self, key: SigningKey, domain: Domain, channel: bytes, nonce: bytes, expected: bytes | None) -> None:
        self._key = key
        self._domain = domain
        self._channel = channel
        self._nonce = nonce
        self._expected = expected

    def hello(self) -> Hello:
        """Return the first frame."""
        return Hello(VERSION, self._domain.separator, self._key.account, self._nonce)

    def answer(
        self, welcome: Welcome, session: bytes, received: int, max_calls: int, offers: tuple[SignedOffer, ...]
    ) -> Proof:
        """Return the proof for a gateway whose own is good; `welcome` is untrusted.

        Raises:
            BadSignature: the gateway isn't who it says. BadMessage: it is another one than expected, or ourselves.
        """
        gateway = welcome.account
        if gateway == self._key.account:
            raise BadMessage("the gateway has this node's own account: each needs its own", code="own_account")
        if self._expected is not None and gateway != self._expected:
            raise BadMessage(
                f"the gateway is 0x{gateway.hex()}, expected is 0x{self._expected.hex()}", code="other_gateway"
            )
        theirs = Handshake(gateway, self._key.account, welcome.nonce, self._nonce, self._channel)
        require_signer(self._domain.digest(theirs.struct_hash()), welcome.signature, gateway, "gateway's handshake")
        ours = Handshake(self._key.account, gateway, self._nonce, welcome.nonce, self._channel)
        signature = self._key.sign(self._domain.digest(ours.struct_hash()))
        return Proof(signature, session, received, max_calls, offers)


class GatewayHandshake:
    """The gateway's half: `welcome`, then `verify`.

    Args:
        key: the gateway's. channel: 32 bytes. nonce: 32 fresh random bytes.
    """

    def __init__(self, key: SigningKey, domain: Domain, channel: bytes, nonce: bytes) -> None:
        self._key = key
        self._domain = domain
        self._channel = channel
        self._nonce = nonce
        self._hello: Hello | None = None

    @property
    def claimed(self) -> bytes | None:
        """The account that the node says it has; proven only after `verify`."""
        return None if self._hello is None else self._hello.account

    def welcome(self, hello: Hello) -> Welcome:
        """Return the answer to a node's first frame (untrusted).

        Raises:
            BadMessage: a second hello, another version or deployment, or our own account.
        """
        if self._hello is not None:
            raise BadMessage("a second hello on one connection")
        if hello.version != VERSION:
            raise BadMessage(f"the node speaks version {hello.version}, this gateway {VERSION}", code="bad_version")
        if hello.deployment != self._domain.separator:
            raise BadMessage(
                "the node belongs to another deployment: its chain id or deployment id differs", code="other_deployment"
            )
        if hello.account == self._key.account:
            raise BadMessage("the node has this gateway's own account: each needs its own", code="own_account")
        self._hello = hello
        ours = Handshake(self._key.account, hello.account, self._nonce, hello.nonce, self._channel)
        return Welcome(self._key.account, self._nonce, self._key.sign(self._domain.digest(ours.struct_hash())))

    def verify(self, proof: Proof) -> bytes:
        """Return the provider's account, now proven; `proof` is untrusted.

        Raises:
            BadSignature: it isn't signed by the account of the hello. BadMessage: no hello, or offers of somebody else.
        """
        if self._hello is None:
            raise BadMessage("a proof before the hello")
        provider = self._hello.account
        theirs = Handshake(provider, self._key.account, self._hello.nonce, self._nonce, self._channel)
        require_signer(self._domain.digest(theirs.struct_hash()), proof.signature, provider, "node's handshake")
        check_offers(proof.offers, provider)
        return provider
