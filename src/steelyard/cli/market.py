"""``steelyard services`` and ``steelyard offer``: what is on sale, and at which prices.

1. Prices are given and shown in YARD per 1,000,000 units; JSON has nano.
2. A service is registered once, for ever; an offer is signed by its provider and replaced by a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli import describing
from steelyard.cli.invocation import Invocation, parse_amount, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next, print_table
from steelyard.errors import BadRequest, ConfigError, NotFound

if TYPE_CHECKING:
    from steelyard.chain.directory import Directory
    from steelyard.chain.registry import Service
    from steelyard.cli.chain_access import ChainAccess

Price = Annotated[
    int | None,
    typer.Option(parser=parse_amount, metavar="YARD", help="YARD per 1,000,000 units, like 0.25."),
]
PANEL = "Running a part of it"


Quality = Mapping[tuple[bytes, bytes], int]
"""By provider and service id, in millionths."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    services = typer.Typer(help="What is registered on chain.", no_args_is_help=True)
    services.command("list", epilog=example("steelyard services list", "steelyard services list --json"))(show_all)
    describing.register(services)
    services.command(
        "register",
        epilog=example(
            "steelyard services register my-echo echo --manifest my-echo.json",
            "steelyard services register my-echo echo --manifest my-echo.json "
            "--split 8500,700,500,300 --data-pot data-pot",
        ),
    )(register_service)
    app.add_typer(services, name="services", rich_help_panel=PANEL, epilog=example("steelyard services list"))
    offer = typer.Typer(help="What a provider asks for a service.", no_args_is_help=True)
    offer.command(
        "set",
        epilog=example(
            "steelyard offer set smollm2-135m-instruct --price-in 0.1 --price-out 0.4 --wallet node-1",
            "steelyard offer set smollm2-135m-instruct --price-out 0.5",
            "steelyard offer set smollm2-135m-instruct --stop --wallet node-1",
        ),
    )(set_offer)
    # a callback keeps `set` a word of its own while it is the only one
    offer.callback()(_group)
    app.add_typer(
        offer,
        name="offer",
        rich_help_panel=PANEL,
        epilog=example("steelyard offer set smollm2-135m-instruct --price-in 0.1 --price-out 0.4"),
    )


def _group() -> None:
    """What a provider asks for a service."""


def show_all(
    context: typer.Context,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind, like chat.")] = None,
    is_json: JsonFlag = False,
) -> None:
    """List services, who offers them and at which prices."""
    directory, quality = run(_fetch_market(Invocation.of(context)))
    services = sorted(
        (s for s in directory.services.values() if kind is None or s.kind == kind), key=lambda service: service.name
    )
    if is_json:
        print_json([_service_json(directory, service, quality) for service in services])
        return
    if not services:
        print_line("no service is registered" + (f" of kind {kind}" if kind else ""))
        print_next("steelyard services describe NAME KIND --weights URL --out FILE")
        return
    rows = [row for service in services for row in _service_rows(directory, service, quality)]
    print_table(["service", "kind", "provider", "in>", "out>", "grade", "quality>"], rows)
    print_line("prices are YARD per 1,000,000 units; quality is what validators publish, - where they said nothing")


def register_service(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="1 to 64 of a-z 0-9 - . _ : /; it is the model's name for clients.")],
    kind: Annotated[str, typer.Argument(help="What sort of work, like chat, embeddings or echo.")],
    manifest: Annotated[Path, typer.Option("--manifest", help="The manifest: a file that services describe made.")],
    split: Annotated[
        str, typer.Option("--split", help="Basis points of provider, builder, data pot, protocol; 10000 in all.")
    ] = "9700,0,0,300",
    data_pot: Annotated[
        str | None, typer.Option("--data-pot", help="Who gets the data share: a wallet's name or an address.")
    ] = None,
    wallet: Annotated[str, typer.Option("--wallet", "-w", help="The builder's wallet, which signs.")] = "me",
    is_json: JsonFlag = False,
) -> None:
    """Register a service for ever, with this wallet as its builder; its manifest goes into the blob store."""
    run(_register(Invocation.of(context), name, kind, manifest, _parse_split(split), data_pot, wallet, is_json))


def set_offer(
    context: typer.Context,
    service: Annotated[str, typer.Argument(help="The service's name.")],
    price_in: Price = None,
    price_out: Price = None,
    grade: Annotated[
        str | None,
        typer.Option("--grade", help="How answers can be checked, like logprobs; by default what the manifest allows."),
    ] = None,
    is_stopping: Annotated[bool, typer.Option("--stop", help="Withdraw the offer.")] = False,
    wallet: Annotated[
        str | None, typer.Option("--wallet", "-w", help="The provider's wallet, which signs; node.wallet by default.")
    ] = None,
    is_json: JsonFlag = False,
) -> None:
    """Offer a service at a price, or (--stop) withdraw the offer; what isn't given stays as it stands."""
    if is_stopping and (price_in is not None or price_out is not None):
        raise BadRequest("--stop withdraws the offer: leave the prices out", param="stop")
    run(_set_offer(Invocation.of(context), service, (price_in, price_out), grade, is_stopping, wallet, is_json))


async def _fetch_market(invocation: Invocation) -> tuple[Directory, Quality]:
    from steelyard.cli.chain_access import open_chain
    from steelyard.gateway.network_quality import LedgerQuality
    from steelyard.storage.blobs import FolderBlobs

    async with open_chain(invocation) as chain:
        blobs = FolderBlobs(invocation.settings.blobs_folder)
        seen = await LedgerQuality(chain.rpc, chain.deployment, blobs).fetch()
        return await fetch_directory(chain), seen.ppm


async def fetch_directory(chain: ChainAccess) -> Directory:
    """Return the registry as its events tell it, as of the newest block."""
    from steelyard.chain.directory import Directory
    from steelyard.chain.indexer import fetch_events

    directory, registry = Directory(), chain.registry
    newest = await chain.rpc.block_number()
    async for logs in fetch_events(chain.rpc, [chain.deployment.registry], chain.deployment.block, newest):
        directory.apply(registry.decode_events(logs))
    return directory


async def _register(
    invocation: Invocation,
    name: str,
    kind: str,
    manifest: Path,
    split: list[int],
    data_pot: str | None,
    wallet: str,
    is_json: bool,
) -> None:
    from steelyard.chain.parameters import ZERO_ADDRESS
    from steelyard.chain.registry import Split
    from steelyard.cli.chain_access import open_chain, open_signer
    from steelyard.protocol.ids import service_id
    from steelyard.services.manifest import decode_manifest, encode_manifest
    from steelyard.storage.blobs import FolderBlobs

    try:
        decoded = decode_manifest(manifest.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"can't read the manifest {manifest}: {error.strerror}; steelyard services describe {name} {kind} makes one"
        ) from None
    if (decoded.name, decoded.kind) != (name, kind):
        raise BadRequest(f"{manifest} is of {decoded.name} ({decoded.kind}), not of {name} ({kind})", param="manifest")
    pot = ZERO_ADDRESS if data_pot is None else invocation.find_account(data_pot)
    if split[2] and data_pot is None:
        raise BadRequest(f"the split gives {split[2]} basis points to a data pot: name it with --data-pot")
    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet)
        cid = await FolderBlobs(invocation.settings.blobs_folder).put(encode_manifest(decoded))
        receipt = await chain.registry.register_service(signer.sender, name, kind, cid.digest, Split(*split), pot)
    if is_json:
        print_json({"tx": receipt.tx_hash, "service_id": service_id(name), "manifest": str(cid)})
        return
    print_line(f"{name} is registered as 0x{service_id(name).hex()}, manifest {cid}")
    print_next(f"steelyard offer set {name} --price-in 0.1 --price-out 0.4 --wallet node-1")


async def _set_offer(
    invocation: Invocation,
    name: str,
    prices: tuple[int | None, int | None],
    grade: str | None,
    is_stopping: bool,
    wallet: str | None,
    is_json: bool,
) -> None:
    from steelyard.cli.chain_access import open_chain, open_signer
    from steelyard.cli.grades import find_grade
    from steelyard.cli.selling import post_offer
    from steelyard.protocol.hashing import ZERO32
    from steelyard.protocol.ids import service_id
    from steelyard.protocol.messages import Offer

    async with open_chain(invocation) as chain:
        signer = open_signer(invocation, chain, wallet or invocation.settings.node.wallet)
        service = await _find_service(chain, name)
        standing = await chain.registry.fetch_offer(signer.key.account, service_id(name))
        if standing is None and (is_stopping or None in prices):
            raise BadRequest(f"{signer.name} doesn't offer {name}: give --price-in and --price-out", param="price_in")
        price_in, price_out = (
            price if price is not None else (old if standing else 0)
            for price, old in zip(prices, (standing.price_in, standing.price_out) if standing else (0, 0), strict=True)
        )
        manifest = ZERO32 if is_stopping else service.manifest
        if grade is not None:
            number = _parse_grade(grade)
        elif standing is not None and (is_stopping or standing.manifest == manifest):
            number = standing.grade
        else:
            number = await find_grade(invocation.settings, manifest)
        seq = (standing.seq if standing else 0) + 1
        offer = Offer(signer.key.account, service_id(name), price_in, price_out, number, manifest, seq)
        receipt = await post_offer(chain, signer, offer)
    if is_json:
        said = {"price_in_nano": price_in, "price_out_nano": price_out, "grade": _grade(number), "seq": seq}
        print_json({"tx": receipt.tx_hash, "provider": signer.key.account, "is_withdrawn": is_stopping, **said})
    elif is_stopping:
        print_line(f"{signer.name} offers {name} no longer; calls under way are still paid")
        print_next("steelyard services list")
    else:
        print_line(f"{signer.name} offers {name} at {_yard(price_in)} in, {_yard(price_out)} out per 1,000,000 units")
        print_next(f"steelyard node run --wallet {signer.name} --service {name}")


async def _find_service(chain: ChainAccess, name: str) -> Service:
    from difflib import get_close_matches

    from steelyard.protocol.ids import service_id

    service = await chain.registry.fetch_service(service_id(name))
    if service is None:
        names = [known.name for known in (await fetch_directory(chain)).services.values()]
        near = ", ".join(get_close_matches(name, names, cutoff=0.3)) or "none is registered"
        raise NotFound(f"there is no service {name!r}; the nearest: {near}", param="service")
    return service


def _parse_split(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 4 or not all(part.isdigit() for part in parts) or sum(map(int, parts)) != 10_000:
        raise BadRequest(f"{text!r} is no split: give four numbers of basis points that add up to 10000", param="split")
    return [int(part) for part in parts]


def _parse_grade(text: str) -> int:
    from steelyard.protocol.messages import Grade

    words = {grade.name.lower().replace("_", "-"): int(grade) for grade in Grade}
    if text not in words:
        raise BadRequest(f"{text!r} is no grade: it is one of {', '.join(words)}", param="grade")
    return words[text]


def _grade(number: int) -> str:
    from steelyard.protocol.messages import Grade

    return Grade(number).name.lower().replace("_", "-") if number in set(Grade) else str(number)


def _yard(nano: int) -> str:
    from steelyard.protocol.pricing import format_yard

    return format_yard(nano)


def _service_rows(directory: Directory, service: Service, quality: Quality) -> list[list[str]]:
    offers = directory.offers_for(service.service_id)
    return [
        [service.name, service.kind, "0x" + offer.provider.hex(), _yard(offer.price_in), _yard(offer.price_out),
         _grade(offer.grade), _percent(quality.get((offer.provider, service.service_id)))]
        for offer in offers
    ] or [[service.name, service.kind, "nobody offers it", "", "", "", ""]]  # fmt: skip


def _percent(ppm: int | None) -> str:
    return "-" if ppm is None else f"{ppm / 10_000:.0f} %"


def _service_json(directory: Directory, service: Service, quality: Quality) -> dict[str, Any]:
    from steelyard.protocol.cid import Cid

    return {
        "name": service.name,
        "service_id": service.service_id,
        "kind": service.kind,
        "builder": service.builder,
        "data_pot": service.data_pot,
        "manifest": str(Cid(service.manifest)),
        "split_bps": service.split.as_list(),
        "offers": [
            {
                "provider": offer.provider,
                "price_in_nano": offer.price_in,
                "price_out_nano": offer.price_out,
                "grade": _grade(offer.grade),
                "quality_ppm": quality.get((offer.provider, service.service_id)),
                "seq": offer.seq,
            }
            for offer in directory.offers_for(service.service_id)
        ],
    }
