"""Quality from end to end: verdicts and cases on a real chain, published by two validators, read by a gateway."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest
from tests.chains import deploy_on, open_chain
from tests.trust_world import PARAMETERS, VALIDATOR, open_trust_world
from tests.validator_office import OTHER, PAIR, Office, second_validator

from steelyard.audit.run import run_audit
from steelyard.chain.cases import CaseKind
from steelyard.errors import NotProvable
from steelyard.gateway.network_quality import weighted_median
from steelyard.protocol.cid import Cid
from steelyard.protocol.messages import Outcome
from steelyard.protocol.quality_blob import QUALITY_KIND, decode_quality
from steelyard.protocol.verdicts_blob import VERDICTS_KIND
from steelyard.storage.blobs import FolderBlobs


def test_two_validators_publish_the_same_quality_and_a_gateway_steers_by_it(tmp_path: Path) -> None:
    """Passes raise it, an open case sets it to zero; blob and root are equal; `/v1/network` and the seller have it."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                blobs = FolderBlobs(tmp_path / "blobs")
                other = await second_validator(world)
                one, two = Office(world, world.validator, blobs), Office(world, other, blobs)
                await one.publish(one.epoch() - 2, [Outcome.PASS] * 10)
                epoch = await one.next_epoch()
                now_s = (epoch + 1) * one.ledger.epoch_s
                await one.posts.beat(now_s)
                await two.posts.beat(now_s)
                await one.posts.beat(now_s)
                posted = [
                    await one.ledger.fetch_root(who, QUALITY_KIND, epoch) for who in (VALIDATOR.account, OTHER.account)
                ]
                assert posted[0] is not None
                assert posted[1] is not None
                assert (posted[0].root, posted[0].cid) == (posted[1].root, posted[1].cid)
                raw = await blobs.get(Cid(posted[0].cid))
                [entry] = decode_quality(raw, deployment.domain, root=posted[0].root, epoch=epoch).entries
                expected = (10 + 1) * 10**6 // (10 + 20)
                assert (entry.pair, entry.quality_ppm) == (PAIR, expected)

                [seller] = world.running.gateway.catalogue.listings["letters"].sellers
                async with asyncio.timeout(10):
                    while seller.quality != expected / 10**6:  # noqa: ASYNC110  # it is read from the chain
                        await asyncio.sleep(0.1)
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(world.running.base_url + "/network") as reply,
                ):
                    shown = (await reply.json())["quality"]
                assert shown == {
                    "epoch": epoch,
                    "providers": [
                        {
                            "provider": f"0x{PAIR[0].hex()}",
                            "service_id": f"0x{PAIR[1].hex()}",
                            "service": "letters",
                            "quality_ppm": expected,
                        }
                    ],
                }

                await one.court.open_case(world.validator, CaseKind.CHEAT, *PAIR, b"\x05" * 32)
                epoch = await one.next_epoch()
                for office in (one, two):
                    records = await office.quality.compute(epoch)
                    assert records[PAIR].is_barred
                again = Office(world, world.validator, blobs)
                assert await again.quality.compute(epoch) == await one.quality.compute(epoch)
                await one.posts.beat((epoch + 1) * one.ledger.epoch_s)
                await one.ledger.post(other, QUALITY_KIND, epoch, b"\x07" * 32, posted[0].cid, 1)  # made up

                report = await run_audit(world.rpc, deployment, blobs)
                states = {(row.validator, row.epoch): row.state for row in report.quality}
                assert states == {
                    (VALIDATOR.account, epoch - 1): "right",
                    (OTHER.account, epoch - 1): "right",
                    (VALIDATOR.account, epoch): "right",
                    (OTHER.account, epoch): "wrong",
                }
                assert [found.code for found in report.findings if "quality" in found.code] == ["wrong_quality"]
                next((tmp_path / "blobs").rglob(str(Cid(await _verdicts_cid(one))))).unlink()
                report = await run_audit(world.rpc, deployment, blobs)
                assert {row.state for row in report.quality} == {"not provable"}

        asyncio.run(story())


async def _verdicts_cid(office: Office) -> bytes:
    [root] = [
        found
        for epoch in range(office.epoch() - 6, office.epoch())
        if (found := await office.ledger.fetch_root(VALIDATOR.account, VERDICTS_KIND, epoch)) is not None
    ]
    return root.cid


def test_missing_blob_makes_an_epoch_not_provable_until_it_is_there(tmp_path: Path) -> None:
    """What can't be read is named, and nothing is published in its place."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                office = Office(world, world.validator, FolderBlobs(tmp_path / "blobs"))
                await office.publish(office.epoch() - 2, [Outcome.PASS], is_kept=False)
                epoch = await office.next_epoch()
                with pytest.raises(NotProvable, match="01" * 32):
                    await office.quality.compute(epoch)
                await office.posts.beat((epoch + 1) * office.ledger.epoch_s)
                assert await office.ledger.fetch_root(VALIDATOR.account, QUALITY_KIND, epoch) is None

        asyncio.run(story())


def test_weighted_median_needs_half_of_the_stake_to_move() -> None:
    """A third of the stake that lies changes nothing; ties take the lower value."""
    assert weighted_median([(900, 34), (910, 33), (0, 33)]) == 900
    assert weighted_median([(100, 50), (900, 50)]) == 100
    assert weighted_median([(7, 1)]) == 7
