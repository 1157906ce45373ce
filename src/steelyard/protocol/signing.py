"""Keys, signatures and the one EIP-712 domain.

1. Struct hashes are written out by hand; the generic encoders cost ten times more.
2. One domain for all messages and contracts: name, version, chain id and, as salt, a random deployment id, so that a
   wiped development chain or another deployment never accepts old signatures.
3. A signature is 65 bytes, r || s || v with v 27 or 28 and s in the lower half; contracts take EIP-2098's 64 bytes.

Law: docs/spec/messages.md, section 1.  Vectors: tests/vectors/messages.json.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from hashlib import sha256

from coincurve import PrivateKey, PublicKey

from steelyard.errors import BadSignature
from steelyard.protocol.hashing import keccak, word

DOMAIN_NAME = "Steelyard"
DOMAIN_VERSION = "1"
DOMAIN_TYPE_HASH = keccak(b"EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)")
SIGNATURE_BYTES = 65

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_TOP_BIT = 1 << 255


@dataclass(frozen=True, slots=True)
class Domain:
    """The EIP-712 domain of one deployment.

    Args:
        chain_id: EIP-155 chain id.
        salt: 32 random bytes drawn at deployment, the deployment id.
    """

    chain_id: int
    salt: bytes
    prefix: bytes = b""

    def __post_init__(self) -> None:
        if len(self.salt) != 32:
            raise ValueError(f"the deployment id has {len(self.salt)} bytes, not 32")
        separator = keccak(
            DOMAIN_TYPE_HASH
            + keccak(DOMAIN_NAME.encode())
            + keccak(DOMAIN_VERSION.encode())
            + word(self.chain_id)
            + self.salt
        )
        object.__setattr__(self, "prefix", b"\x19\x01" + separator)

    @property
    def separator(self) -> bytes:
        """The 32-byte domain separator."""
        return self.prefix[2:]

    def digest(self, struct_hash: bytes) -> bytes:
        """Return the 32-byte EIP-712 digest that is signed for a struct hash."""
        return keccak(self.prefix + struct_hash)


class SigningKey:
    """A secp256k1 private key and its account; prints as the account alone.

    Args:
        secret: 32 bytes; trusted, never logged.
    """

    __slots__ = ("_private", "account")

    def __init__(self, secret: bytes) -> None:
        self._private = PrivateKey(secret)
        self.account: bytes = public_key_account(self._private.public_key)

    def __repr__(self) -> str:
        return f"SigningKey(0x{self.account.hex()})"

    @property
    def secret(self) -> bytes:
        """The 32 secret bytes, for keystores and transaction signing only."""
        secret: bytes = self._private.secret
        return secret.rjust(32, b"\x00")

    def sign(self, digest: bytes) -> bytes:
        """Return the 65-byte signature of a 32-byte digest."""
        signature: bytes = self._private.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes((27 + signature[64],))

    def derive_secret(self, purpose: str) -> bytes:
        """Return a 32-byte secret bound to this key and a purpose; it survives the loss of every database."""
        return hmac.new(self.secret, purpose.encode(), sha256).digest()


def public_key_account(public_key: PublicKey) -> bytes:
    """Return the 20-byte account of a public key."""
    return keccak(public_key.format(compressed=False)[1:])[12:]


def recover_account(digest: bytes, signature: bytes) -> bytes:
    """Return the 20-byte account that signed a digest.

    Args:
        digest: 32 bytes.
        signature: 65 bytes, untrusted.

    Raises:
        BadSignature: wrong length, v outside 27 and 28, s in the upper half, or no such point.
    """
    if len(signature) != SIGNATURE_BYTES:
        raise BadSignature(f"a signature has 65 bytes, this one {len(signature)}")
    recovery = signature[64] - 27
    if recovery not in (0, 1):
        raise BadSignature(f"a signature's v is 27 or 28, this one's {signature[64]}")
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER:
        raise BadSignature("the signature's s is in the upper half (EIP-2)")
    try:
        public_key = PublicKey.from_signature_and_message(signature[:64] + bytes((recovery,)), digest, hasher=None)
    except Exception as error:  # coincurve raises bare Exception or ValueError for every unusable point
        raise BadSignature("the signature recovers to no public key") from error
    return public_key_account(public_key)


def require_signer(digest: bytes, signature: bytes, account: bytes, what: str) -> None:
    """Refuse a signature that is not this account's.

    Args:
        digest: 32 bytes. signature: 65 bytes, untrusted. account: 20 bytes, who must have signed.
        what: what was signed, for the error message.

    Raises:
        BadSignature: it recovers to somebody else, or to nobody.
    """
    signer = recover_account(digest, signature)
    if signer != account:
        raise BadSignature(f"the {what} is signed by 0x{signer.hex()}, not by 0x{account.hex()}")


def compact_signature(signature: bytes) -> tuple[bytes, bytes]:
    """Return (r, vs), the EIP-2098 form of a 65-byte signature, 32 bytes each."""
    vs = int.from_bytes(signature[32:64], "big")
    if signature[64] == 28:
        vs |= _TOP_BIT
    return signature[:32], word(vs)


def expand_signature(r: bytes, vs: bytes) -> bytes:
    """Return the 65-byte form of an EIP-2098 signature (r and vs, 32 bytes each)."""
    value = int.from_bytes(vs, "big")
    return r + word(value & (_TOP_BIT - 1)) + bytes((28 if value & _TOP_BIT else 27,))
