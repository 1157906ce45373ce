"""A validator's epochs: secrets committed before, revealed after, and the verdicts of each published.

state on disk        on chain      what is done
-------------------  ------------  -----------------------------------------------------------------------------
no secret            -             one is drawn and kept, then its commitment is sent, before its epoch begins
a secret             no commit     the commitment is sent again (the process died in between)
committed            epoch over    the secret is revealed, within the court's time; later it can't be, and is fined
revealed             -             an epoch later its verdicts are put into a blob, and the root posted on the ledger

1. A secret never leaves before its epoch is over: whoever knew it could serve well only what is checked.
2. The epoch of a call is that of its receipt's `finished_ms`; gateways refuse receipts whose clock is off.

Law: docs/spec/validator.md, section 6.
"""

from __future__ import annotations

import secrets as random_source

import structlog

from steelyard.chain.cases import SecretState
from steelyard.chain.court import CourtClient
from steelyard.chain.ledger import LedgerClient
from steelyard.chain.sender import Sender
from steelyard.errors import Reverted
from steelyard.protocol.messages import Verdict
from steelyard.protocol.signing import Domain
from steelyard.protocol.verdicts_blob import VERDICTS_KIND, PublishedVerdict, encode_verdicts, verdicts_root
from steelyard.storage.blobs import BlobStore
from steelyard.storage.database import Database
from steelyard.storage.verdicts import SecretRow, VerdictRow, load_secrets, load_verdicts, mark_secret, save_secret
from steelyard.storage.waiting import is_epoch_waiting
from steelyard.verification.selection import SECRET_BYTES, commitment

_log = structlog.get_logger("steelyard.validator")


class Epochs:
    """Keeps one validator's secrets and publishes its verdicts.

    Args:
        sender: the validator's. ahead: for how many coming epochs a secret is committed.
    """

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        court: CourtClient,
        ledger: LedgerClient,
        sender: Sender,
        domain: Domain,
        *,
        ahead: int,
        reveal_s: int,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._court = court
        self._ledger = ledger
        self._sender = sender
        self._domain = domain
        self._ahead = ahead
        self._reveal_s = reveal_s
        self._secrets: dict[int, SecretRow] = {}
        self._told: set[int] = set()

    async def open(self) -> None:
        """Read the secrets back."""
        self._secrets = await load_secrets(self._database)

    @property
    def epoch_s(self) -> int:
        """How long an epoch lasts, in seconds."""
        return self._court.epoch_s

    def secret(self, epoch: int) -> bytes | None:
        """Return the secret that selects an epoch's calls; None where none was committed in time."""
        row = self._secrets.get(epoch)
        return row.secret if row is not None and row.is_committed else None

    async def beat(self, now_s: int) -> None:
        """Do all that is due at a time of the chain's clock; raises ChainError."""
        await self.keep_secrets(now_s)
        await self.publish(now_s)

    async def keep_secrets(self, now_s: int) -> None:
        """Reveal what is due, which can't wait, and then commit to what is to come; raises ChainError."""
        current = self._court.epoch_at(now_s)
        for row in self._open_rows():
            if row.epoch < current:
                await self._reveal(row, now_s)
        for epoch in range(current + 1, current + 1 + self._ahead):
            known = self._secrets.get(epoch)
            if known is None or not known.is_committed:
                await self._commit(epoch)

    async def publish(self, now_s: int) -> None:
        """Publish the verdicts of epochs whose last calls are checked, and have them tallied; raises ChainError."""
        current = self._court.epoch_at(now_s)
        for row in [row for row in self._open_rows() if row.epoch + 1 < current]:
            if await is_epoch_waiting(self._database, row.epoch):
                continue  # a check of it waits for evidence, which is demanded within a bounded time
            await self._publish(row.epoch)
            await self._tally(row.epoch)
            await mark_secret(self._database, row.epoch, is_revealed=True)
            self._secrets[row.epoch] = SecretRow(row.epoch, row.secret, True, True)

    def _open_rows(self) -> list[SecretRow]:
        """Secrets of which not all is done, the newest first: the older, the less there is to save."""
        rows = [row for row in self._secrets.values() if row.is_committed and not row.is_revealed]
        return sorted(rows, key=lambda row: -row.epoch)

    async def _commit(self, epoch: int) -> None:
        row = self._secrets.get(epoch)
        if row is None:
            secret = random_source.token_bytes(SECRET_BYTES)
            await save_secret(self._database, epoch, secret)
            row = self._secrets[epoch] = SecretRow(epoch, secret, False, False)
        [known] = await self._court.fetch_secrets([self._sender.account], epoch)
        if known.state is SecretState.NONE:
            try:
                await self._court.commit_secret(self._sender, epoch, commitment(row.secret))
            except Reverted as error:  # the epoch has begun meanwhile, or there is no stake
                _log.warning("secret_not_committed", epoch=epoch, reason=error.message)
                return
        await mark_secret(self._database, epoch)
        self._secrets[epoch] = SecretRow(epoch, row.secret, True, False)

    async def _reveal(self, row: SecretRow, now_s: int) -> None:
        if row.epoch in self._told:
            return
        [known] = await self._court.fetch_secrets([self._sender.account], row.epoch)
        if known.state is SecretState.COMMITTED:
            if now_s >= (row.epoch + 1) * self._court.epoch_s + self._reveal_s:
                _log.error("secret_not_revealed_in_time", epoch=row.epoch)
            else:
                try:
                    await self._court.reveal_secret(self._sender, row.epoch, row.secret)
                except Reverted as error:  # the time for it ran out meanwhile
                    _log.error("secret_not_revealed", epoch=row.epoch, reason=error.message)
        self._told.add(row.epoch)

    async def _tally(self, epoch: int) -> None:
        """Have an epoch tallied, so that who withheld its secret is fined; whoever comes first does it."""
        tally = await self._court.fetch_round(epoch)
        if not tally.is_tallied:
            try:
                await self._court.tally(self._sender, epoch)
            except Reverted as error:
                _log.info("epoch_not_tallied", epoch=epoch, reason=error.message)

    async def _publish(self, epoch: int) -> None:
        verdicts = [published(row, self._sender.account) for row in await load_verdicts(self._database, epoch=epoch)]
        if not verdicts or await self._ledger.fetch_root(self._sender.account, VERDICTS_KIND, epoch) is not None:
            return
        cid = await self._blobs.put(encode_verdicts(self._domain, self._sender.account, epoch, verdicts))
        root = verdicts_root(verdicts)
        await self._ledger.post(self._sender, VERDICTS_KIND, epoch, root, cid.digest, len(verdicts))
        _log.info("verdicts_published", epoch=epoch, count=len(verdicts), cid=str(cid))


def published(row: VerdictRow, validator: bytes) -> PublishedVerdict:
    """Return a verdict as it is published."""
    return PublishedVerdict(
        Verdict(validator, row.receipt_hash, row.outcome, row.evidence_hash, row.epoch),
        row.signature,
        row.provider,
        row.service_id,
        row.gateway,
        row.selected_by,
        row.reason,
        row.micro_nats,
        row.tokens,
    )
