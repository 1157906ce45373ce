"""A lazy validator on a real chain: its published PASS on a planted lie is found, judged, and taken to court once."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.chains import deploy_on, open_chain
from tests.trust_world import PARAMETERS, open_trust_world
from tests.validator_office import OTHER, Office, second_validator
from tests.validator_world import LaneMaker, echo_checkable

from steelyard.chain.cases import NO_TOPIC, CaseKind
from steelyard.protocol.hashing import ZERO32
from steelyard.protocol.messages import Outcome, Verdict
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, encode_verdicts, verdicts_root
from steelyard.storage.blobs import FolderBlobs
from steelyard.validator.case_file import encode_material
from steelyard.validator.checker import Checkable, Checked
from steelyard.validator.feed import FeedState, SeenCall
from steelyard.validator.lazy import LazyWatch
from steelyard.verification.verdict import Judgement


async def _find(service: bytes) -> Checkable:
    return echo_checkable()


def test_published_pass_on_a_plant_opens_one_case_that_jurors_uphold(tmp_path: Path) -> None:
    """The planter's own FAIL is compared with the other's PASS; a second look opens nothing more."""
    with open_chain("embedded") as chain:
        deployment = deploy_on(chain, PARAMETERS)

        async def story() -> None:
            async with open_trust_world(tmp_path, chain.url, chain.keys[0], deployment) as world:
                blobs, domain = FolderBlobs(tmp_path / "blobs"), deployment.domain
                other = await second_validator(world)
                office = Office(world, other, blobs)
                lane = LaneMaker(domain=domain)
                shown = lane.add("planted", "honest", is_lie=True, finished_ms=time.time_ns() // 10**6)
                found = []
                for material in lane.materials(shown):
                    receipt = material.receipt.struct_hash()
                    call = SeenCall(
                        lane.gateway, material.order, material.receipt, receipt, 3, 0, 0, material.signed, (receipt,)
                    )
                    checked = Checked(Judgement(Outcome.FAIL, "another_result"))
                    found.append((call, "probe", checked, encode_material(material)))
                await world.book.record(lane.gateway, FeedState(), found)
                verdicts = []
                for call, *_ in found:
                    verdict = Verdict(OTHER.account, call.receipt_hash, int(Outcome.PASS), ZERO32, 3)
                    signature = OTHER.sign(domain.digest(verdict.struct_hash()))
                    order = call.order
                    verdicts.append(
                        PublishedVerdict(
                            verdict, signature, order.provider, order.service_id, order.gateway, "rate", "", 0, 0
                        )
                    )
                cid = await blobs.put(encode_verdicts(domain, OTHER.account, 3, verdicts))
                await office.ledger.post(other, VERDICTS_KIND, 3, verdicts_root(verdicts), cid.digest, 2)

                record = office.record
                watch = LazyWatch(
                    world.book, record, blobs, office.court, world.validator, domain, _find, is_challenging=True
                )
                await record.refresh()
                await watch.beat()
                await watch.beat()
                assert await office.court.fetch_case_count() == 1
                [case] = await office.court.fetch_cases([1])
                assert (case.kind, case.accused, case.topic) == (CaseKind.LAZY, OTHER.account, NO_TOPIC)
                juror = LazyWatch(world.book, record, blobs, office.court, other, domain, _find, is_challenging=False)
                assert await juror.judge_case(case) is Outcome.FAIL

        asyncio.run(story())
