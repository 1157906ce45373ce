"""Every error that Steelyard raises, in one tree.

SteelyardError
├── PeerError            the other side broke the rules: it is refused, the event is recorded
│   ├── BadSignature     a signature that doesn't recover to the account it claims
│   ├── BadMessage       malformed, oversized or out-of-order bytes
│   └── BadTotal         a cumulative total, count or head that contradicts what was signed before
├── Refusal              we are well and will not: the request is wrong, too much, or nobody can serve it now
│   ├── BadRequest       400: malformed or out of range; names the field (`param`)
│   ├── Unauthorized     401: no key, a wrong, revoked or expired key
│   ├── PaymentRequired  402: the key's budget or the gateway's escrow is spent
│   ├── Forbidden        403: the key may not do this
│   ├── NotFound         404: unknown model, call or route; says what is near
│   ├── Conflict         409: the same idempotency key with another body, or still running
│   ├── TooLarge         413: a body or frame over the limit
│   ├── RateLimited      429: too many requests; retry after a while
│   └── Unavailable      503: no provider can serve it now; says why, per provider, and when to retry
├── ConfigError          this machine's own set-up is wrong: a key, file or port; one line, exit status 2
├── ChainError           the chain said no, or nothing
│   ├── ChainUnreachable no endpoint answered: retry
│   └── Reverted         a contract refused; carries its decoded error
├── NotProvable          what was asked to be proven lacks a blob or a step: never "yes", names what is missing
└── Fault                our bug: logged whole, shown as an id

Each class says who is at fault, whether a retry can help, its stable code and its HTTP status. A message says what was
wrong, with the value, and what to do next.
"""

from __future__ import annotations

from typing import ClassVar, Literal

Blame = Literal["peer", "caller", "operator", "chain", "us"]


class SteelyardError(Exception):
    """Root of the tree; never raised itself."""

    blame: ClassVar[Blame] = "us"
    is_retryable: ClassVar[bool] = False
    status: ClassVar[int] = 500
    code: str = "internal_error"

    def __init__(self, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        if code is not None:
            self.code = code


class PeerError(SteelyardError):
    """The other side of a link broke the rules."""

    blame = "peer"
    status = 502
    code = "peer_error"


class BadSignature(PeerError):
    """A signature does not recover to the account that it claims."""

    code = "bad_signature"


class BadMessage(PeerError):
    """A frame or message is malformed, oversized or out of order."""

    code = "bad_message"


class BadTotal(PeerError):
    """A cumulative total, count or head contradicts what was signed before."""

    code = "bad_total"


class Refusal(SteelyardError):
    """We are well and will not do it."""

    blame: ClassVar[Blame] = "caller"
    status = 400
    code = "refused"

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, code=code, param=param)
        self.retry_after_s = retry_after_s


class BadRequest(Refusal):
    """The request is malformed or out of range; `param` names the field."""

    code = "invalid_request"


class Unauthorized(Refusal):
    """No key, or a key that is wrong, revoked or expired."""

    status = 401
    code = "invalid_api_key"


class PaymentRequired(Refusal):
    """The key's budget or the gateway's escrow is spent (`budget_exceeded`, `insufficient_funds`)."""

    status = 402
    code = "insufficient_funds"


class Forbidden(Refusal):
    """The key is good and may not do this."""

    status = 403
    code = "forbidden"


class NotFound(Refusal):
    """Nothing of that name; the message lists the nearest names."""

    status = 404
    code = "not_found"


class Conflict(Refusal):
    """The same idempotency key with another body, or one whose first request still runs."""

    status = 409
    code = "conflict"


class TooLarge(Refusal):
    """A body or a frame over the limit."""

    status = 413
    code = "request_too_large"


class RateLimited(Refusal):
    """Too many requests; retry after a while."""

    is_retryable = True
    status = 429
    code = "rate_limit_exceeded"


class Unavailable(Refusal):
    """Nobody can serve this now; the message gives the reason per provider."""

    blame = "operator"
    is_retryable = True
    status = 503
    code = "no_provider"


class ConfigError(SteelyardError):
    """This machine's own set-up is wrong; shown as one line, the process ends with status 2."""

    blame = "operator"
    code = "config_error"


class ChainError(SteelyardError):
    """The chain said no, or nothing."""

    blame = "chain"
    status = 503
    code = "chain_error"


class ChainUnreachable(ChainError):
    """No endpoint answered in time."""

    is_retryable = True
    code = "chain_unreachable"


class Reverted(ChainError):
    """A contract refused; `reason` is its decoded error, e.g. ``InsufficientStake(5, 10)``."""

    code = "reverted"

    def __init__(self, message: str, *, reason: str = "", data: bytes = b"") -> None:
        super().__init__(message)
        self.reason = reason
        self.data = data


class NotProvable(SteelyardError):
    """What was asked to be proven lacks a blob or a step; the message names it."""

    blame = "operator"
    status = 404
    code = "not_provable"


class Fault(SteelyardError):
    """Our own bug: logged whole, shown to the user as an id."""

    code = "internal_error"
