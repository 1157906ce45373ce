"""The gas table: which transactions it measures, and how it is written down.

    STEELYARD_WRITE_GAS=1 python -m pytest tests/contracts/test_gas.py      measures, and writes both files anew

1. Figures are whole transactions on Prague's rules: base price, calldata and refunds included.
2. Redemptions have a four-way split with every share above zero, a published blob, and lanes, credits and deposits that
   were used before, unless the row says "first". Per voucher: the whole transaction divided by its vouchers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tests.contracts.gas_court import measure_court, measure_proofs
from tests.contracts.gas_rewards import measure_rewards
from tests.contracts.test_yard import sign
from tests.contracts.world import (
    GATEWAY,
    MIN_STAKES,
    PROVIDER,
    TERMS,
    UNBOND_DELAY_S,
    WITHDRAW_DELAY_S,
    YARD,
    ZERO_ADDRESS,
    SignedVoucher,
    World,
)

from steelyard.chain.artifacts import load_artifact
from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import MAX_UINT64, Offer

GAS_JSON = Path(__file__).parents[2] / "contracts/gas.json"
GAS_PAGE = GAS_JSON.with_name("GAS.md")
BATCH = 25
BLOB = keccak(b"blob")
Table = dict[str, int]

# The highest gas a voucher that the issue allows, and the rows that it holds for.
LIMITS: dict[str, int] = {
    "redeem 1": 82_000,
    "redeem 25, one service, 25 gateways": 33_000,
    "redeem 25, one service, 25 providers": 33_000,
    "redeem 25, one service, 25 gateways and providers": 33_000,
    "redeem 25, 25 services, 25 gateways": 45_000,
    "redeem 25, 25 services, 25 providers": 45_000,
    "redeem 25, 25 services, 25 gateways and providers": 45_000,
}


def vouchers_in(row: str) -> int:
    """Return how many vouchers a row's redemption has; zero for other rows."""
    if not row.startswith("redeem"):
        return 0
    return int(row.removeprefix("redeem ").split(",")[0].split(" ")[0])


def measure(world: World) -> Table:
    """Run every transaction of the table on a fresh deployment and return its gas."""
    table: Table = {}
    for part in (
        measure_deployment,
        measure_token,
        measure_registry,
        measure_escrow,
        measure_redemptions,
        measure_court,
        measure_proofs,
        measure_rewards,
    ):
        world.reset()
        table |= part(world)
    return table


def measure_deployment(world: World) -> Table:
    """What it costs to put each contract on chain."""
    manager, yard, registry = (part.address for part in (world.manager, world.yard, world.registry))
    delays = (UNBOND_DELAY_S, MIN_STAKES)
    arguments = {
        "AccessManager": (world.admin,),
        "Yard": (manager,),
        "Registry": (yard, manager, world.domain.salt, *delays),
        "Escrow": (yard, registry, manager, world.domain.salt, WITHDRAW_DELAY_S, world.protocol_pot),
        "Ledger": (3_600,),
        "Court": (world.escrow.address, world.ledger.address, world.domain.salt, TERMS.as_tuple()),
    }
    return {f"deploy {name}": world.creation_gas(load_artifact(name), *args) for name, args in arguments.items()}


def measure_token(world: World) -> Table:
    """The token's own functions."""
    key, bob = world.actor("alice"), world.account("bob")
    alice = key.account
    table = {"mint, first": world.yard.send("mint", alice, YARD, sender=world.minter).gas_used}
    table["mint"] = world.yard.send("mint", alice, YARD, sender=world.minter).gas_used
    table["transfer, first"] = world.yard.send("transfer", bob, 5, sender=alice).gas_used
    table["transfer"] = world.yard.send("transfer", bob, 5, sender=alice).gas_used
    table["approve"] = world.yard.send("approve", bob, 5, sender=alice).gas_used
    values = (alice, bob, 4, 0, MAX_UINT64, BLOB)
    signature = sign(world, key, "TransferWithAuthorization", values)
    sent = world.yard.send("transferWithAuthorization", *values, *signature, sender=bob)
    table["transferWithAuthorization"] = sent.gas_used
    return table


def measure_registry(world: World) -> Table:
    """Stakes, services, offers; and a posted root."""
    key = world.actor("provider")
    alice, registry = key.account, world.registry
    world.fund(alice, 10_000 * YARD)
    table = {"stake, first": registry.send("stake", PROVIDER, MIN_STAKES[0], sender=alice).gas_used}
    table["stake"] = registry.send("stake", PROVIDER, MIN_STAKES[0], sender=alice).gas_used
    table["startUnbond"] = registry.send("startUnbond", PROVIDER, YARD, sender=alice).gas_used
    world.evm.advance(UNBOND_DELAY_S)
    table["finishUnbond"] = registry.send("finishUnbond", PROVIDER, sender=alice).gas_used
    lock = ("lock", alice, PROVIDER, 2**48 - 1)
    table["lock"] = registry.send(*lock, sender=world.slasher).gas_used
    slash = ("slash", alice, PROVIDER, YARD, ZERO_ADDRESS)
    table["slash, burned"] = registry.send(*slash, sender=world.slasher).gas_used
    registry.send("stake", GATEWAY, MIN_STAKES[1], sender=alice)
    table["setGateway, 30 bytes"] = registry.send("setGateway", "w" * 30, sender=alice).gas_used
    name, split = "smollm2-135m-instruct", (8_000, 1_000, 500, 500)
    register = ("registerService", name, "chat", BLOB, split, alice)
    table["registerService"] = registry.send(*register, sender=alice).gas_used
    offer = Offer(alice, keccak(name.encode()), 11, 22, 4, BLOB, 1)
    table["setOffer, first"] = world.set_offer(offer, key).gas_used
    again = Offer(*offer_fields(offer)[:-1], 2)
    table["setOffer"] = world.set_offer(again, key).gas_used
    post = ("post", BLOB, 1, BLOB, BLOB, 1)
    table["post"] = world.ledger.send(*post, sender=alice).gas_used
    return table


def offer_fields(offer: Offer) -> tuple[object, ...]:
    """Return an offer's fields in order."""
    return tuple(getattr(offer, name) for name in offer.__struct_fields__)


def measure_escrow(world: World) -> Table:
    """Deposits, withdrawals and sweeps."""
    key = world.actor("gateway")
    gateway = key.account
    world.fund(gateway, 1_000 * YARD)
    table = {"deposit, first": world.escrow.send("deposit", gateway, 5 * YARD, sender=gateway).gas_used}
    table["deposit"] = world.escrow.send("deposit", gateway, 5 * YARD, sender=gateway).gas_used
    v, r, s = sign(world, key, "Permit", (gateway, world.escrow.address, YARD, 0, MAX_UINT64))
    permit = ("depositWithPermit", gateway, YARD, MAX_UINT64, v, r, s)
    table["depositWithPermit"] = world.escrow.send(*permit, sender=gateway).gas_used
    table["announceWithdrawal"] = world.escrow.send("announceWithdrawal", 5 * YARD, sender=gateway).gas_used
    world.evm.advance(WITHDRAW_DELAY_S)
    table["withdraw"] = world.escrow.send("withdraw", sender=gateway).gas_used
    service = world.register("echo")
    world.redeem([world.pay("gateway", "provider", service, YARD)])
    payees = [world.account("provider"), world.account("builder"), world.account("data pot"), world.protocol_pot]
    table["sweep 4, first"] = world.escrow.send("sweep", payees, sender=gateway).gas_used
    world.redeem([world.pay("gateway", "provider", service, 2 * YARD)])
    table["sweep 4"] = world.escrow.send("sweep", payees, sender=gateway).gas_used
    return table


def measure_redemptions(world: World) -> Table:
    """Redemptions of one voucher and of 25, in every mix of who pays whom for what."""
    table: Table = {}
    for services in (1, BATCH):
        for gateways, providers in ((BATCH, 1), (1, BATCH), (BATCH, BATCH)):
            who = {(BATCH, 1): "25 gateways", (1, BATCH): "25 providers"}.get((gateways, providers))
            what = "one service" if services == 1 else "25 services"
            row = f"redeem {BATCH}, {what}, {who or '25 gateways and providers'}"
            world.reset()
            table |= measure_batch(world, row, spread(gateways), spread(providers), spread(services))
    world.reset()
    table |= measure_batch(world, "redeem 1", [0], [0], [0])
    gateway = world.account("gateway 0")
    world.stake(gateway, GATEWAY, 10_000 * YARD)
    drawn = world.pay("gateway 0", "provider 0", keccak(b"s-0"), 2_000 * YARD, lane_id=lane_id(0))
    table["redeem 1, drawing on the stake"] = world.redeem([drawn], blob=BLOB).gas_used
    return table


def measure_batch(
    world: World, row: str, gateways: Sequence[int], providers: Sequence[int], services: Sequence[int]
) -> Table:
    """Redeem the same lanes thrice: opened, paid on, and found settled."""
    for n in sorted(set(gateways)):
        world.deposit(world.account(f"gateway {n}"), 1_000 * YARD)
    ids = {n: world.register(f"s-{n}", builder=f"builder {n}", data_pot=f"pot {n}") for n in sorted(set(services))}

    def vouchers(total: int) -> list[SignedVoucher]:
        return [
            world.pay(f"gateway {g}", f"provider {p}", ids[s], total, lane_id=lane_id(n), count=total // 1_000)
            for n, (g, p, s) in enumerate(zip(gateways, providers, services, strict=True))
        ]

    first = world.redeem(vouchers(123_456_789), blob=BLOB)
    again = world.redeem(vouchers(987_654_321), blob=BLOB)
    assert len(again.all("LaneRedeemed")) == len(gateways)
    table = {f"{row}, first": first.gas_used, row: again.gas_used}
    if row == "redeem 25, one service, 25 gateways":
        table["redeem 25, all replayed"] = world.redeem(vouchers(987_654_321), blob=BLOB).gas_used
    return table


def spread(parties: int) -> list[int]:
    """Return which party each of 25 vouchers has: always the same one, or each its own."""
    return [n % parties for n in range(BATCH)]


def lane_id(n: int) -> int:
    """Return a 64-bit lane id as a process draws it: few of its bytes are zero."""
    return int.from_bytes(keccak(b"lane" + bytes([n]))[:8], "big")


def render(table: Table) -> str:
    """Return the page that shows the table."""
    lines = [
        "# Gas",
        "",
        "Measured by `tests/contracts/test_gas.py` on py-evm and anvil, which agree to the unit; written by",
        "`STEELYARD_WRITE_GAS=1 python -m pytest tests/contracts/test_gas.py`. Whole transactions, by Prague's rules.",
        "Redemptions split four ways, publish a blob, and pay on lanes paid before, unless the row says *first*.",
        "",
        "| transaction | gas | a voucher | limit |",
        "|---|---:|---:|---:|",
    ]
    for row, gas in table.items():
        count = vouchers_in(row)
        each = f"{gas / count:,.0f}" if count else ""
        limit = f"{LIMITS[row]:,}" if row in LIMITS else ""
        lines.append(f"| {row} | {gas:,} | {each} | {limit} |")
    return "\n".join(lines) + "\n"


def load_table() -> Table:
    """Return the committed table."""
    table: Table = json.loads(GAS_JSON.read_text())
    return table


def write_table(table: Table) -> None:
    """Write both committed files anew."""
    GAS_JSON.write_text(json.dumps(table, indent=1) + "\n")
    GAS_PAGE.write_text(render(table))
