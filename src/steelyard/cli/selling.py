"""``steelyard node run --kind rest --upstream URL --price P``: selling a source of data in one command.

1. The upstream is asked first: nothing is registered, which is for ever, for a source that doesn't answer.
2. The service is registered if nobody did, with the node's wallet as its builder; the offer is posted if none stands,
   or if it stands at other prices. Where all of it stands, nothing is sent to the chain.
3. The upstream and its keys stay on this machine: neither the manifest nor the chain names them.

Law: docs/cli.md, section 6; docs/spec/kinds/rest.md and rpc.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import structlog

from steelyard.chain.parameters import ZERO_ADDRESS
from steelyard.chain.records import TxReceipt
from steelyard.chain.registry import Role, Split
from steelyard.cli.chain_access import ChainAccess, Signer, explain_refusal, open_chain, open_signer
from steelyard.cli.invocation import Invocation
from steelyard.errors import BadRequest, ConfigError, NotProvable, Reverted
from steelyard.protocol.cid import Cid
from steelyard.protocol.ids import service_id
from steelyard.protocol.messages import Offer
from steelyard.protocol.pricing import format_yard
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import Manifest, decode_manifest, encode_manifest
from steelyard.storage.blobs import FolderBlobs

SPLIT = Split(provider_bps=9700, builder_bps=0, data_bps=0, protocol_bps=300)

_log = structlog.get_logger("steelyard.cli")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """What is to be sold, as it was typed; what isn't given stays as it stands on chain.

    `options` are the kind's own (the upstream), `traits` what a new manifest says beside them: chain, family.
    """

    name: str
    kind: str = ""
    price: int | None = None
    options: dict[str, str] = field(default_factory=dict)
    traits: dict[str, str] = field(default_factory=dict)


async def prepare_sale(invocation: Invocation, sale: Sale) -> None:
    """See to it that a service is registered and offered by the node's wallet, so that the node can serve it.

    Raises:
        ConfigError, BadRequest: what is missing or contradicts what stands on chain, with what to do.
    """
    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, invocation.settings.node.wallet)
        registered = await chain.registry.fetch_service(service_id(sale.name))
        blobs = FolderBlobs(invocation.settings.blobs_folder)
        if registered is None:
            if not sale.kind:
                raise BadRequest(
                    f"the service {sale.name!r} is not registered: say what it is with --kind rpc or --kind rest",
                    param="kind",
                )
            manifest = describe(sale.name, sale.kind, sale.traits)
        elif sale.kind not in ("", registered.kind):
            raise BadRequest(
                f"{sale.name!r} is registered as {registered.kind}, not as {sale.kind}: take another name", param="kind"
            )
        else:
            manifest = await _read_manifest(blobs, registered.manifest, sale, registered.kind)
        await _try_upstream(manifest, sale)
        standing = await chain.registry.fetch_offer(signer.key.account, service_id(sale.name))
        if sale.price is None and standing is None:
            raise BadRequest(f"{signer.name} doesn't offer {sale.name!r} yet: give --price", param="price")
        await _check_stake(chain, signer)
        if registered is None:
            cid = await blobs.put(encode_manifest(manifest))
            await chain.registry.register_service(signer.sender, sale.name, sale.kind, cid.digest, SPLIT, ZERO_ADDRESS)
            digest = cid.digest
            _log.info("service_registered", service=sale.name, kind=sale.kind)
        else:
            digest = registered.manifest
        prices = (sale.price, sale.price)
        if (
            standing is not None
            and standing.manifest == digest
            and prices
            in (
                (None, None),
                (standing.price_in, standing.price_out),
            )
        ):
            return
        if sale.price is None:
            raise BadRequest(f"{signer.name}'s offer of {sale.name!r} is withdrawn: give --price", param="price")
        grade = int(installed_services().find(manifest.kind)(manifest).grade)
        seq = (standing.seq if standing else 0) + 1
        offer = Offer(signer.key.account, service_id(sale.name), sale.price, sale.price, grade, digest, seq)
        await post_offer(chain, signer, offer)
        _log.info("offer_posted", service=sale.name, price_nano=sale.price)


async def post_offer(chain: ChainAccess, signer: Signer, offer: Offer) -> TxReceipt:
    """Sign an offer and send it; raises Reverted, which says how much stake is missing if that is the reason."""
    signature = signer.key.sign(chain.deployment.domain.digest(offer.struct_hash()))
    try:
        return await chain.registry.set_offer(signer.sender, offer, signature)
    except Reverted as error:
        raise await explain_refusal(error, chain, signer, Role.PROVIDER) from error


def describe(name: str, kind: str, traits: dict[str, str]) -> Manifest:
    """Return the manifest of a new service that needs no engine.

    Raises:
        BadRequest: the kind needs an engine, or doesn't know such traits.
    """
    service_id(name)
    found: Any = installed_services().find(kind)
    if found.needs_engine:
        raise BadRequest(
            f"the kind {kind!r} needs an engine: steelyard services describe {name} {kind} makes its manifest",
            param="kind",
        )
    try:
        made: Manifest = found.describe(name, None, **traits)
    except TypeError:
        raise BadRequest(f"the kind {kind!r} has no --{next(iter(traits))}: leave it out", param="kind") from None
    return decode_manifest(encode_manifest(made))


async def _read_manifest(blobs: FolderBlobs, digest: bytes, sale: Sale, kind: str) -> Manifest:
    """The registered manifest, from the blob store or made again from what was typed."""
    try:
        return decode_manifest(await blobs.get(Cid(digest)))
    except NotProvable:
        manifest = describe(sale.name, kind, sale.traits)
    cid = await blobs.put(encode_manifest(manifest))
    if cid.digest != digest:
        raise ConfigError(
            f"{sale.name!r} is registered with the manifest {Cid(digest)}, which is not in the blob store and is not "
            "what these flags give: fetch it from whoever registered it, or take another name"
        )
    return manifest


async def _try_upstream(manifest: Manifest, sale: Sale) -> None:
    service = installed_services().find(manifest.kind)(manifest, options=sale.options or None)
    try:
        await service.prepare(lambda *_: None)
    finally:
        await service.aclose()


async def _check_stake(chain: ChainAccess, signer: Signer) -> None:
    account = signer.key.account
    if await chain.registry.fetch_is_active(account, Role.PROVIDER):
        return
    missing = await chain.registry.fetch_min_stake(Role.PROVIDER) - await chain.registry.fetch_stake(
        account, Role.PROVIDER
    )
    raise ConfigError(
        f"{signer.name} must stake before it may offer anything: run steelyard stake provider {format_yard(missing)} "
        f"--wallet {signer.name}"
    )
