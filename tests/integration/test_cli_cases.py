"""`steelyard cases` before a real court: what it lists, whose appeal it takes, and what a second panel does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.chains import deploy_on, open_chain
from tests.integration.test_chain_court import EVIDENCE, PARAMETERS, STAKE, TERMS, Room
from tests.integration.test_cli_rewards import _steelyard

from steelyard.chain.cases import CaseKind, Phase, Ruling
from steelyard.chain.keystore import save_keystore
from steelyard.chain.registry import Role
from steelyard.chain.rpc import ChainRpc
from steelyard.cli.app import main
from steelyard.protocol.hashing import keccak
from steelyard.protocol.messages import Outcome


@pytest.mark.timeout(120)
def test_conviction_is_listed_appealed_by_the_accused_alone_and_judged_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first panel errs, the accused appeals by the command, the second acquits: no stake and no bond is lost."""
    with open_chain("embedded", key_count=6) as chain:
        deployment = deploy_on(chain, PARAMETERS)
        deployment.save(tmp_path / "deployment.json")
        (tmp_path / "config.toml").write_text(f'[chain]\nrpc_urls = ["{chain.url}"]\n')
        (tmp_path / "keys").mkdir()
        for name, key in (("seller", chain.keys[1]), ("stranger", chain.keys[2])):
            save_keystore(tmp_path / "keys" / f"{name}.json", key, "", is_development=True)

        async def accuse(room: Room) -> None:
            await room.prepare()
            epoch = await room.begin_epoch()
            accused = room.provider.account
            await room.court.open_case(room.challenger, CaseKind.CHEAT, accused, keccak(b"service"), EVIDENCE)
            for sender in room.validators:  # the appeal's panel is drawn in one of these
                for coming in (epoch + 1, epoch + 2):
                    await room.court.commit_secret(sender, coming, keccak(room.secret(sender, coming)))

        async def convict(room: Room) -> None:
            await room.draw(1)
            await room.vote(1, Outcome.FAIL)

        async def acquit(room: Room) -> None:
            await room.draw(1)
            await room.vote(1, Outcome.PASS)
            assert await room.case(1) == (Phase.CLOSED, Ruling.ACQUITTED)
            assert await room.court.fetch_at_stake(room.provider.account, Role.PROVIDER) == STAKE
            [wallet] = await room.registry.yard.fetch_balances([room.provider.account])
            assert wallet == STAKE + TERMS.bond_nano // 2  # its own bond is back, with half of the challenger's

        def in_court(story: Callable[[Room], Awaitable[None]]) -> None:
            async def enter() -> None:
                async with ChainRpc([chain.url]) as rpc:
                    await story(Room(chain, rpc, deployment))

            asyncio.run(enter())

        assert _steelyard(capsys, tmp_path, "cases", "list") == []
        in_court(accuse)
        said = _steelyard(capsys, tmp_path, "cases", "appeal", "1", "--wallet", "seller", status=1)
        assert "only a conviction can be appealed" in said["error"]["message"]
        in_court(convict)

        [shown] = _steelyard(capsys, tmp_path, "cases", "list", "--wallet", "seller")
        assert (shown["kind"], shown["state"], shown["is_appealed"]) == ("cheat", "convicted", False)
        said = _steelyard(capsys, tmp_path, "cases", "appeal", "1", "--wallet", "stranger", status=1)
        assert "only who was convicted appeals" in said["error"]["message"]
        said = _steelyard(capsys, tmp_path, "cases", "appeal", "2", "--wallet", "seller", status=1)
        assert "there is no case 2" in said["error"]["message"]
        said = _steelyard(capsys, tmp_path, "cases", "appeal", "1", "--wallet", "seller")
        assert (said["bond_nano"], said["quorum"], said["seats"]) == (TERMS.appeal_bond_nano, 11, 15)
        [shown] = _steelyard(capsys, tmp_path, "cases", "list")
        assert (shown["state"], shown["is_appealed"]) == ("drawing", True)
        with pytest.raises(SystemExit):
            main(["--home", str(tmp_path), "cases", "list"])
        assert "drawing, on appeal" in capsys.readouterr().out

        in_court(acquit)
