"""services/rpc/catalogue.py: every row and family of the data, so that adding a chain is adding a row."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from importlib.resources import files

import pytest

from steelyard.protocol.ids import service_id
from steelyard.services.rpc import RpcService
from steelyard.services.rpc.catalogue import (
    Chain,
    Probe,
    find_chain,
    find_family,
    load_chains,
    load_families,
    nearest_chains,
)

CHAINS, FAMILIES = load_chains(), load_families()
ROWS = json.loads(files("steelyard.services.rpc").joinpath("chains.json").read_text())
FAMILY_ROWS = json.loads(files("steelyard.services.rpc").joinpath("families.json").read_text())
CHAIN_IDS = {
    "evm": r"[1-9][0-9]*",
    "steelyard": r"[1-9][0-9]*",
    "tron": r"[1-9][0-9]*",
    "filecoin": r"[1-9][0-9]*",
    "solana": r"[1-9A-HJ-NP-Za-km-z]{43,44}",
    "cosmos": r"[a-z0-9_-]+",
    "bitcoin": r"[0-9a-f]{64}",
    "near": r"[a-z]+",
    "sui": r"[0-9a-f]{8}",
    "starknet": r"0x[0-9a-f]+",
    "polkadot": r"0x[0-9a-f]{64}",
    "ton": r"[A-Za-z0-9+/]{43}=",
    "stellar": r".+ ; .+ 2015",
    "aptos": r"[0-9]+",
    "algorand": r"[a-z]+-v[0-9.]+",
    "beacon": r"[1-9][0-9]*",
}
"""What identifies a chain of each family."""


def test_catalogue_has_at_least_60_chains_of_many_families() -> None:
    """The catalogue is as wide as it says, and no row hides another."""
    assert len(CHAINS) == len(ROWS) >= 60
    assert {"evm", "solana", "cosmos", "bitcoin", "near", "sui", "aptos", "starknet", "tron", "polkadot"} <= {
        chain.family for chain in CHAINS.values()
    }


@pytest.mark.parametrize("chain", CHAINS.values(), ids=list(CHAINS))
def test_row_is_sound(chain: Chain) -> None:
    """Its id can be a service's name, its family is known, its chain id is one of that family, its time is a time."""
    assert chain.family in FAMILIES
    assert len(service_id(chain.id)) == 32
    assert re.fullmatch(CHAIN_IDS[chain.family], chain.chain_id)
    assert 0 < chain.block_s <= 600
    family = find_family(chain.id)
    assert family is not None
    assert family.final_blocks >= 1
    assert find_chain(chain.id.upper()) is chain
    assert all(find_chain(name) is chain for name in chain.names)
    if "rpc" in family.transports:
        manifest = RpcService.describe(chain.id)
        assert manifest.chain == chain.id
        assert RpcService(manifest).family == family


def test_no_name_is_of_two_chains() -> None:
    """A name leads to one chain, and no name is another chain's id; chain ids of a family differ, but for forks."""
    names = [name for chain in CHAINS.values() for name in (chain.id, *chain.names)]
    assert len(set(names)) == len(names)
    ids = [(chain.family, chain.chain_id) for chain in CHAINS.values() if chain.id != "bitcoin-cash"]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("name", FAMILIES)
def test_family_is_sound(name: str) -> None:
    """Its probes ask something that it serves, methods cost something, nothing is both priced and refused but by
    design, and every chain's identity can be asked.
    """
    family, row = FAMILIES[name], FAMILY_ROWS[name]
    assert any(chain.family == name for chain in CHAINS.values())
    for probe in (family.identity, family.height):
        assert bool(probe.method) != bool(probe.get)
        assert not probe.method or not family.is_refused(probe.method)
        assert bool(probe.get) == (family.transports == ("rest",))
    if "rpc" in family.transports:
        assert family.methods
    for method, rule in family.methods.items():
        assert 1 <= rule.units <= 1_000
        assert family.units(method) == rule.units
        if method in row.get("methods", {}) and family.is_refused(method):
            assert method.startswith("debug_"), "only what a manifest may allow is priced though it is refused"
    for method in (*family.stateful, *family.subscriptions, *family.subscriptions.values()):
        assert not any(fnmatchcase(method, glob) for glob in row.get("refused", ()))
    for method in family.methods:
        assert family.is_safe(method) != bool(
            re.search(r"send|submit|broadcast|push|executetrans|_add", method.lower())
        )
    if family.archive is not None:
        assert family.is_deterministic(family.archive.method, json.dumps(family.archive.params).encode())
    for method in family.subscriptions:
        assert family.is_subscription(method)
        assert not family.is_refused(method)


@pytest.mark.parametrize(
    ("chain", "methods"),
    [
        ("eth", "admin_addPeer debug_setHead personal_unlockAccount miner_start eth_sendTransaction eth_sign "
                "eth_signTypedData_v4 anvil_setBalance evm_mine engine_newPayloadV3 Admin_AddPeer DEBUG_x"),
        ("steelyard-dev", "evm_increaseTime hardhat_reset admin_x"),
        ("solana", "requestAirdrop validatorExit"),
        ("cosmoshub", "dial_seeds dial_peers unsafe_flush_mempool"),
        ("bitcoin", "stop addnode disconnectnode dumpprivkey sendtoaddress importprivkey walletpassphrase generate "
                    "generatetoaddress getnewaddress getwalletinfo setban signrawtransactionwithwallet listunspent"),
        ("polkadot", "author_insertKey author_rotateKeys system_addReservedPeer offchain_localStorageSet"),
        ("filecoin", "Filecoin.WalletSign Filecoin.WalletExport Filecoin.NetConnect Filecoin.Shutdown "
                     "Filecoin.ChainSetHead Filecoin.ChainDeleteObj admin_x"),
        ("near", "adv_produce_blocks sandbox_patch_state"),
        ("starknet", "devnet_mint"),
        ("tron", "personal_sign debug_x"),
    ],
)  # fmt: skip
def test_methods_that_change_a_node_are_refused(chain: str, methods: str) -> None:
    """What an operator alone may ask, in every family's words, and however it is spelt."""
    family = find_family(chain)
    assert family is not None
    assert [method for method in methods.split() if not family.is_refused(method)] == []


@pytest.mark.parametrize(
    ("chain", "methods"),
    [
        ("eth", "eth_call eth_getLogs eth_sendRawTransaction net_version web3_clientVersion eth_someNewMethod"),
        ("bitcoin", "getblock getblockcount sendrawtransaction estimatesmartfee getmempoolinfo"),
        ("filecoin", "eth_call Filecoin.ChainHead Filecoin.StateGetActor Filecoin.MpoolPush"),
        ("solana", "getBalance sendTransaction getAccountInfo accountSubscribe"),
        ("cosmoshub", "status abci_query broadcast_tx_sync"),
    ],
)
def test_methods_that_anyone_may_ask_are_served(chain: str, methods: str) -> None:
    """What users of a chain need is not refused, be it in the table or not."""
    family = find_family(chain)
    assert family is not None
    assert [method for method in methods.split() if family.is_refused(method)] == []


def test_row_overrides_its_family() -> None:
    """Another number of final blocks is that chain's alone."""
    assert find_family("polygon").final_blocks == 128  # type: ignore[union-attr]
    assert find_family("eth").final_blocks == FAMILIES["evm"].final_blocks == 64  # type: ignore[union-attr]
    assert find_family("my-chain") is None
    assert find_family("my-chain", "evm") is FAMILIES["evm"]


def test_nearest_chains_name_what_was_meant() -> None:
    """A slip of the keyboard is answered with ids that there are."""
    assert nearest_chains("etherum")[0] == "eth"
    assert nearest_chains("Polygn")[0] == "polygon"
    assert nearest_chains("zzzzzzzz") == []


@pytest.mark.parametrize(
    ("path", "result", "found"),
    [
        ((), "0x7a69", "31337"),
        ((), 5, "5"),
        ((), True, None),
        ((), "0x534e5f4d41494e5f4d41494e", "0x534e5f4d41494e5f4d41494e"),
        (("node_info", "network"), {"node_info": {"network": "juno-1"}}, "juno-1"),
        (("node_info", "network"), {"node_info": []}, None),
        (("a",), {"a": {"b": 1}}, None),
    ],
)
def test_probe_picks_its_value_or_nothing(path: tuple[str, ...], result: object, found: str | None) -> None:
    """An untrusted result gives the value at its path, numbers in decimal, and nothing where it isn't."""
    assert Probe(method="m", path=path).pick(result) == found
