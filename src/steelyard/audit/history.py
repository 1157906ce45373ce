"""What an audit asks of a chain: one pinned block, all events up to it, and the contracts' answers at it.

1. Any endpoint that speaks EVM JSON-RPC serves; logs are asked for in ranges that shrink where it refuses.
2. Nothing is read as of "latest" but the pinned block's number; its hash is compared again at the end.

Law: docs/spec/audit.md, section 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from steelyard.audit.books import Entry
from steelyard.audit.views import Question
from steelyard.chain.abi import load_abi
from steelyard.chain.artifacts import ContractName
from steelyard.chain.deployment import Deployment
from steelyard.chain.indexer import DEFAULT_CHUNK_BLOCKS, fetch_events
from steelyard.chain.records import Block, Log, parse_bytes
from steelyard.chain.rpc import BlockTag, ChainRpc, read_call
from steelyard.errors import ChainError

Progress = Callable[[str, int, int], None]
"""Called with what is being read, how much of it is done, and how much there is."""


async def pin_block(rpc: ChainRpc, tag: BlockTag = "latest") -> Block:
    """Return the block that everything is read as of; raises ChainError if the chain has no such block."""
    block = await rpc.block(tag)
    if block is None:
        raise ChainError(f"the chain has no block {tag}: name an earlier one", code="unknown_block")
    return block


async def is_still_chain(rpc: ChainRpc, block: Block) -> bool:
    """Whether a block is still the chain's own under its number."""
    again = await rpc.block(block.number)
    return again is not None and again.hash == block.hash


async def fetch_history(
    rpc: ChainRpc,
    deployment: Deployment,
    from_block: int,
    block: Block,
    progress: Progress,
    *,
    chunk_blocks: int = DEFAULT_CHUNK_BLOCKS,
) -> list[Entry]:
    """Return every event of our contracts from a block up to the pinned one, decoded, in chain order.

    Raises:
        ChainError: silent, malformed, or events of another chain than the pinned block's.
    """
    entries: list[Entry] = []
    addresses = contract_addresses(deployment)
    names = {address: name for name, address in addresses.items()}
    async for logs in fetch_events(rpc, names, from_block, block.number, chunk_blocks=chunk_blocks):
        entries += [entry for log in logs for entry in _decode(names[log.address], log)]
        if logs:
            progress("events", logs[-1].block_number - from_block, block.number - from_block)
            if logs[-1].block_number == block.number and logs[-1].block_hash != block.hash:
                raise ChainError("the chain was reorganised while it was read: run the audit again", code="reorganised")
    progress("events", block.number - from_block, block.number - from_block)
    return entries


async def fetch_answers(
    rpc: ChainRpc, deployment: Deployment, questions: Iterable[Question], block: Block
) -> dict[Question, tuple[int, ...]]:
    """Return what the contracts say at the pinned block, in as few requests as there must be; raises ChainError."""
    wanted = list(questions)
    addresses = contract_addresses(deployment)
    functions = [load_abi(question.contract).functions[question.function] for question in wanted]
    calls = [
        read_call(addresses[question.contract], function.encode(*question.arguments), block.number)
        for question, function in zip(wanted, functions, strict=True)
    ]
    replies = await rpc.batch_all(calls)
    return {
        question: function.decode(parse_bytes(reply, f"answer to {question.function}"))
        for question, function, reply in zip(wanted, functions, replies, strict=True)
    }


def contract_addresses(deployment: Deployment) -> dict[ContractName, bytes]:
    """Return the contracts that hold or move YARD, and the ledger, which names the blobs of verdicts."""
    return {
        "Yard": deployment.yard,
        "Registry": deployment.registry,
        "Escrow": deployment.escrow,
        "Ledger": deployment.ledger,
        "Court": deployment.court,
        "Rewards": deployment.rewards,
    }


def _decode(contract: ContractName, log: Log) -> list[Entry]:
    return [
        Entry(contract=contract, name=event.name, values=event.values, block=log.block_number, tx=log.tx_hash)
        for event in load_abi(contract).decode_events([log])
    ]
