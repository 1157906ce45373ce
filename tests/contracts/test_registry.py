"""Registry: gateways' addresses, services and offers, each success beside its refusal."""

from __future__ import annotations

import string
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.contracts.world import GATEWAY, MIN_STAKES, PROVIDER, SPLIT, ZERO_ADDRESS, World, fields

from steelyard.errors import BadRequest
from steelyard.protocol.hashing import ZERO32, keccak
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import MAX_UINT64, Offer

ALPHANUMERICS = string.ascii_lowercase + string.digits
NAME_CHARACTERS = ALPHANUMERICS + "-./:@_"
MANIFEST = keccak(b"manifest")


def register(world: World, name: str, kind: str = "echo", split: Any = SPLIT, pot: bytes = b"\x77" * 20) -> Any:
    """Register a service as `builder`."""
    return world.registry.send("registerService", name, kind, MANIFEST, split, pot, sender=world.account("builder"))


def offer_of(world: World, service: bytes, **changes: Any) -> Offer:
    """Return an offer of `provider`, staked, with some fields changed."""
    standing = Offer(world.account("provider"), service, 11, 22, 3, MANIFEST, 1)
    return msgspec.structs.replace(standing, **changes)


@pytest.fixture
def service(world: World) -> bytes:
    """A registered service and an active provider."""
    world.stake(world.account("provider"), PROVIDER, MIN_STAKES[0])
    return world.register("echo")


def test_gateway_url_set_by_active_gateway_is_told(world: World) -> None:
    """A gateway says where it is reached, and may say it anew or take it back."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, MIN_STAKES[1])
    receipt = world.registry.send("setGateway", "wss://one.example:7070/link", sender=gateway)
    assert receipt.only("GatewaySet") == {"gateway": gateway, "url": "wss://one.example:7070/link"}
    assert world.registry.call("gatewayUrl", gateway) == "wss://one.example:7070/link"
    world.registry.send("setGateway", "", sender=gateway)
    assert world.registry.call("gatewayUrl", gateway) == ""


def test_gateway_url_without_stake_refused(world: World) -> None:
    """Only an active gateway is listed; one that left may still take its address back."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, MIN_STAKES[1])
    world.registry.send("setGateway", "wss://one.example", sender=gateway)
    world.registry.send("startUnbond", GATEWAY, 1, sender=gateway)
    with world.registry.refuses(f"NotActive(0x{gateway.hex()},{GATEWAY})"):
        world.registry.send("setGateway", "wss://two.example", sender=gateway)
    world.registry.send("setGateway", "", sender=gateway)


def test_gateway_url_too_long_refused(world: World) -> None:
    """256 bytes are room for any address, 257 are refused."""
    gateway = world.account("gateway")
    world.stake(gateway, GATEWAY, MIN_STAKES[1])
    world.registry.send("setGateway", "w" * 256, sender=gateway)
    with world.registry.refuses("BadLength(257,0,256)"):
        world.registry.send("setGateway", "w" * 257, sender=gateway)


def test_service_registered_is_told_whole(world: World) -> None:
    """Its id is the hash of its name, and its builder is who registered it."""
    pot, builder = world.account("pot"), world.account("builder")
    receipt = register(world, "smollm2-135m", "chat", pot=pot)
    service_id = keccak(b"smollm2-135m")
    assert receipt.only("ServiceRegistered") == {
        "serviceId": service_id,
        "builder": builder,
        "dataPot": pot,
        "name": "smollm2-135m",
        "kind": "chat",
        "manifest": MANIFEST,
        "splitBps": SPLIT,
    }
    assert world.registry.call("serviceOf", service_id) == ((builder, *SPLIT, pot), MANIFEST, "chat", "smollm2-135m")
    assert world.registry.call("payeesOf", service_id) == (builder, pot, *SPLIT[1:])


def test_service_unknown_is_all_zero(world: World) -> None:
    """A service that nobody registered has no builder."""
    assert world.registry.call("payeesOf", keccak(b"?")) == (ZERO_ADDRESS, ZERO_ADDRESS, 0, 0, 0)


def test_service_registered_twice_refused(world: World) -> None:
    """A service never changes, not even by its builder."""
    register(world, "echo")
    for builder in ("builder", "mallory"):
        with world.registry.refuses("AlreadyRegistered"):
            world.register("echo", builder=builder)


@pytest.mark.parametrize("name", ["a", "9", "z" * 64, "org/model:7b-q4_0.v1@main"])
def test_service_name_within_bounds_accepted(world: World, name: str) -> None:
    """1 to 64 bytes of a-z 0-9 - . / : @ _"""
    register(world, name)
    assert world.registry.call("serviceOf", keccak(name.encode()))[3] == name


@given(
    before=st.one_of(st.just(""), st.from_regex(r"[a-z0-9][a-z0-9./:@_-]{0,20}", fullmatch=True)),
    byte=st.characters(min_codepoint=0, max_codepoint=127),
)
def test_service_name_is_accepted_where_python_accepts_it(deployed: World, before: str, byte: str) -> None:
    """Python's rule and the contract's agree on every byte, first or later; a refusal says which."""
    world, name = deployed, before + byte
    world.reset()
    if byte in (NAME_CHARACTERS if before else ALPHANUMERICS):
        register(world, name)
        assert world.registry.call("serviceOf", service_id(name))[3] == name
        return
    with pytest.raises(BadRequest):
        service_id(name)
    for args in ((name, "echo"), ("fine", name)):
        with world.registry.refuses(f"BadCharacter({len(before)})"):
            register(world, *args)


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_service_name_of_wrong_length_refused(world: World, name: str) -> None:
    """No name, and one byte too many."""
    with world.registry.refuses(f"BadLength({len(name)},1,64)"):
        register(world, name)


@pytest.mark.parametrize("kind", ["", "x" * 33])
def test_service_kind_of_wrong_length_refused(world: World, kind: str) -> None:
    """A kind has 1 to 32 bytes."""
    with world.registry.refuses(f"BadLength({len(kind)},1,32)"):
        register(world, "echo", kind)


@pytest.mark.parametrize("name", ["Ärger", "模型", "name with space"])
def test_service_name_beyond_ascii_refused(world: World, name: str) -> None:
    """Names that look alike can't be registered beside each other."""
    with world.registry.refuses("BadCharacter"):
        register(world, name)


@pytest.mark.parametrize("split", [(10_000, 0, 0, 1), (9_999, 0, 0, 0), (0, 0, 0, 0), (65_535,) * 4])
def test_service_split_of_other_sum_refused(world: World, split: tuple[int, ...]) -> None:
    """The four shares are the whole, no more and no less."""
    with world.registry.refuses(f"BadSplit({sum(split)})"):
        register(world, "echo", split=split)


def test_service_data_share_without_pot_refused(world: World) -> None:
    """A data share needs someone to receive it; without a share the pot may be nobody."""
    with world.registry.refuses("MissingDataPot()"):
        register(world, "echo", split=(9_999, 0, 1, 0), pot=ZERO_ADDRESS)
    register(world, "echo", split=(9_999, 1, 0, 0), pot=ZERO_ADDRESS)


def test_offer_signed_by_active_provider_stands(world: World, service: bytes) -> None:
    """Anyone may post what the provider signed."""
    offer = offer_of(world, service)
    receipt = world.set_offer(offer, world.actor("provider"))
    assert tuple(receipt.only("OfferSet").values()) == fields(offer)
    standing = world.registry.call("offerOf", offer.provider, service)
    assert standing == (11, 22, 1, world.evm.now(), 3, MANIFEST)


def test_offer_with_higher_number_replaces(world: World, service: bytes) -> None:
    """The next number replaces; the same or a lower one is refused, so an old price can't come back."""
    key = world.actor("provider")
    world.set_offer(offer_of(world, service, seq=5), key)
    for seq in (5, 4, 0):
        with world.registry.refuses(f"StaleSeq(5,{seq})"):
            world.set_offer(offer_of(world, service, seq=seq), key)
    world.set_offer(offer_of(world, service, seq=6, price_in=99), key)
    assert world.registry.call("offerOf", key.account, service)[0] == 99


def test_offer_with_number_zero_refused(world: World, service: bytes) -> None:
    """Numbers begin at one."""
    with world.registry.refuses("StaleSeq(0,0)"):
        world.set_offer(offer_of(world, service, seq=0), world.actor("provider"))


def test_offer_withdrawn_by_provider_that_left_is_gone(world: World, service: bytes) -> None:
    """A zero manifest withdraws an offer, and that needs no stake; a new one does."""
    key = world.actor("provider")
    world.set_offer(offer_of(world, service), key)
    world.registry.send("startUnbond", PROVIDER, 1, sender=key.account)
    with world.registry.refuses(f"NotActive(0x{key.account.hex()},{PROVIDER})"):
        world.set_offer(offer_of(world, service, seq=2), key)
    world.set_offer(offer_of(world, service, seq=2, manifest=ZERO32), key)
    assert world.registry.call("offerOf", key.account, service)[5] == ZERO32


def test_offer_signed_by_another_refused(world: World, service: bytes) -> None:
    """Nobody sets another's price."""
    with world.registry.refuses("BadSignature()"):
        world.set_offer(offer_of(world, service), world.actor("mallory"))


def test_offer_of_nobody_refused(world: World, service: bytes) -> None:
    """A signature that recovers to nobody is not the zero account's."""
    offer = fields(offer_of(world, service, provider=ZERO_ADDRESS))
    with world.registry.refuses("BadSignature()"):
        world.registry.send("setOffer", offer, ZERO32, ZERO32, sender=world.account("anyone"))


def test_offer_for_unknown_service_refused(world: World, service: bytes) -> None:
    """There is nothing to offer before it is registered."""
    unknown = keccak(b"unknown")
    with world.registry.refuses(f"UnknownService(0x{unknown.hex()})"):
        world.set_offer(offer_of(world, unknown), world.actor("provider"))


def test_offer_with_unknown_grade_refused(world: World, service: bytes) -> None:
    """Grades are 0 to 6."""
    world.set_offer(offer_of(world, service, grade=6), world.actor("provider"))
    with world.registry.refuses("BadGrade(7)"):
        world.set_offer(offer_of(world, service, grade=7, seq=2), world.actor("provider"))


@pytest.mark.parametrize("field", Offer.__struct_fields__)
def test_offer_corrupted_in_one_field_refused(world: World, service: bytes, field: str) -> None:
    """Whatever field is changed after signing, the offer is refused."""
    offer = offer_of(world, service)
    value = getattr(offer, field)
    corrupted = value ^ 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    signature = world.signed(offer, world.actor("provider"))
    changed = fields(msgspec.structs.replace(offer, **{field: corrupted}))
    with world.registry.refuses("BadSignature()"):
        world.registry.send("setOffer", changed, *signature, sender=world.account("anyone"))


@pytest.mark.parametrize("word", [0, 1])
def test_offer_with_corrupted_signature_refused(world: World, service: bytes, word: int) -> None:
    """A signature changed in one bit is no signature of the provider's."""
    offer = offer_of(world, service)
    signature = list(world.signed(offer, world.actor("provider")))
    signature[word] = signature[word][:-1] + bytes([signature[word][-1] ^ 1])
    with world.registry.refuses("BadSignature()"):
        world.registry.send("setOffer", fields(offer), *signature, sender=world.account("anyone"))


def test_offer_at_highest_prices_stands(world: World, service: bytes) -> None:
    """Prices fill their whole width."""
    offer = offer_of(world, service, price_in=MAX_UINT64, price_out=MAX_UINT64, seq=MAX_UINT64)
    world.set_offer(offer, world.actor("provider"))
    assert world.registry.call("offerOf", offer.provider, service)[:3] == (MAX_UINT64,) * 3
