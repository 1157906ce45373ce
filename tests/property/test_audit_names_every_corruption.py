"""Whatever happens by the contracts' rules, the audit says yes; whatever is corrupted, it says what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audit_world import BUILDER, CONTRACTS, DOMAIN, GATEWAYS, PROVIDERS, ZERO, LaneWorld, World, build

from steelyard.audit.books import Publication
from steelyard.audit.calls import CallIndex, LaneProof, prove_lane
from steelyard.audit.findings import CODES, Finding, verdict_of
from steelyard.audit.rebuild import rebuild
from steelyard.audit.views import compare_views, list_expectations
from steelyard.protocol.lanes import SignedBatch
from steelyard.protocol.pricing import call_cost

deeds = st.lists(st.tuples(st.integers(0, 18), st.integers(0, 10**10)), max_size=40)
seeds = st.integers(0, 2**32)


def audit(world: World, missing: frozenset[bytes] = frozenset()) -> tuple[list[Finding], list[LaneProof]]:
    """Run the pure parts of an audit over a world's history, without the blobs in `missing`."""
    books, findings = rebuild(CONTRACTS, world.entries)
    expectations = list_expectations(books)
    findings += compare_views(expectations, {question: world.answers(question) for question in expectations})
    index = CallIndex(DOMAIN)
    unread: dict[bytes, list[Publication]] = {}
    for publication in books.published:
        if publication.blob in missing:
            unread.setdefault(publication.blob, []).append(publication)
        else:
            index.add_blob(publication.blob, [publication.publisher], world.blobs[publication.blob])
    proofs = []
    for lane in books.lanes.values():
        proofs.append(prove_lane(lane, index, books.offers[lane.provider, lane.service_id], unread))
        findings += proofs[-1].findings
    return findings, proofs


def build_world(seed: int, history: list[tuple[int, int]]) -> tuple[World, LaneWorld]:
    """Return a world with a history, and the lane that certainly has two redemptions of two batches."""
    world = World(seed)
    for deed, size in history:
        world.act(deed, size)
    return world, world.finish()


@given(seeds, deeds)
def test_audit_of_valid_history_says_yes_and_adds_up(seed: int, history: list[tuple[int, int]]) -> None:
    """Any history that the contracts allow is conserved, to the nano, and every redeemed lane is proven."""
    world, _ = build_world(seed, history)
    findings, proofs = audit(world)
    assert findings == []
    assert all(proof.cost == proof.lane.accepted and proof.calls for proof in proofs)
    books, _ = rebuild(CONTRACTS, world.entries)
    assert sum(books.totals().values()) == books.minted - books.burned == sum(world.wallets.values())
    for account, gateway in books.gateways.items():
        assert gateway.remaining == world.deposits[account]


Corruption = Callable[[World, LaneWorld], None]


def _own_blob(world: World, lane: LaneWorld) -> bytes:
    """Return the last blob with the lane's batches."""
    key = lane.state.lane.key
    return [blob for blob, content in world.blobs.items() if content and content[0][0].batch.lane.key == key][-1]


def _alter_leaf(world: World, lane: LaneWorld) -> None:
    content = world.blobs[_own_blob(world, lane)]
    order, receipt = content[0][1][0]
    content[0][1][0] = (order, build(receipt, units_out=receipt.units_out + 1))


def _drop_leaf(world: World, lane: LaneWorld) -> None:
    world.blobs[_own_blob(world, lane)][0][1].pop()


def _forge_signature(world: World, lane: LaneWorld) -> None:
    content = world.blobs[_own_blob(world, lane)]
    signed, calls = content[0]
    forged = GATEWAYS[1].sign(DOMAIN.digest(signed.batch.struct_hash()))
    content[0] = (SignedBatch(signed.batch, forged), calls)


def _swap_orders(world: World, lane: LaneWorld) -> None:
    calls = world.blobs[_own_blob(world, lane)][0][1]
    (first, one), (second, two) = calls[:2]
    calls[:2] = [(second, one), (first, two)]


def _wrong_price(world: World, lane: LaneWorld) -> None:
    world.serve(0, 1, price_in=7_777_777)
    world.redeem([lane.state.lane.key])


def _wrong_grade(world: World, lane: LaneWorld) -> None:
    world.serve(0, 1, grade=4)
    world.redeem([lane.state.lane.key])


def _foreign_order(world: World, lane: LaneWorld) -> None:
    world.serve(0, 1, lane_id=12345)
    world.redeem([lane.state.lane.key])


def _wrong_cost(world: World, lane: LaneWorld) -> None:
    order = world._order(lane.state.lane)
    receipt = world._receipt(order)
    world.close_batch(lane, [(order, build(receipt, cost=receipt.cost + 1))])
    world.redeem([lane.state.lane.key])


def _above_limit(world: World, lane: LaneWorld) -> None:
    world.serve(0, 1, max_cost=1)
    world.redeem([lane.state.lane.key])


def _bill_twice(world: World, lane: LaneWorld) -> None:
    call = world.blobs[_own_blob(world, lane)][0][1][0]
    world.close_batch(lane, [call])
    world.redeem([lane.state.lane.key])


def _repeat_call(world: World, lane: LaneWorld) -> None:
    order, _ = world.blobs[_own_blob(world, lane)][0][1][0]
    world.serve(0, 1, call_id=order.call_id)
    world.redeem([lane.state.lane.key])


def _inflate_batch(world: World, lane: LaneWorld) -> None:
    lane.state = build(lane.state, cumulative=lane.state.cumulative + 5)
    world.serve(0, 1)
    world.redeem([lane.state.lane.key])


def _fork_lane(world: World, lane: LaneWorld) -> None:
    before = lane.state
    world.serve(0, 1)
    world.redeem([lane.state.lane.key])
    branch = build(before, cumulative=lane.state.cumulative)
    lane.state = branch
    world.serve(0, 1)
    world.redeem([lane.state.lane.key])


def _skip_seq(world: World, lane: LaneWorld) -> None:
    lane.state = build(lane.state, seq=lane.state.seq + 1)
    world.serve(0, 1)
    world.redeem([lane.state.lane.key])


def _miscount_voucher(world: World, lane: LaneWorld) -> None:
    lane.state = build(lane.state, count=lane.state.count + 1)
    world.serve(0, 1)
    world.redeem([lane.state.lane.key])


def _double_sweep(world: World, lane: LaneWorld) -> None:
    account = lane.state.lane.provider
    amount = next(e.values["amount"] for e in reversed(world.entries) if e.name == "Swept")
    world._begin()
    world.emit("Escrow", "Swept", account=account, amount=amount)
    world.transfer(CONTRACTS.escrow, account, amount)


def _double_redemption(world: World, lane: LaneWorld) -> None:
    last = next(e for e in reversed(world.entries) if e.name == "LaneRedeemed")
    world.entries.append(replace(last, tx=b"\xee" * 32))


def _lower_total(world: World, lane: LaneWorld) -> None:
    last = next(e for e in reversed(world.entries) if e.name == "LaneRedeemed")
    lower = dict(last.values) | {"cumulative": last.values["cumulative"] - 1, "paid": 0}
    world.entries.append(replace(last, tx=b"\xee" * 32, values=lower))


def _skew_split(world: World, lane: LaneWorld) -> None:
    world.redeem([world.serve(0, 1).state.lane.key])
    world.unswept[lane.state.lane.provider] -= 1
    world.unswept[BUILDER] += 1


def _skew_swept_split(world: World, lane: LaneWorld) -> None:
    world._begin()
    world.redeem([world.serve(0, 1).state.lane.key])
    world.unswept[lane.state.lane.provider] -= 1
    world.sweep(lane.state.lane.provider)


def _underpay(world: World, lane: LaneWorld) -> None:
    last = next(e for e in reversed(world.entries) if e.name == "LaneRedeemed")
    world.entries[world.entries.index(last)] = replace(
        last, values=dict(last.values) | {"paid": last.values["paid"] - 1}
    )


def _leak(world: World, lane: LaneWorld) -> None:
    world._begin()
    world.transfer(CONTRACTS.escrow, BUILDER, 1)


def _inflate_supply(world: World, lane: LaneWorld) -> None:
    world.wallets[BUILDER] += 1


def _withdraw_early(world: World, lane: LaneWorld) -> None:
    world._begin()
    gateway = GATEWAYS[0].account
    world.deposits[gateway] -= 1
    world.emit("Escrow", "Withdrawn", gateway=gateway, amount=1)
    world.transfer(CONTRACTS.escrow, gateway, 1)


def _draw_unseen(world: World, lane: LaneWorld) -> None:
    world._begin()
    world.emit("Registry", "Drawn", gateway=GATEWAYS[1].account, drawer=CONTRACTS.escrow, amount=1)
    world.transfer(CONTRACTS.registry, CONTRACTS.escrow, 1)


def _bond_twice(world: World, lane: LaneWorld) -> None:
    world.court.post_bond(GATEWAYS[0].account, 10)
    matter = list(world.court.bonds)[-1]
    for _ in range(2):
        world.emit("Court", "BondReleased", matter=matter, to=BUILDER, amount=10)
        world.transfer(CONTRACTS.court, BUILDER, 10)


def _bond_kept(world: World, lane: LaneWorld) -> None:
    world.emit("Court", "BondPosted", matter=b"\x77" * 32, payer=BUILDER, amount=10)


def _slash_untold(world: World, lane: LaneWorld) -> None:
    world.court.punish(PROVIDERS[0].account, 100, b"")
    last = world.entries[-1]
    assert last.name == "Punished"
    world.entries[-1] = replace(last, values=dict(last.values) | {"taken": last.values["taken"] + 1})


def _informer_greedy(world: World, lane: LaneWorld) -> None:
    world.slash(PROVIDERS[0].account, 20, BUILDER)
    world.emit("Court", "Punished", matter=b"\x0c" * 32, account=PROVIDERS[0].account, role=1, taken=20, toHarmed=0,
               informer=BUILDER, toInformer=20)  # fmt: skip


def _overcompensate(world: World, lane: LaneWorld) -> None:
    key, amount = lane.state.lane.key, lane.paid - world.court.compensated[lane.state.lane.key] + 1
    world.emit("Court", "Compensated", matter=b"\x0c" * 32, lane=key, gateway=GATEWAYS[0].account, amount=amount)
    world.court.compensated[key] += amount


def _fund_pot(world: World) -> None:
    """Have income that one proposal and its claims can be made from."""
    world.transfer(ZERO, CONTRACTS.rewards, 1_000)
    while any(one.get("state") == 1 for one in world.pot.proposals):
        world.pot.settle()
    world.pot.propose(GATEWAYS[0].account, 0)


def _promise_too_much(world: World, lane: LaneWorld) -> None:
    _fund_pot(world)
    index = [at for at, e in enumerate(world.entries) if e.name == "Proposed"][-1]
    last = world.entries[index]
    total = world.pot.received * 9 // 10 + 1
    world.entries[index] = replace(last, values=dict(last.values) | {"total": total})


def _settle_on_another(world: World, lane: LaneWorld) -> None:
    _fund_pot(world)
    index = [at for at, e in enumerate(world.entries) if e.name == "Proposed"][-1]
    last = world.entries[index]
    world.entries[index] = replace(last, values=dict(last.values) | {"base": last.values["id"] + 5})


def _claim_void(world: World, lane: LaneWorld) -> None:
    _fund_pot(world)
    world.emit("Rewards", "Claimed", id=999, account=BUILDER, amount=1, cumulative=world.pot.claimed[BUILDER] + 1)
    world.transfer(CONTRACTS.rewards, BUILDER, 1)
    world.pot.paid += 1
    world.pot.claimed[BUILDER] += 1


def _leak_pot(world: World, lane: LaneWorld) -> None:
    _fund_pot(world)
    world.transfer(CONTRACTS.rewards, BUILDER, 1)


def _burn_too_much(world: World, lane: LaneWorld) -> None:
    _fund_pot(world)
    amount = world.pot.received // 10 - world.pot.burned + 1
    world.pot.burned += amount
    world.emit("Rewards", "RestBurned", amount=amount)
    world.transfer(CONTRACTS.rewards, ZERO, amount)


def _misread_pot(world: World, lane: LaneWorld) -> None:
    world.emit("Rewards", "Collected", epoch=10**6, received=world.pot.received + 1)


CORRUPTIONS: dict[str, tuple[Corruption, str]] = {
    "bond given back twice": (_bond_twice, "bond_overdrawn"),
    "bond that never came": (_bond_kept, "vault_short"),
    "slash told wrongly": (_slash_untold, "slash_differs"),
    "informer paid all of it": (_informer_greedy, "slash_differs"),
    "gateway paid back too much": (_overcompensate, "overcompensated"),
    "root above the cap": (_promise_too_much, "above_cap"),
    "root on another base": (_settle_on_another, "wrong_root_order"),
    "claim without a final root": (_claim_void, "reward_overdrawn"),
    "leak from the pot": (_leak_pot, "vault_short"),
    "burned above a tenth": (_burn_too_much, "above_cap"),
    "pot read wrongly": (_misread_pot, "pot_differs"),
    "altered leaf": (_alter_leaf, "altered_leaf"),
    "dropped leaf": (_drop_leaf, "altered_leaf"),
    "forged signature": (_forge_signature, "forged_signature"),
    "swapped order": (_swap_orders, "swapped_order"),
    "wrong price": (_wrong_price, "wrong_price"),
    "wrong grade": (_wrong_grade, "wrong_price"),
    "order of another lane": (_foreign_order, "wrong_lane"),
    "wrong cost": (_wrong_cost, "wrong_cost"),
    "cost above the order's limit": (_above_limit, "wrong_cost"),
    "order billed twice": (_bill_twice, "repeated_order"),
    "batch above its receipts": (_inflate_batch, "wrong_total"),
    "forked lane": (_fork_lane, "broken_chain"),
    "skipped batch": (_skip_seq, "broken_chain"),
    "voucher for more calls": (_miscount_voucher, "wrong_voucher"),
    "doubled sweep": (_double_sweep, "doubled_payout"),
    "doubled redemption": (_double_redemption, "doubled_payout"),
    "lowered total": (_lower_total, "lowered_total"),
    "skewed split": (_skew_split, "skewed_split"),
    "skewed split, swept": (_skew_swept_split, "skewed_split"),
    "underpaid redemption": (_underpay, "wrong_payment"),
    "leak from the escrow": (_leak, "vault_short"),
    "supply out of nothing": (_inflate_supply, "supply_differs"),
    "unannounced withdrawal": (_withdraw_early, "withdrawal_early"),
    "drawn and not credited": (_draw_unseen, "draw_differs"),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
@given(seeds, deeds)
def test_audit_of_corrupted_history_names_the_corruption(name: str, seed: int, history: list[tuple[int, int]]) -> None:
    """Each planted corruption turns the answer to no, under its own name."""
    corrupt, code = CORRUPTIONS[name]
    world, lane = build_world(seed, history)
    world._begin()
    corrupt(world, lane)
    findings, _ = audit(world)
    assert code in CODES
    assert code in {finding.code for finding in findings if finding.severity == "contradiction"}
    assert verdict_of(findings) == "no"


@given(seeds, deeds)
def test_audit_of_a_call_ordered_twice_notes_it_against_the_gateway(seed: int, history: list[tuple[int, int]]) -> None:
    """A gateway that uses one call id for two orders, and pays both, is named; it can't turn the answer to no."""
    world, lane = build_world(seed, history)
    world._begin()
    _repeat_call(world, lane)
    findings, _ = audit(world)
    assert {(f.code, f.severity, f.account) for f in findings} == {("repeated_call", "note", lane.state.lane.gateway)}
    assert verdict_of(findings) == "yes"


@given(seeds, deeds)
def test_audit_of_history_without_a_blob_is_not_provable_and_names_the_cid(
    seed: int, history: list[tuple[int, int]]
) -> None:
    """A blob that nobody has makes it "not provable", with the lane, the head and the CID; never "yes", never "no"."""
    world, lane = build_world(seed, history)
    blob = _own_blob(world, lane)
    findings, _ = audit(world, frozenset({blob}))
    assert verdict_of(findings) == "not provable"
    (finding,) = findings
    assert (finding.code, finding.lane, finding.cids) == ("missing_blob", lane.state.lane.key, (blob,))
    assert finding.head == lane.state.head


@given(seeds, deeds)
def test_audit_of_strangers_rubbish_says_no_only_of_its_own_provider(seed: int, history: list[tuple[int, int]]) -> None:
    """A stranger who publishes spoilt copies of batches can make nothing false: a good copy outweighs them."""
    world, lane = build_world(seed, history)
    own = _own_blob(world, lane)
    good = world.blobs[own]
    world._begin()
    spoilt = [(signed, [(order, build(receipt, cost=1)) for order, receipt in calls]) for signed, calls in good]
    world.blobs[b"\x99" * 32] = spoilt
    world.emit("Escrow", "CallsPublished", publisher=BUILDER, blob=b"\x99" * 32)
    assert verdict_of(audit(world)[0]) == "yes"
    assert verdict_of(audit(world, frozenset({own}))[0]) == "not provable"


@given(seeds, deeds)
def test_audit_of_a_slash_by_another_than_the_court_notes_it(seed: int, history: list[tuple[int, int]]) -> None:
    """Whoever else holds the slasher's role is seen; no money is lost from the sum by it."""
    world, _ = build_world(seed, history)
    world._begin()
    world.slash(PROVIDERS[0].account, min(5, world.stakes[PROVIDERS[0].account, 1]), BUILDER)
    findings, _ = audit(world)
    is_slashed = world.entries[-1].name == "Transfer"
    assert [(f.code, f.severity) for f in findings] == [("foreign_slash", "note")] * is_slashed
    assert verdict_of(findings) == "yes"


def test_call_cost_of_the_world_is_above_zero() -> None:
    """The generated calls cost something, so that the totals above mean something."""
    assert call_cost(1, 1, 1_000_003, 5_000_011) == 7
