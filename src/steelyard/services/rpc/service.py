"""`RpcService`: one blockchain's JSON-RPC, relayed to the operator's own node.

1. Its unit is the compute unit: input units by the methods asked, output units by the messages of a subscription.
2. The upstream is this machine's configuration and never a caller's; its own failures are `Unavailable`, so that
   another provider is asked. An upstream's error about the request itself is the answer.
3. There is no evidence beside the content: whoever checks asks a node of its own, for what is pinned and so has one
   answer. Everything else is not replayable, and nobody is judged by it.

Law: docs/spec/kinds/rpc.md.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from steelyard.engines.http_session import named_upstream
from steelyard.errors import BadRequest, ConfigError, Unavailable
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
from steelyard.services.rpc import catalogue
from steelyard.services.rpc.comparing import compare_answers, pack_replay
from steelyard.services.rpc.messages import (
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    BadRpc,
    RpcItem,
    RpcPayload,
    error_object,
    parse_body,
    read_object,
)

if TYPE_CHECKING:
    from steelyard.engines.port import Engine, EngineInfo
    from steelyard.services.rpc.upstream import Upstream

CALL, SUBSCRIBE = "rpc", "rpc.subscribe"
OPTIONS = ("upstream", "upstream_authorization", "upstream_ws")

MESSAGES, MAX_MESSAGES = 256, 4_096
"""Messages of one subscription order: as usual, and at most."""

SECONDS, MAX_SECONDS = 240, 800
"""How long one subscription order lasts: as usual, and at most."""

_KNOWN_METHODS = 1_024


class RpcService:
    """One `rpc` service.

    `options`: `upstream` is the node's http(s) URL, `upstream_ws` its ws(s) URL for subscriptions,
    `upstream_authorization` the value of an Authorization header for both. Without `upstream` it parses and quotes.
    """

    kind = "rpc"
    unit = "compute unit"
    check: Check = "consensus"
    apis = frozenset({CALL, SUBSCRIBE})
    needs_engine = False

    def __init__(
        self, manifest: Manifest, *, engine: Engine | None = None, options: Mapping[str, str] | None = None
    ) -> None:
        """Bind a manifest.

        Raises:
            ConfigError: an unknown option, or a manifest whose chain has no row and whose family there isn't.
        """
        options = options or {}
        if unknown := sorted(set(options) - set(OPTIONS)):
            raise ConfigError(f"rpc has no option {unknown[0]!r}; it has {', '.join(OPTIONS)}")
        family = catalogue.find_family(manifest.chain, manifest.family)
        if family is None or "rpc" not in family.transports:
            raise ConfigError(
                f"{manifest.name!r} relays {manifest.chain!r} of the family {manifest.family!r}, whose JSON-RPC isn't "
                f"known; families are {', '.join(_families())}"
            )
        self._manifest = manifest
        self.family = family
        self._allowed = frozenset(manifest.parameters)
        self._whys: dict[str, str] = {}
        self._options = options
        self._upstream: Upstream | None = None

    @staticmethod
    def describe(
        name: str,
        info: EngineInfo | None = None,
        *,
        owned_by: str = "steelyard",
        chain: str = "",
        family: str = "",
        methods: tuple[str, ...] = (),
    ) -> Manifest:
        """Return the manifest of a chain's relay.

        Args:
            name: the service's; the chain's id in the catalogue if `chain` doesn't say otherwise.
            family: for a chain that has no row. methods: that are refused as a rule, and are honoured by this service.

        Raises:
            ConfigError: no such chain, and no family; tells the nearest chains.
        """
        wanted = chain or name
        row = catalogue.find_chain(wanted)
        if row is not None:
            said = f"JSON-RPC of {row.id}, chain {row.chain_id}."
            wanted, family = row.id, ""
        elif family in _families():
            said = f"JSON-RPC of {wanted}, a chain of the family {family}."
        else:
            near = ", ".join(catalogue.nearest_chains(wanted)) or "nothing like it"
            raise ConfigError(
                f"the catalogue has no chain {wanted!r} (near it: {near}): name another chain, or its family, one of "
                f"{', '.join(_families())}"
            )
        return Manifest(
            name=name,
            kind="rpc",
            owned_by=owned_by,
            description=said,
            engine="relay",
            parameters=methods,
            chain=wanted,
            family=family,
        )

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def grade(self) -> Grade:
        return Grade.CONSENSUS

    def parse(self, api: str, body: bytes) -> Request:
        if api not in self.apis:
            raise BadRequest(f"{self._manifest.name!r} answers {CALL} and {SUBSCRIBE}, not {api}", param="model")
        payload = parse_body(body, self.family.versions, self._find_error)
        if api == SUBSCRIBE:
            payload = self._read_subscription(payload, body)
        elif any(self.family.is_subscription(item.method) for item in payload.items):
            payload = self._refuse_subscriptions(payload)
        return Request(
            api=api,
            model=self._manifest.name,
            stream=api == SUBSCRIBE,
            count=len(payload.items),
            input_bytes=len(body),
            payload=payload,
        )

    def quote(self, request: Request) -> Quote:
        payload: RpcPayload = request.payload
        units = sum(self.family.units(item.method) for item in payload.items if not item.error)
        return Quote(units, payload.max_messages * self.family.message_units)

    async def run(self, request: Request, context: Context) -> AsyncGenerator[Chunk, None]:
        upstream, quote = self._running(), self.quote(request)
        if request.api == CALL:
            content = await upstream.call(request.payload)
            yield Chunk(content, quote.max_units_in, 0, b"", FinishReason.STOP)
            return
        payload: RpcPayload = request.payload
        async for result in upstream.subscribe(payload):
            if result is None:  # the node took the subscription
                yield Chunk(b"", quote.max_units_in, 0, b'{"subscribed":true}')
            else:
                yield Chunk(result + b"\n", 0, self.family.message_units)
        yield Chunk(b"", 0, 0, b"", FinishReason.LENGTH)

    def evidence(self, request: Request, result: Result) -> bytes:
        return b""

    async def replay(self, request: Request, result: Result, claimed: bytes, context: Context) -> bytes:
        payload: RpcPayload = request.payload
        if request.api != CALL or not self._is_replayable(payload):
            raise Unavailable("what was asked moves with the chain", code="not_replayable")
        content = await self._running().call(payload)
        return pack_replay(self.quote(request).max_units_in, content)

    def compare(self, result: Result, claimed: bytes, replayed: bytes) -> Comparison:
        return compare_answers(result, claimed, replayed)

    async def prepare(self, progress: Progress) -> None:
        """Ask the upstream which chain it serves; safe to call twice.

        Raises:
            ConfigError: no upstream is named, it does not answer, or it serves another chain.
        """
        upstream = self._running()
        progress(f"asking the node of {self._manifest.name}", 0, 0)
        row = catalogue.load_chains().get(self._manifest.chain)
        try:
            found = self.family.identity.pick(await upstream.ask(self.family.identity))
        except Unavailable as error:
            raise ConfigError(f"the upstream of {self._manifest.name!r} does not answer: {error.message}") from error
        if row is not None and not row.is_identity(found):
            raise ConfigError(
                f"the upstream of {self._manifest.name!r} serves the chain {found}, {row.id} is {row.chain_id}: name "
                "an upstream of that chain"
            )

    async def aclose(self) -> None:
        if self._upstream is not None:
            await self._upstream.aclose()

    def _running(self) -> Upstream:
        if self._upstream is None:
            self._upstream = self._open_upstream()
        return self._upstream

    def _open_upstream(self) -> Upstream:
        from steelyard.services.rpc.upstream import Upstream

        return Upstream(
            named_upstream(self._manifest.name, self._options),
            websocket_url=self._options.get("upstream_ws", ""),
            authorization=self._options.get("upstream_authorization", ""),
            is_light=self.family.is_light,
        )

    def _find_error(self, method: str) -> str:
        why = self._whys.get(method)
        if why is None:
            why = self._explain_refusal(method)
            if len(self._whys) < _KNOWN_METHODS:
                self._whys[method] = why
        return why

    def _explain_refusal(self, method: str) -> str:
        if method in self._allowed:
            return ""
        if method in self.family.stateful:
            return f"{method} needs one node that remembers: use {self.family.stateful[method]}"
        if method in self.family.subscriptions.values():
            return f"{method} is for a WebSocket"
        if self.family.is_refused(method):
            return f"{method} is not served: it could change or burden a node, or use its keys"
        return ""

    def _read_subscription(self, payload: RpcPayload, body: bytes) -> RpcPayload:
        (item, *others) = payload.items
        if payload.is_batch or others:
            raise BadRpc("subscribe with one request, not with a batch", INVALID_REQUEST)
        if not self.family.is_subscription(item.method):
            raise BadRpc(f"{item.method} is no subscription", METHOD_NOT_FOUND, item.id_raw)
        fields = read_object(body)
        messages = _read_bound(fields, "max_messages", MESSAGES, MAX_MESSAGES, item)
        seconds = _read_bound(fields, "max_s", SECONDS, MAX_SECONDS, item)
        return RpcPayload(payload.items, False, messages, seconds)

    def _refuse_subscriptions(self, payload: RpcPayload) -> RpcPayload:
        items = []
        for item in payload.items:
            if not item.error and self.family.is_subscription(item.method):
                why = f"{item.method} is for a WebSocket: connect to this URL as one, and send it by itself"
                if not payload.is_batch:
                    raise BadRpc(why, METHOD_NOT_FOUND, item.id_raw, code="method_refused")
                item = RpcItem(item.id_raw, item.method, b"", error_object(METHOD_NOT_FOUND, why))
            items.append(item)
        return RpcPayload(tuple(items), payload.is_batch)

    def _is_replayable(self, payload: RpcPayload) -> bool:
        asked = payload.forwarded
        return bool(asked) and all(self.family.is_deterministic(item.method, item.params_raw) for item in asked)


def _read_bound(fields: dict[str, Any], name: str, usual: int, most: int, item: RpcItem) -> int:
    value = fields.get(name, usual)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise BadRpc(f"`{name}` is {value!r:.40}: it must be from 1 to {most}", INVALID_REQUEST, item.id_raw or b"null")
    return value


def _families() -> list[str]:
    return [name for name, family in catalogue.load_families().items() if "rpc" in family.transports]
