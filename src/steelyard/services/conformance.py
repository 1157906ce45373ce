"""What every kind must keep to, as a check that anyone can run: ours in our tests, a stranger's in theirs.

    violations = await find_violations(MyKind, engine, {"chat.completions": b'{"model": …}'})
    assert not violations

1. It knows no kind: it takes a class, an engine if the class needs one, and one good body per API.
2. A violation is a sentence; none means that gateway, node and validators can rely on the port.

Law: docs/spec/services.md, section 7.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import msgspec

from steelyard.errors import BadRequest, SteelyardError, Unavailable
from steelyard.services.details import join_details
from steelyard.services.port import (
    Chunk,
    Context,
    ContinuingService,
    Prefix,
    Request,
    Result,
    Service,
    ServiceClass,
    decode_manifest,
    encode_manifest,
    encode_prefix,
)

if TYPE_CHECKING:
    from steelyard.engines.port import Engine

GARBAGE = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"\xff\xfe",
    b'{"model":5}',
    b"[" * 10_000,
    b'{"model":"m","no_such_parameter":1}',
)
"""Bodies that no kind may accept, nor answer with anything but a BadRequest."""

FORGED = (b"", b"x", bytes(64), b"SYC1" + bytes(8), b"\xff" * 4096)
"""Evidence that no kind may choke on."""

CANCEL_S = 10.0
TEXT_APIS = ("chat.completions", "completions")


async def find_violations(
    kind: ServiceClass,
    engine: Engine | None,
    bodies: Mapping[str, bytes],
    seed: int = 7,
    *,
    name: str = "conformance",
    options: Mapping[str, str] | None = None,
) -> list[str]:
    """Return what a kind breaks of the port; [] if it keeps to all of it.

    Args:
        kind: the class that an entry point names.
        engine: what it runs on, not yet prepared; None if it needs none.
        bodies: one good request body for each API of `kind.apis`.
        seed: the sampler seed of the runs.
        name: of the service, where a kind takes only certain ones. options: what `run` needs beside an engine.
    """
    found: list[str] = []
    if set(bodies) != set(kind.apis):
        return [f"bodies for {sorted(bodies)} were given, the kind answers {sorted(kind.apis)}"]
    if engine is not None:
        await engine.prepare(lambda *_: None)
    manifest = kind.describe(name, None if engine is None else engine.info)
    if decode_manifest(encode_manifest(manifest)) != manifest or manifest.kind != kind.kind:
        found.append("its manifest does not survive its own encoding, or names another kind")
    bare, service = kind(manifest), kind(manifest, engine=engine, options=options)
    await service.prepare(lambda *_: None)
    for api, body in bodies.items():
        found += _pure_violations(bare, service, api, body)
        found += await _run_violations(service, api, body, seed)
        found += await _quick_violations(service, api, body, seed)
        found += await _seam_violations(service, api, body, seed)
        found += await _cancel_violations(service, api, body, seed)
    await service.aclose()
    return found


def _pure_violations(bare: Service, service: Service, api: str, body: bytes) -> list[str]:
    found = []
    if bare.quote(bare.parse(api, body)) != service.quote(service.parse(api, body)):
        found.append(f"{api}: a gateway without an engine quotes otherwise than a node with one")
    for garbage in GARBAGE:
        try:
            bare.parse(api, garbage)
            found.append(f"{api}: parse accepts {garbage[:40]!r}")
        except BadRequest:
            pass
        except Exception as error:  # whatever else it raises is the violation that is looked for
            found.append(f"{api}: parse of {garbage[:40]!r} raises {type(error).__name__}")
    try:
        bare.parse("no.such.api", body)
        found.append("parse accepts an API that the kind does not declare")
    except BadRequest:
        pass
    return found


async def _run_violations(service: Service, api: str, body: bytes, seed: int) -> list[str]:
    request = service.parse(api, body)
    context = Context(seed=seed)
    chunks = [chunk async for chunk in service.run(request, context)]
    found = [f"{api}: {what}" for what in _chunk_violations(request, chunks)]
    if found:
        return found
    result = _join(chunks, context)
    quote = service.quote(request)
    if result.units_in > quote.max_units_in or result.units_out > quote.max_units_out:
        found.append(f"{api}: it costs {result.units_in} + {result.units_out}, quoted were {quote}")
    streamed = await _run_streamed(service, api, body, seed)
    if streamed is not None and (streamed.content, streamed.finish) != (result.content, result.finish):
        found.append(f"{api}: streamed and whole answers differ under one seed")
    return found + await _check_violations(service, api, request, result, seed)


async def _quick_violations(service: Service, api: str, body: bytes, seed: int) -> list[str]:
    """A kind that answers at once says what its run says, trace included."""
    answer_now: Callable[[Request, Context], Chunk | None] | None = getattr(service, "answer_now", None)
    if answer_now is None:
        return []
    request, context, quick_context = service.parse(api, body), Context(seed=seed), Context(seed=seed)
    chunk = answer_now(request, quick_context)
    if chunk is None:
        return []
    chunks = [chunk async for chunk in service.run(request, context)]
    if _chunk_violations(request, chunks):
        return []  # told already
    if chunk.finish is None or _join([chunk], quick_context) != _join(chunks, context):
        return [f"{api}: answer_now gives another answer than run"]
    if chunk.detail != join_details([chunk.detail for chunk in chunks if chunk.detail]):
        return [f"{api}: answer_now gives another detail than run"]
    return []


async def _seam_violations(service: Service, api: str, body: bytes, seed: int) -> list[str]:
    """An answer that goes on after its first chunk is the undisturbed one, and its rest can be replayed."""
    fields: Any = _json(body)
    if not getattr(service, "can_continue", False) or api not in TEXT_APIS or not isinstance(fields, dict):
        return []
    request = service.parse(api, msgspec.json.encode({**fields, "stream": True}))
    chunks = [chunk async for chunk in service.run(request, Context(seed=seed))]
    whole, first = _join(chunks, Context()), chunks[0]
    prefix = Prefix(first.content, first.units_out, first.trail)
    context = Context(seed=seed, prefix=encode_prefix(prefix))
    rest = cast(ContinuingService, service).quote_rest(request, prefix)
    more = [chunk async for chunk in service.run(request, context)] if rest is not None else []
    if rest is None or not more:
        return [f"{api}: it can continue, and not after its own first chunk"]
    result = _join(more, context)
    found = []
    if (first.content + result.content, result.finish) != (whole.content, whole.finish):
        found.append(f"{api}: an answer that goes on after its first chunk is another one")
    if result.units_in > rest.max_units_in or result.units_out > rest.max_units_out:
        found.append(f"{api}: the rest costs {result.units_in} + {result.units_out}, quoted were {rest}")
    claimed = service.evidence(request, result)
    public = msgspec.structs.replace(result, trace=b"")
    replayed = await service.replay(request, public, claimed, Context(seed=seed, prefix=context.prefix))
    if not service.compare(public, claimed, replayed).is_wellformed:
        found.append(f"{api}: the evidence of an honest rest counts as malformed")
    return found


def _chunk_violations(request: Request, chunks: list[Chunk]) -> list[str]:
    if not chunks or chunks[-1].finish is None:
        return ["an answer ends without a finish reason"]
    found = []
    if any(chunk.finish is not None for chunk in chunks[:-1]):
        found.append("a finish reason stands before the last chunk")
    if any(chunk.units_in < 0 or chunk.units_out < 0 for chunk in chunks):
        found.append("a chunk has negative units")
    content = b"".join(chunk.content for chunk in chunks)
    if request.api == "embeddings" and len(content) % request.count:
        found.append(f"{len(content)} bytes of content do not divide into {request.count} items")
    for chunk in chunks:
        if request.api in TEXT_APIS and not _is_text(chunk.content):
            found.append("a chunk's content is cut inside a character")
        if chunk.detail and not isinstance(_json(chunk.detail), dict):
            found.append("a chunk's detail is no JSON object")
    return found


async def _check_violations(service: Service, api: str, request: Request, result: Result, seed: int) -> list[str]:
    claimed = service.evidence(request, result)
    public = Result(content=result.content, units_in=result.units_in, units_out=result.units_out, finish=result.finish)
    try:
        replayed = await service.replay(request, public, claimed, Context(seed=seed))
    except SteelyardError as error:
        if isinstance(error, Unavailable) and error.code == "not_replayable":
            return []  # what was asked has no one answer
        return [f"{api}: an honest answer can't be replayed: {error.message}"]
    found = []
    honest = service.compare(public, claimed, replayed)
    if not honest.is_wellformed:
        found.append(f"{api}: an honest answer's evidence counts as malformed: {honest.reason}")
    for forged in FORGED:
        if forged == claimed:
            continue
        try:
            if service.compare(public, forged, replayed).is_wellformed:
                found.append(f"{api}: forged evidence {forged[:8]!r} counts as well formed")
        except Exception as error:  # comparing untrusted bytes must never raise, whatever they are
            found.append(f"{api}: comparing forged evidence raises {type(error).__name__}")
    return found


async def _cancel_violations(service: Service, api: str, body: bytes, seed: int) -> list[str]:
    """Leave after the first chunk, then run again: what the first run held must be free."""
    request = service.parse(api, body)
    try:
        async with asyncio.timeout(CANCEL_S):
            for _ in range(2):
                async with aclosing(service.run(request, Context(seed=seed))) as chunks:
                    await anext(chunks)
    except TimeoutError:
        return [f"{api}: it did not stop, or not start again, within {CANCEL_S:.0f} s of being left"]
    return []


async def _run_streamed(service: Service, api: str, body: bytes, seed: int) -> Result | None:
    fields: Any = _json(body)
    if api not in TEXT_APIS or not isinstance(fields, dict):
        return None
    context = Context(seed=seed)
    request = service.parse(api, msgspec.json.encode({**fields, "stream": True}))
    return _join([chunk async for chunk in service.run(request, context)], context)


def _join(chunks: list[Chunk], context: Context) -> Result:
    finish = chunks[-1].finish
    if finish is None:
        raise ValueError("an answer ends without a finish reason")
    return Result(
        content=b"".join(chunk.content for chunk in chunks),
        units_in=sum(chunk.units_in for chunk in chunks),
        units_out=sum(chunk.units_out for chunk in chunks),
        finish=finish,
        trace=bytes(context.trace),
    )


def _is_text(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _json(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
