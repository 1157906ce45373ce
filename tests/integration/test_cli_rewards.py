"""`steelyard rewards` against a real pot: what it shows, what it pays, and what it says without the blob."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest
from tests.chains import RunningChain, deploy_on, open_chain

from steelyard.chain.deployment import Deployment
from steelyard.chain.keystore import save_keystore
from steelyard.chain.parameters import DeploymentParameters
from steelyard.chain.registry import RegistryClient, Role
from steelyard.chain.reward_terms import RewardTerms
from steelyard.chain.rewards import RewardsClient
from steelyard.chain.rpc import ChainRpc
from steelyard.chain.sender import Sender
from steelyard.chain.terms import CourtTerms
from steelyard.cli.app import main
from steelyard.protocol.pricing import NANO_PER_YARD as YARD
from steelyard.protocol.rewards_blob import encode_rewards, shares_root
from steelyard.protocol.signing import SigningKey
from steelyard.storage.blobs import FolderBlobs

TERMS = CourtTerms(reveal_s=1, commit_s=1, vote_s=1, appeal_s=1, keep_s=1, evidence_s=1)
PARAMETERS = DeploymentParameters(
    withdraw_delay_s=60,
    unbond_delay_s=120,
    epoch_s=1,
    min_stakes_nano=(YARD,) * 3,
    court=TERMS,
    rewards=RewardTerms(challenge_s=1),
)
EARNER = SigningKey(b"\x44" * 32)


async def _give(chain: RunningChain, deployment: Deployment, home: Path) -> None:
    """Fill the pot, and make a root final that owes 2 YARD to the earner."""
    async with ChainRpc([chain.url]) as rpc:
        owner, client = Sender(rpc, chain.keys[0]), RewardsClient(rpc, deployment)
        await owner.send(EARNER.account, value_wei=10**18)
        await RegistryClient(rpc, deployment).stake(owner, Role.VALIDATOR, 10 * YARD)
        await client.yard.transfer(owner, deployment.rewards, 10 * YARD)
        epoch = client.epoch_at(int(time.time()))
        await asyncio.sleep(1.2)
        shares = {EARNER.account: 2 * YARD}
        cid = await FolderBlobs(home / "blobs").put(encode_rewards(deployment.domain, epoch, shares))
        number = await client.propose(owner, epoch, shares_root(shares), cid.digest, 2 * YARD)
        await asyncio.sleep(1.5)
        await client.settle(owner, number)


def _steelyard(capsys: pytest.CaptureFixture[str], home: Path, *words: str, status: int = 0) -> Any:
    with pytest.raises(SystemExit) as ended:
        main(["--home", str(home), *words, "--json"])
    said = capsys.readouterr()
    assert (ended.value.code or 0) == status, said
    return json.loads(said.out or said.err)


def test_rewards_are_shown_and_claimed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two YARD earned, two received, then nothing more; without the blob the answer names the root."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)
        deployment.save(tmp_path / "deployment.json")
        (tmp_path / "config.toml").write_text(f'[chain]\nrpc_urls = ["{chain.url}"]\n')
        (tmp_path / "keys").mkdir()
        save_keystore(tmp_path / "keys" / "earner.json", EARNER, "", is_development=True)
        asyncio.run(_give(chain, deployment, tmp_path))

        shown = _steelyard(capsys, tmp_path, "rewards", "show", "--wallet", "earner")
        assert (shown["earned_nano"], shown["claimed_nano"]) == (2 * YARD, 0)
        assert [(root["state"], root["total_nano"]) for root in shown["roots"]] == [("final", 2 * YARD)]
        assert _steelyard(capsys, tmp_path, "rewards", "claim", "--wallet", "earner")["paid_nano"] == 2 * YARD
        assert _steelyard(capsys, tmp_path, "rewards", "claim", "--wallet", "earner")["paid_nano"] == 0
        assert _steelyard(capsys, tmp_path, "rewards", "show", "--wallet", "earner")["claimed_nano"] == 2 * YARD
        for blob in (tmp_path / "blobs").rglob("*"):
            if blob.is_file():
                blob.unlink()
        said = _steelyard(capsys, tmp_path, "rewards", "show", "--wallet", "earner", status=1)
        assert said["error"]["code"] == "blob_missing"
