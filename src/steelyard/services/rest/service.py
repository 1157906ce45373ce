"""`RestService`: one HTTP API of the operator's, sold by the call.

1. A call costs one input unit, whatever it answers; an answer that the upstream could not give costs nothing.
2. Only the upstream of this machine's configuration is asked, below its own path; redirects are not followed.
3. Status and content type are the upstream's. Statuses that tell of the upstream itself are `Unavailable`: another
   provider is asked.
4. There is no evidence beside the content, and nothing says that two honest servers answer alike: nobody is judged by
   an answer unless the manifest names a chain whose data is pinned by the path.

Law: docs/spec/kinds/rest.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from steelyard.engines.http_session import named_upstream
from steelyard.errors import BadMessage, BadRequest, ConfigError, Unavailable
from steelyard.services.manifest import Manifest
from steelyard.services.port import (
    Check,
    Chunk,
    Comparison,
    Context,
    FinishReason,
    Grade,
    Progress,
    Quote,
    Request,
    Result,
)
from steelyard.services.rest.requests import read_call

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo
    from steelyard.services.rest.upstream import Upstream

API = "rest"
OPTIONS = ("upstream", "upstream_authorization")


class RestService:
    """One `rest` service.

    `options`: `upstream` is the URL that a caller's path is put behind, `upstream_authorization` the value of an
    Authorization header. Without `upstream` it parses and quotes.
    """

    kind = "rest"
    unit = "call"
    check: Check = "consensus"
    apis = frozenset({API})
    needs_engine = False

    def __init__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        options = options or {}
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise ConfigError(f"rest has no option {unknown[0]!r}; it has {', '.join(OPTIONS)}")
        self._manifest = manifest
        self._options = options
        self._upstream: Upstream | None = None

    @staticmethod
    def describe(
        name: str, info: EngineInfo | None = None, *, owned_by: str = "steelyard", chain: str = ""
    ) -> Manifest:
        """Return the manifest of a service; `chain` is the blockchain that the data is of, if it is of one."""
        return Manifest(
            name=name,
            kind="rest",
            owned_by=owned_by,
            description="Data over HTTP, by the call.",
            engine="relay",
            chain=chain,
        )

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def grade(self) -> Grade:
        return Grade.UNCHECKED

    def parse(self, api: str, body: bytes) -> Request:
        if api != API:
            raise BadRequest(f"{self._manifest.name!r} answers {API}, not {api}", param="model")
        payload = read_call(body)
        return Request(api=API, model=self._manifest.name, input_bytes=len(payload.body), payload=payload)

    def quote(self, request: Request) -> Quote:
        return Quote(1, 0)

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        content = await self._running().call(request.payload)
        yield Chunk(content, 1, 0, b"", FinishReason.STOP)

    def evidence(self, request: Request, result: Result) -> bytes:
        return b""

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        raise Unavailable("nothing says that two servers answer this alike", code="not_replayable")

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        raise BadMessage(f"{len(replayed)} bytes are no replay: this kind has none", code="evidence_malformed")

    async def prepare(self, progress: Progress) -> None:
        """Ask the upstream whether it is there; any answer but its own failure will do.

        Raises:
            ConfigError: no upstream is named, or it does not answer.
        """
        upstream = self._running()
        progress(f"asking the server of {self._manifest.name}", 0, 0)
        try:
            await upstream.knock()
        except Unavailable as error:
            raise ConfigError(f"the upstream of {self._manifest.name!r} does not answer: {error.message}") from error

    async def aclose(self) -> None:
        if self._upstream is not None:
            await self._upstream.aclose()

    def _running(self) -> Upstream:
        if self._upstream is None:
            self._upstream = self._open_upstream()
        return self._upstream

    def _open_upstream(self) -> Upstream:
        from steelyard.services.rest.upstream import Upstream

        return Upstream(
            named_upstream(self._manifest.name, self._options),
            authorization=self._options.get("upstream_authorization", ""),
        )
