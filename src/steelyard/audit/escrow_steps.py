"""The escrow's side of the books: deposits, lanes, redemptions and their shares.

1. A redemption pays what is due or all that the deposit holds, and what it drew from the stake; never anything else.
2. Each redemption is split by its service's registered shares: three are floored, the rest is the provider's.

Law: docs/spec/audit.md, section 2.  The contract's twin: contracts/src/Escrow.sol.
"""

from __future__ import annotations

from collections.abc import Iterable

from steelyard.audit.books import Books, Entry, LaneBooks, Publication, Redemption
from steelyard.audit.findings import Finding, finding_at, show
from steelyard.protocol.messages import Lane
from steelyard.protocol.pricing import split_payment


def _deposited(books: Books, entry: Entry) -> Iterable[Finding]:
    books.gateways[entry.values["gateway"]].deposited += entry.values["amount"]
    books.owes["escrow"] += entry.values["amount"]
    return ()


def _withdrawal_announced(books: Books, entry: Entry) -> Iterable[Finding]:
    books.gateways[entry.values["gateway"]].announced = entry.values["amount"]
    return ()


def _withdrawal_cancelled(books: Books, entry: Entry) -> Iterable[Finding]:
    books.gateways[entry.values["gateway"]].announced = 0
    return ()


def _withdrawn(books: Books, entry: Entry) -> Iterable[Finding]:
    account, amount = entry.values["gateway"], entry.values["amount"]
    gateway = books.gateways[account]
    if gateway.owed:
        message = f"{show(account)} withdrew {amount} nano while {gateway.owed} were owed"
        yield finding_at(entry, "withdrawal_early", message, account=account)
    elif amount > gateway.announced:
        message = f"{show(account)} withdrew {amount} nano and had announced {gateway.announced}"
        yield finding_at(entry, "withdrawal_early", message, account=account)
    if amount > gateway.remaining:
        message = f"{show(account)} withdrew {amount} nano from a deposit of {gateway.remaining}"
        yield finding_at(entry, "deposit_overdrawn", message, account=account)
    gateway.withdrawn += amount
    gateway.announced = 0
    books.owes["escrow"] -= amount


def _lane_opened(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    key, lane = values["lane"], Lane(values["gateway"], values["provider"], values["serviceId"], values["laneId"])
    if lane.key != key or key in books.lanes:
        message = f"lane {show(key)} is opened twice, or under a key that its fields don't give"
        yield finding_at(entry, "unknown_lane", message, lane=key)
    books.lanes.setdefault(key, LaneBooks(key, lane.gateway, lane.provider, lane.service_id, lane.lane_id))


def _stake_drawn(books: Books, entry: Entry) -> Iterable[Finding]:
    gateway, amount = entry.values["gateway"], entry.values["amount"]
    books.stake_drawn[gateway] -= amount
    books.lane_drawn[entry.values["lane"]] += amount
    books.gateways[gateway].drawn += amount
    books.owes["escrow"] += amount
    if books.stake_drawn[gateway] < 0:
        message = f"the escrow credited {amount} nano from the stake of {show(gateway)} that the registry didn't give"
        yield finding_at(entry, "draw_differs", message, account=gateway)
        books.stake_drawn[gateway] = 0


def _lane_redeemed(books: Books, entry: Entry) -> Iterable[Finding]:
    values = entry.values
    key, cumulative, paid = values["lane"], values["cumulative"], values["paid"]
    lane = books.lanes.get(key)
    if lane is None:
        yield finding_at(entry, "unknown_lane", f"lane {show(key)} is paid {paid} nano, never opened", lane=key)
        return
    yield from _check_payment(books, entry, lane)
    gateway = books.gateways[lane.gateway]
    gateway.owed += cumulative - lane.accepted - paid
    gateway.redeemed += paid
    lane.accepted, lane.paid = cumulative, lane.paid + paid
    lane.redemptions.append(
        Redemption(
            cumulative=cumulative, paid=paid, count=values["count"], head=values["head"], block=entry.block, tx=entry.tx
        )
    )
    service = books.services.get(lane.service_id)
    if service is None:
        message = f"lane {show(key)} is paid for service {show(lane.service_id)}, never registered"
        yield finding_at(entry, "unknown_service", message, lane=key)
        books.owes["escrow"] -= paid
        return
    payees = (lane.provider, service.builder, service.data_pot, books.protocol_pot)
    for payee, share in zip(payees, split_payment(paid, service.split), strict=True):
        if share:
            books.unswept[payee] += share
            books.earned[payee] += share


def _check_payment(books: Books, entry: Entry, lane: LaneBooks) -> Iterable[Finding]:
    cumulative, paid = entry.values["cumulative"], entry.values["paid"]
    at = {"lane": lane.key, "head": entry.values["head"]}
    if cumulative < lane.accepted:
        message = f"lane {show(lane.key)} fell from {lane.accepted} to {cumulative} nano"
        yield finding_at(entry, "lowered_total", message, **at)
    due = max(cumulative - lane.paid, 0)
    drawn = books.lane_drawn.pop(lane.key, 0)
    funds = books.gateways[lane.gateway].remaining - drawn
    if paid > due:
        message = f"lane {show(lane.key)} is paid {paid} nano and was due {due}"
        yield finding_at(entry, "doubled_payout", message, **at)
    elif paid - drawn != min(due, funds):
        message = f"lane {show(lane.key)} was due {due} nano, the deposit held {funds} and paid {paid - drawn}"
        yield finding_at(entry, "wrong_payment", message, **at)
    if paid - drawn > funds:
        message = f"the deposit of {show(lane.gateway)} paid {paid - drawn} nano and held {funds}"
        yield finding_at(entry, "deposit_overdrawn", message, account=lane.gateway, **at)


def _calls_published(books: Books, entry: Entry) -> Iterable[Finding]:
    publisher, blob = entry.values["publisher"], entry.values["blob"]
    books.published.append(Publication(publisher=publisher, blob=blob, block=entry.block, tx=entry.tx))
    return ()


def _swept(books: Books, entry: Entry) -> Iterable[Finding]:
    account, amount = entry.values["account"], entry.values["amount"]
    held = books.unswept[account]
    if amount > held:
        message = f"{show(account)} was paid out {amount} nano and its shares left {held}"
        code = "doubled_payout" if held == 0 else "skewed_split"
        yield finding_at(entry, code, message, account=account)
    elif amount < held:
        message = f"{show(account)} was paid out {amount} nano and its shares add up to {held}"
        yield finding_at(entry, "skewed_split", message, account=account)
    books.unswept[account] -= amount
    books.owes["escrow"] -= amount


def _protocol_pot_set(books: Books, entry: Entry) -> Iterable[Finding]:
    books.protocol_pot = entry.values["pot"]
    return ()


ESCROW_STEPS = {
    "Deposited": _deposited,
    "WithdrawalAnnounced": _withdrawal_announced,
    "WithdrawalCancelled": _withdrawal_cancelled,
    "Withdrawn": _withdrawn,
    "LaneOpened": _lane_opened,
    "StakeDrawn": _stake_drawn,
    "LaneRedeemed": _lane_redeemed,
    "CallsPublished": _calls_published,
    "Swept": _swept,
    "ProtocolPotSet": _protocol_pot_set,
}
