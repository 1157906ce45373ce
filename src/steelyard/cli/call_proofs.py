"""``steelyard calls verify``: is a call's receipt what was received, in what was signed?

1. The gateway is asked for the proof and is not believed: every step is computed here, the signatures against the
   deployment that this home's ``deployment.json`` names.
2. What wasn't given can't be checked, and is said to be so; it is never counted as held.

Law: docs/spec/gateway.md, section 6.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steelyard.cli.chatting import Endpoint, find_endpoint, read_refusal, tell_unreachable
from steelyard.cli.invocation import Invocation, run
from steelyard.cli.output import JsonFlag, example, print_json, print_line, print_next
from steelyard.errors import BadRequest, NotProvable

if TYPE_CHECKING:
    from steelyard.protocol.call_proof import Step

CALL = "call_0123456789abcdef0123456789abcdef"


def register(calls: typer.Typer) -> None:
    """Add the command to the group ``calls``."""
    calls.command(
        "verify",
        epilog=example(
            f"steelyard calls verify {CALL}", f"steelyard calls verify {CALL} --content answer.txt --body request.json"
        ),
    )(verify)


def verify(
    context: typer.Context,
    call_id: Annotated[str, typer.Argument(metavar="CALL", help="A call id, like call_0123….")],
    content: Annotated[
        Path | None, typer.Option("--content", help="File with the answer's text, or a vector's bytes, as received.")
    ] = None,
    body: Annotated[Path | None, typer.Option("--body", help="File with the request's bytes, as sent.")] = None,
    model: Annotated[str, typer.Option("--model", "-m", help="What was asked for; by default what is shown.")] = "",
    base_url: Annotated[
        str | None, typer.Option("--base-url", help="Like http://127.0.0.1:8080/v1.", envvar="STEELYARD_BASE_URL")
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", help="The key that called.", envvar="STEELYARD_API_KEY")
    ] = None,
    is_json: JsonFlag = False,
) -> None:
    """Check a call's receipt: what was asked and answered, the cost, the Merkle proof and both signatures."""
    from steelyard.chain.deployment import Deployment
    from steelyard.protocol.ids import parse_call

    invocation, wanted = Invocation.of(context), parse_call(call_id)
    endpoint = find_endpoint(invocation.home, base_url, api_key)
    domain = Deployment.load(invocation.settings.deployment_file).domain
    given, sent = _load(content, "content"), _load(body, "body")
    shown = run(_fetch(endpoint, call_id))
    named = model or str(shown.get("model") or "")
    if not named:
        raise BadRequest("the gateway doesn't say which model was asked for: give --model", param="model")

    from steelyard.protocol.call_proof import check_call

    def check(answer: bytes | None) -> list[Step]:
        return check_call(shown, domain, model=named, content=answer, body=sent, call_id=wanted)

    steps = check(given)
    if given is not None and given.endswith(b"\n") and not _holds(steps, "answer"):
        stripped = check(given.removesuffix(b"\n"))  # editors and shells end a file's last line
        steps = stripped if _holds(stripped, "answer") else steps
    failed = [step for step in steps if step.error is not None]
    if is_json:
        print_json(_as_json(call_id, shown, steps))
    else:
        _print(steps, shown)
        if not failed:
            _print_advice(call_id, steps)
    if failed:
        raise typer.Exit(1)


def _holds(steps: list[Step], name: str) -> bool:
    return all(step.holds for step in steps if step.name == name)


def _load(path: Path | None, param: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"can't read --{param} {path}: {error.strerror}", param=param) from None


async def _fetch(endpoint: Endpoint, call_id: str) -> dict[str, Any]:
    import aiohttp

    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30), headers=endpoint.headers) as session,
            session.get(f"{endpoint.base_url}/calls/{call_id}") as response,
        ):
            shown = await response.json(content_type=None)
            if response.status != 200:
                raise read_refusal(response.status, shown)
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise tell_unreachable(endpoint, error) from error
    if not isinstance(shown, dict):
        raise NotProvable(f"{endpoint.base_url} shows no call: {str(shown)[:80]!r}")
    return shown


def _as_json(call_id: str, shown: dict[str, Any], steps: list[Step]) -> dict[str, Any]:
    return {
        "call_id": call_id,
        "is_verified": all(step.error is None for step in steps),
        "is_complete": all(step.holds for step in steps),
        "receipt_id": shown.get("receipt_id"),
        "steps": [
            {
                "name": step.name,
                "proves": step.proves,
                "state": _state(step),
                "reason": step.missing if step.error is None else step.error.message,
            }
            for step in steps
        ],
    }


def _state(step: Step) -> str:
    if step.error is not None:
        return "failed"
    return "unchecked" if step.missing else "holds"


def _print(steps: list[Step], shown: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.text import Text

    from steelyard.protocol.call_proof import read_shown
    from steelyard.protocol.messages import Order, Receipt
    from steelyard.protocol.pricing import format_yard

    order, receipt = read_shown(Order, shown["order"], "order"), read_shown(Receipt, shown["receipt"], "receipt")
    print_line(f"receipt  0x{receipt.struct_hash().hex()}, {format_yard(receipt.cost)} YARD")
    print_line(f"provider 0x{order.provider.hex()}\ngateway  0x{order.gateway.hex()}")
    console = Console(soft_wrap=True, highlight=False)
    marks = {"holds": ("✓", "green"), "failed": ("✗", "bold red"), "unchecked": ("-", "yellow")}
    for step in steps:
        mark, style = marks[_state(step)]
        line = Text.assemble((f"{mark} ", style), (step.proves, "" if step.holds else style))
        if reason := step.missing if step.error is None else step.error.message:
            line.append(f": {reason}", style)
        console.print(line)


def _print_advice(call_id: str, steps: list[Step]) -> None:
    unchecked = {step.name for step in steps if step.missing}
    if not unchecked:
        print_next("steelyard audit")
        return
    words = [flag for name, flag in (("answer", "--content FILE"), ("request", "--body FILE")) if name in unchecked]
    print_next(" ".join([f"steelyard calls verify {call_id}", *words]) + ("" if words else ", within a second"))
