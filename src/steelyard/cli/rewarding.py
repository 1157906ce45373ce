"""``steelyard rewards``: what the pot holds, what it owes to an account, and claiming it.

1. What is owed is read from the blobs of the final roots; whoever lacks one is told which.
2. Anyone may claim for any account: the money goes to that account, whoever pays for the transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import NotProvable, PeerError

if TYPE_CHECKING:
    from steelyard.chain.rewards import Proposal, RewardsClient
    from steelyard.cli.chain_access import ChainAccess

WalletOption = Annotated[str | None, typer.Option("--wallet", "-w", help="Whose rewards. Default: the node's wallet.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    rewards = typer.Typer(help="The share of the protocol's cut that good work earns back.", no_args_is_help=True)
    rewards.command("show", epilog=example("steelyard rewards show", "steelyard rewards show --wallet node-2"))(show)
    rewards.command("claim", epilog=example("steelyard rewards claim", "steelyard rewards claim --wallet node-2"))(
        claim
    )
    rewards.callback()(_group)
    app.add_typer(rewards, name="rewards", rich_help_panel="Money", epilog=example("steelyard rewards show"))


def _group() -> None:
    """The share of the protocol's cut that good work earns back."""


@dataclass(frozen=True, slots=True)
class Owed:
    """What a final root says that an account earned ever, and what may be drawn under it."""

    number: int
    cumulative_nano: int
    purse_nano: int
    proof: tuple[bytes, ...]


def show(context: typer.Context, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """Show the pot, the proposed roots, and what a wallet has earned and claimed."""
    said = run(_show(Invocation.of(context), wallet))
    if is_json:
        print_json(said)
        return
    from steelyard.protocol.pricing import format_yard

    pot = said["pot"]
    print_line(
        f"pot: {format_yard(pot['received_nano'])} YARD came in, {format_yard(pot['paid_nano'])} paid, "
        f"{format_yard(pot['burned_nano'])} burned"
    )
    rows = [
        (str(root["number"]), str(root["epoch"]), root["state"], format_yard(root["total_nano"]), root["proposer"])
        for root in said["roots"]
    ]
    print_table(["root>", "epoch>", "state", "total>", "proposer"], rows)
    earned, claimed = said["earned_nano"], said["claimed_nano"]
    print_line(f"{said['wallet']}: {format_yard(earned)} YARD earned, {format_yard(claimed)} claimed")
    if earned > claimed:
        print_next(f"steelyard rewards claim --wallet {said['wallet']}")


def claim(context: typer.Context, wallet: WalletOption = None, is_json: JsonFlag = False) -> None:
    """Claim all that final roots say a wallet has earned and not received yet."""
    said = run(_claim(Invocation.of(context), wallet))
    if is_json:
        print_json(said)
        return
    from steelyard.protocol.pricing import format_yard

    if not said["paid_nano"]:
        print_line(f"{said['wallet']} has nothing to claim")
        print_next("steelyard rewards show")
        return
    print_line(f"{said['wallet']} received {format_yard(said['paid_nano'])} YARD")
    print_next(f"steelyard wallet show {said['wallet']}")


async def _show(invocation: Invocation, wallet: str | None) -> dict[str, Any]:
    from steelyard.chain.rewards import RewardsClient
    from steelyard.cli.chain_access import open_chain

    name = wallet or invocation.settings.node.wallet
    async with open_chain(invocation) as chain:
        account = invocation.find_account(name)
        client = RewardsClient(chain.rpc, chain.deployment)
        money = await client.fetch_money()
        proposals = await client.fetch_proposals(range(1, await client.fetch_proposal_count() + 1))
        owed = await _owed(invocation, chain, proposals, account)
        return {
            "wallet": name,
            "account": account,
            "pot": {
                "received_nano": money.received_nano,
                "paid_nano": money.paid_nano,
                "burned_nano": money.burned_nano,
            },
            "roots": [
                {
                    "number": number,
                    "epoch": one.epoch,
                    "state": one.state.name.lower(),
                    "total_nano": one.total_nano,
                    "proposer": "0x" + one.proposer.hex(),
                }
                for number, one in enumerate(proposals, start=1)
            ][-20:],
            "earned_nano": max((one.cumulative_nano for one in owed), default=0),
            "claimed_nano": (await client.fetch_claimed([account]))[0],
        }


async def _claim(invocation: Invocation, wallet: str | None) -> dict[str, Any]:
    from steelyard.chain.rewards import RewardsClient
    from steelyard.cli.chain_access import open_chain, open_signer

    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or invocation.settings.node.wallet)
        client = RewardsClient(chain.rpc, chain.deployment)
        proposals = await client.fetch_proposals(range(1, await client.fetch_proposal_count() + 1))
        paid = 0
        for one in await _owed(invocation, chain, proposals, signer.key.account):
            paid += await _draw(client, signer.sender, one, signer.key.account)
        return {"wallet": signer.name, "account": signer.key.account, "paid_nano": paid}


async def _draw(client: RewardsClient, sender: Any, owed: Owed, account: bytes) -> int:
    [claimed] = await client.fetch_claimed([account])
    if owed.cumulative_nano <= claimed or not owed.purse_nano:
        return 0
    return await client.claim(sender, owed.number, account, owed.cumulative_nano, owed.proof)


async def _owed(invocation: Invocation, chain: ChainAccess, proposals: list[Proposal], account: bytes) -> list[Owed]:
    from steelyard.chain.rewards import ProposalState
    from steelyard.protocol.cid import Cid
    from steelyard.protocol.rewards_blob import build_share_proof, decode_rewards
    from steelyard.storage.blobs import FolderBlobs

    blobs, domain, found = FolderBlobs(invocation.settings.blobs_folder), chain.deployment.domain, []
    for number, one in enumerate(proposals, start=1):
        if one.state is not ProposalState.FINAL:
            continue
        try:
            raw = await blobs.get(Cid(one.cid))
            shares = decode_rewards(raw, domain, root=one.root, total=one.total_nano).as_shares()
        except PeerError as error:
            raise NotProvable(f"the leaves of root {number} can't be used: {error.message}") from error
        if account in shares:
            proof = tuple(build_share_proof(shares, account))
            found.append(Owed(number, shares[account], one.purse_nano, proof))
    return found
