"""Write the vectors: `python tests/vectors/build.py`. The expected hashes come from eth-account's generic encoder.

The vectors are what Python and the contracts agree on; a change here is a change of the law (docs/spec/messages.md).
"""

from __future__ import annotations

import json
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_hash.auto import keccak

from steelyard.protocol.messages import HASHED_MESSAGES, SIGNED_MESSAGES, Message

HERE = Path(__file__).parent
CHAIN_ID = 31415
SALT = keccak(b"steelyard vectors")
SECRETS = {name: keccak(b"steelyard " + name.encode()) for name in ("gateway", "provider", "validator")}
SIGNERS = {
    "Offer": "provider",
    "Batch": "provider",
    "Voucher": "gateway",
    "Verdict": "validator",
    "Challenge": "validator",
    "Handshake": "provider",
}
DOMAIN_FIELDS = [
    {"name": "name", "type": "string"},
    {"name": "version", "type": "string"},
    {"name": "chainId", "type": "uint256"},
    {"name": "salt", "type": "bytes32"},
]


def solidity_fields(message: type[Message]) -> list[tuple[str, str]]:
    """Return the (type, name) pairs of a type string, as Solidity spells them."""
    inside = message.TYPE[message.TYPE.index("(") + 1 : -1]
    return [(kind, name) for kind, name in (part.split(" ") for part in inside.split(","))]


def sample_value(kind: str, label: str, extreme: bool) -> Any:
    """Return a value of a Solidity type that follows from its label; `extreme` takes the largest."""
    seed = keccak(label.encode())
    if kind == "address":
        return Account.from_key(SECRETS[label]).address if label in SECRETS else "0x" + seed[:20].hex()
    if kind.startswith("bytes"):
        size = int(kind[5:])
        return "0x" + (b"\xff" * size if extreme else seed[:size]).hex()
    bits = int(kind[4:])
    return (1 << bits) - 1 if extreme else int.from_bytes(seed, "big") % (1 << min(bits, 48))


def generic_digest(message: type[Message], values: dict[str, Any]) -> tuple[str, str]:
    """Return (struct hash, digest) of a message by eth-account's encoder."""
    name = message.TYPE[: message.TYPE.index("(")]
    fields = [{"name": field, "type": kind} for kind, field in solidity_fields(message)]
    signable = encode_typed_data(
        full_message={
            "types": {"EIP712Domain": DOMAIN_FIELDS, name: fields},
            "primaryType": name,
            "domain": {"name": "Steelyard", "version": "1", "chainId": CHAIN_ID, "salt": SALT},
            "message": values,
        }
    )
    digest = keccak(b"\x19" + signable.version + signable.header + signable.body)
    return "0x" + signable.body.hex(), "0x" + digest.hex()


def build_messages() -> dict[str, Any]:
    """Return two vectors for each message: usual values and the largest."""
    cases = []
    for message in SIGNED_MESSAGES + HASHED_MESSAGES:
        name = message.TYPE[: message.TYPE.index("(")]
        for extreme in (False, True):
            values = {field: sample_value(kind, field, extreme) for kind, field in solidity_fields(message)}
            struct_hash, digest = generic_digest(message, values)
            case = {"message": name, "type": message.TYPE, "values": values, "struct_hash": struct_hash}
            if message in SIGNED_MESSAGES:
                signature = Account.unsafe_sign_hash(digest, SECRETS[SIGNERS[name]]).signature
                case |= {"digest": digest, "signer": SIGNERS[name], "signature": "0x" + signature.hex()}
            cases.append(case)
    return {
        "domain": {"name": "Steelyard", "version": "1", "chain_id": CHAIN_ID, "salt": "0x" + SALT.hex()},
        "secrets": {name: "0x" + secret.hex() for name, secret in SECRETS.items()},
        "accounts": {name: Account.from_key(secret).address.lower() for name, secret in SECRETS.items()},
        "cases": cases,
    }


def build_merkle() -> dict[str, Any]:
    """Return trees of 1 to 9 leaves with the proof of each leaf, by the plain recursive definition."""
    trees = []
    for size in (1, 2, 3, 4, 5, 7, 8, 9):
        items = [keccak(b"leaf %d" % index) for index in range(size)]
        level = [(keccak(keccak(item)), (index,)) for index, item in enumerate(items)]
        proofs: list[list[str]] = [[] for _ in items]
        while len(level) > 1:
            above = []
            for position in range(0, len(level) - 1, 2):
                (left, below_left), (right, below_right) = level[position], level[position + 1]
                for index in below_left:
                    proofs[index].append("0x" + right.hex())
                for index in below_right:
                    proofs[index].append("0x" + left.hex())
                above.append((keccak(min(left, right) + max(left, right)), below_left + below_right))
            if len(level) % 2:
                above.append(level[-1])
            level = above
        trees.append(
            {"items": ["0x" + item.hex() for item in items], "root": "0x" + level[0][0].hex(), "proofs": proofs}
        )
    return {"trees": trees}


def build_pricing() -> dict[str, Any]:
    """Return costs and splits at the edges of rounding, by exact fractions."""
    calls = [
        (0, 0, 0, 0),
        (1, 0, 1, 0),
        (1, 1, 1, 1),
        (999_999, 1, 1, 1),
        (1_000_000, 0, 1, 0),
        (123, 456, 7_000, 21_000),
    ]
    splits = [
        (0, (9000, 500, 300, 200)),
        (1, (9000, 500, 300, 200)),
        (9_999, (9000, 500, 300, 200)),
        (10**15 + 7, (1, 1, 1, 9997)),
    ]
    return {
        "costs": [
            {"units_in": i, "units_out": o, "price_in": p, "price_out": q, "cost": (i * p + o * q + 999_999) // 10**6}
            for i, o, p, q in calls
        ],
        "splits": [
            {
                "amount": a,
                "basis_points": list(s),
                "shares": [a - sum(a * x // 10_000 for x in s[1:]), *(a * x // 10_000 for x in s[1:])],
            }
            for a, s in splits
        ],
    }


def build_evidence() -> dict[str, Any]:
    """Return blobs at the edges of a chunk with their items and root, by the plain recursive definition."""
    cases = []
    for size in (0, 1, 1023, 1024, 1025, 2048, 2049, 3072, 5000):
        blob = bytes(keccak(b"evidence %d" % (at // 32))[at % 32] for at in range(size))
        items = [keccak((at // 1024).to_bytes(32, "big") + blob[at : at + 1024]) for at in range(0, size, 1024)]
        level = [keccak(keccak(item)) for item in items]
        while len(level) > 1:
            odd = level[-1:] if len(level) % 2 else []
            pairs = zip(level[::2], level[1::2], strict=False)
            level = [keccak(min(pair) + max(pair)) for pair in pairs] + odd
        root = level[0] if level else b"\x00" * 32
        cases.append(
            {"blob": "0x" + blob.hex(), "items": ["0x" + item.hex() for item in items], "root": "0x" + root.hex()}
        )
    return {"chunk_bytes": 1024, "cases": cases}


def build_rendezvous() -> dict[str, Any]:
    """Return orders of weighted crowds, from logarithms of fifty digits."""
    crowds = {
        "equal": [(keccak(b"member %d" % n)[:20], 100) for n in range(7)],
        "weighted": [(keccak(b"member %d" % n)[:20], 1 + 37 * n * n) for n in range(9)],
        "twins": [(keccak(b"member")[:20], 5), (keccak(b"member")[:20], 5), (keccak(b"other")[:20], 0)],
    }
    cases = []
    for name, crowd in crowds.items():
        for number in range(4):
            seed = keccak(b"seed %d" % number)
            with localcontext(prec=50):
                scored = []
                for candidate, weight in crowd:
                    if weight:
                        top = int.from_bytes(keccak(seed + candidate)[:8], "big") >> 11
                        scored.append((-(Decimal(top + 1) / 2**53).ln() / weight, candidate))
            cases.append(
                {
                    "name": name,
                    "seed": "0x" + seed.hex(),
                    "candidates": [["0x" + candidate.hex(), weight] for candidate, weight in crowd],
                    "order": ["0x" + candidate.hex() for _, candidate in sorted(scored)],
                }
            )
    return {"cases": cases}


def main() -> None:
    """Write every vector file beside this script."""
    builders = {
        "messages": build_messages,
        "merkle": build_merkle,
        "pricing": build_pricing,
        "evidence": build_evidence,
        "rendezvous": build_rendezvous,
    }
    for name, build in builders.items():
        content = build()
        (HERE / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
