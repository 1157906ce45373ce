"""Two cheats, for `steelyard demo trust` and for tests alone: no command and no setting leads here.

    python -m steelyard.cli.cheats coarse --wallet node-3 --service NAME --gateway URL

========== ============================ ===================================================================
name       what it sells                what its evidence says
========== ============================ ===================================================================
coarse     weights on a coarser grid    what the coarse weights gave, in good faith
backfill   the same cheap tokens        what an honest prefill of the real weights gives for those tokens
========== ============================ ===================================================================

1. Each is a whole node: it stakes, takes orders, signs receipts, is paid. Only the service behind it is another one.
2. The coarse weights are made here from the real file: of each block's 16 values some few are kept.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import struct
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from steelyard.errors import ConfigError
from steelyard.services.chat import ChatService
from steelyard.services.chat.evidence import ROW_BYTES, encode_row
from steelyard.services.chat.stepping import read_prompt
from steelyard.services.manifest import Manifest
from steelyard.services.port import Chunk, Context, Request

if TYPE_CHECKING:
    from steelyard.cli.invocation import Invocation
    from steelyard.engines.port import EngineInfo, StepEngine
    from steelyard.node.node import NodeParts

COARSE, BACKFILL = "coarse", "backfill"
CHEATS = (COARSE, BACKFILL)
BITS = 2

_Q4_1, _BLOCK_BYTES, _CODES_FROM, _BLOCK = 3, 20, 4, 32
_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY, _ALIGNMENT = 8, 9, 32


class DisguisedEngine:
    """A step engine over other weights that gives itself out for the one that a manifest names."""

    def __init__(self, cheap: StepEngine, disguise: EngineInfo) -> None:
        self._cheap = cheap
        self.info = disguise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cheap, name)


class BackfilledChat(ChatService):
    """Decodes with a cheap engine, and takes its evidence from a prefill of the real one over the cheap tokens.

    Args:
        cheap: makes the tokens. real: makes the evidence; the manifest's own.
    """

    def __init__(self, manifest: Manifest, cheap: StepEngine, real: StepEngine) -> None:
        super().__init__(manifest, engine=cast(Any, DisguisedEngine(cheap, real.info)))
        self._real = real

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        """Answer like anybody; before the last chunk leaves, the evidence is another."""
        async with aclosing(super().run(request, context)) as chunks:
            async for chunk in chunks:
                if chunk.finish is not None:
                    context.trace[:] = await self._backfill(request, bytes(context.trace))
                yield chunk

    async def _backfill(self, request: Request, trace: bytes) -> bytes:
        tokens = [int.from_bytes(trace[at : at + 4], "big") for at in range(0, len(trace), ROW_BYTES)]
        scorer = self._real.scorer
        if scorer is None:
            raise ConfigError("this cheat needs an engine that scores whole answers")
        found = await scorer.score(await read_prompt(self._real, request.payload), tokens)
        return b"".join(encode_row(candidates, token) for candidates, token in zip(found, tokens, strict=True))


def coarsen(real: Path, to: Path, bits: int = BITS) -> Path:
    """Write a GGUF file whose Q4_1 blocks keep 2^bits of their 16 values each, and return its path.

    The grid runs from each block's least value to its greatest; no byte moves, so the file runs as fast as the real.
    """
    if to.exists():
        return to
    steps = 2**bits - 1
    nearest = [round(round(code * steps / 15) * 15 / steps) for code in range(16)]
    table = bytes(nearest[byte & 15] | nearest[byte >> 4] << 4 for byte in range(256))
    with real.open("rb") as file:
        places = _q4_1_places(file)
        file.seek(0)
        data = bytearray(file.read())
    for start, size in places:
        end = start + size
        for column in range(_CODES_FROM, _BLOCK_BYTES):
            cells = slice(start + column, end, _BLOCK_BYTES)
            data[cells] = data[cells].translate(table)
    to.parent.mkdir(parents=True, exist_ok=True)
    fresh = to.with_name(f"{to.name}.{os.getpid()}")
    fresh.write_bytes(data)
    fresh.rename(to)
    return to


def _q4_1_places(file: BinaryIO) -> list[tuple[int, int]]:
    """Where the Q4_1 tensors of a file (trusted) lie: (offset, size) in bytes."""
    _, _, tensors, fields = struct.unpack("<4sIQQ", file.read(24))
    for _ in range(fields):
        _skip_string(file)
        _skip_value(file, _number(file, 4))
    found = []
    for _ in range(tensors):
        _skip_string(file)
        count = 1
        for _ in range(_number(file, 4)):
            count *= _number(file, 8)
        kind, offset = _number(file, 4), _number(file, 8)
        if kind == _Q4_1:
            found.append((offset, count // _BLOCK * _BLOCK_BYTES))
    begin = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
    return [(begin + offset, size) for offset, size in found]


def _skip_value(file: BinaryIO, kind: int) -> None:
    if kind == _STRING:
        _skip_string(file)
    elif kind == _ARRAY:
        inner, count = _number(file, 4), _number(file, 8)
        for _ in range(count):
            _skip_value(file, inner)
    else:
        file.seek(_SIZES[kind], os.SEEK_CUR)


def _skip_string(file: BinaryIO) -> None:
    file.seek(_number(file, 8), os.SEEK_CUR)


def _number(file: BinaryIO, size: int) -> int:
    return int.from_bytes(file.read(size), "little")


# the process


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a cheating node, as `steelyard node run` runs an honest one."""
    from steelyard.cli.invocation import Invocation, find_home
    from steelyard.cli.logs import configure_logs
    from steelyard.cli.serving import serve_until_told

    parser = argparse.ArgumentParser(prog="python -m steelyard.cli.cheats")
    parser.add_argument("cheat", choices=CHEATS)
    parser.add_argument("--wallet", required=True)
    parser.add_argument("--service", action="append", required=True)
    parser.add_argument("--gateway", action="append", required=True)
    given = parser.parse_args(arguments)
    invocation = Invocation(find_home(None))
    entries = [{"name": name} for name in given.service]
    invocation.override("node", wallet=given.wallet, services=entries, gateways=given.gateway)
    configure_logs(is_verbose=False)
    serve_until_told(lambda stop: _serve(invocation, given.cheat, stop))


async def _serve(invocation: Invocation, cheat: str, stop: asyncio.Event) -> None:
    from steelyard.cli.gateway_finding import GatewayFinder
    from steelyard.cli.node_wiring import open_node_parts
    from steelyard.cli.output import print_ready
    from steelyard.engines.llama import LlamaEngine
    from steelyard.engines.llama_server import LlamaOptions
    from steelyard.node.serve import serve
    from steelyard.weights.cache import WeightCache

    def crash(error: BaseException) -> None:
        stop.set()

    section = invocation.settings.node
    async with open_node_parts(invocation, crash, is_serving=True) as (honest, chain):
        manifest = next(iter(honest.services.values())).service.manifest
        if manifest.weights is None:
            raise ConfigError(f"{manifest.name!r} names no weights to make worse")
        real = WeightCache(invocation.settings.weights_folder).path_of(manifest.weights.sha256)
        weights = await asyncio.to_thread(coarsen, real, invocation.settings.home / f"coarse-{BITS}-bit.gguf")
        options = LlamaOptions(slots=section.engine_slots, threads=1, context_tokens=manifest.context_tokens)
        cheap = LlamaEngine(weights, options=options)
        await cheap.prepare(lambda *_: None)
        try:
            parts = corrupt(honest, cheat, cheap)
            gateways = await GatewayFinder(chain, section.gateways).find_first(stop)

            def announce() -> None:
                print_ready(provider=parts.key.account, cheat=cheat, pid=os.getpid())

            await serve(parts, gateways, stop, on_ready=announce)
        finally:
            await cheap.aclose()


def corrupt(honest: NodeParts, cheat: str, cheap: StepEngine) -> NodeParts:
    """Return a node's parts with every chat service replaced by a cheat's over a cheap engine."""
    services = {}
    for key, offered in honest.services.items():
        service = offered.service
        if not isinstance(service, ChatService):
            raise ConfigError(f"{service.manifest.name!r} is no chat service: these cheats know no other")
        real = cast("StepEngine", service._running())
        if cheat == BACKFILL:
            worse: ChatService = BackfilledChat(service.manifest, cheap, real)
        else:
            worse = ChatService(service.manifest, engine=cast(Any, DisguisedEngine(cheap, real.info)))
        services[key] = replace(offered, service=worse)
    return replace(honest, services=services)


if __name__ == "__main__":
    main()
