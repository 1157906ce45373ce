"""What signing and verifying cost on the hot path, in microseconds, beside eth-account's generic way.

`python bench/gateway/signing.py`
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable

from eth_account import Account
from eth_account.messages import encode_typed_data

from steelyard.protocol.lanes import LaneState, extend_lane, follow_lane, sign_voucher
from steelyard.protocol.messages import TAG_PURPOSE, Order, Receipt, Voucher, content_hash, order_tag
from steelyard.protocol.signing import Domain, SigningKey, recover_account

GATEWAY, PROVIDER = SigningKey(b"\x01" * 32), SigningKey(b"\x02" * 32)
DOMAIN = Domain(31415, b"\x03" * 32)
ORDER = Order(
    b"\x04" * 16,
    GATEWAY.account,
    PROVIDER.account,
    b"\x05" * 32,
    7,
    b"\x06" * 32,
    bytes(32),
    8,
    4,
    10,
    20,
    1000,
    123456,
)
RECEIPT = Receipt(ORDER.struct_hash(), 0, b"\x07" * 32, bytes(32), 30, 30, 1, 2, 3, 0)


def microseconds(work: Callable[[], object], times: int) -> float:
    """Return the median over seven rounds of one call's cost."""
    rounds = []
    for _ in range(7):
        started = time.perf_counter()
        for _ in range(times):
            work()
        rounds.append((time.perf_counter() - started) / times * 1e6)
    return statistics.median(rounds)


def measure() -> dict[str, float]:
    """Return each operation's cost in microseconds."""
    state = LaneState(lane=ORDER.lane)
    ids = [RECEIPT.struct_hash()] * 64
    after, batch = extend_lane(state, ids, [1] * 64, PROVIDER, DOMAIN)
    voucher = sign_voucher(after, GATEWAY, DOMAIN)
    digest = DOMAIN.digest(voucher.voucher.struct_hash())
    secret = GATEWAY.derive_secret(TAG_PURPOSE)
    body = b'{"model":"echo","messages":[{"role":"user","content":"hello there"}]}'

    def generic() -> object:
        fields = [part.split(" ") for part in Voucher.TYPE[8:-1].split(",")]
        values = dict(
            zip(
                (name for _, name in fields),
                (getattr(voucher.voucher, n) for n in Voucher.__struct_fields__),
                strict=True,
            )
        )
        domain = [("string", "name"), ("string", "version"), ("uint256", "chainId"), ("bytes32", "salt")]
        return Account.sign_message(
            encode_typed_data(
                full_message={
                    "types": {
                        "EIP712Domain": [{"type": kind, "name": name} for kind, name in domain],
                        "Voucher": [{"type": kind, "name": name} for kind, name in fields],
                    },
                    "primaryType": "Voucher",
                    "domain": {"name": "Steelyard", "version": "1", "chainId": DOMAIN.chain_id, "salt": DOMAIN.salt},
                    "message": values,
                }
            ),
            GATEWAY.secret,
        )

    return {
        "per call: request and response hash": microseconds(
            lambda: (content_hash(b"s" * 32, body), content_hash(b"s" * 32, body)), 2000
        ),
        "per call: order hash": microseconds(ORDER.struct_hash, 2000),
        "per call: order tag": microseconds(lambda: order_tag(secret, b"o" * 32), 2000),
        "per call: receipt id": microseconds(RECEIPT.struct_hash, 2000),
        "per batch of 64: build and sign (node)": microseconds(
            lambda: extend_lane(state, ids, [1] * 64, PROVIDER, DOMAIN), 50
        ),
        "per batch of 64: check and recover (gateway)": microseconds(
            lambda: follow_lane(state, batch, ids, [1] * 64, DOMAIN), 50
        ),
        "per voucher: sign (gateway)": microseconds(lambda: sign_voucher(after, GATEWAY, DOMAIN), 200),
        "per voucher: recover (node)": microseconds(lambda: recover_account(digest, voucher.signature), 200),
        "eth-account's generic way: sign a voucher": microseconds(generic, 50),
    }


def main() -> None:
    """Print a table, or JSON with --json."""
    figures = measure()
    if "--json" in sys.argv:
        print(json.dumps(figures, indent=1))
        return
    for name, cost in figures.items():
        print(f"{name:<48} {cost:9.1f} us")


if __name__ == "__main__":
    main()
