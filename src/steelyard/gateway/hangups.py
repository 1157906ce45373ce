"""Clients that hang up: noticed without a task for each request.

A request that is answered within `PATIENCE_S` is never looked at. One that lasts longer gets a task of its own that
waits for its disconnection; ASGI gives no other way to hear of it.

Law: docs/spec/gateway.md, section 2.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from steelyard.gateway.replies import Receive

PATIENCE_S = 0.05


class Patient:
    """One request that is being answered; `on_gone` is called once if its client hangs up first."""

    __slots__ = ("is_gone", "on_gone", "receive", "since_s", "task")

    def __init__(self, receive: Receive, since_s: float) -> None:
        self.receive = receive
        self.since_s = since_s
        self.is_gone = False
        self.on_gone: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None


class HangupWatch:
    """All requests that are being answered, the oldest first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[Patient, None] = {}
        self.count = 0

    def add(self, receive: Receive) -> Patient:
        """Begin to watch over a request whose body was read whole."""
        patient = Patient(receive, self._clock())
        self._waiting[patient] = None
        self.count += 1
        return patient

    def remove(self, patient: Patient) -> None:
        """Stop: its answer is written."""
        self._waiting.pop(patient, None)
        self.count -= 1
        patient.on_gone = None
        if patient.task is not None:
            patient.task.cancel()

    def sweep(self) -> None:
        """Start to listen for the disconnection of whoever waits for long."""
        limit_s = self._clock() - PATIENCE_S
        while self._waiting:
            patient = next(iter(self._waiting))
            if patient.since_s > limit_s:
                return
            del self._waiting[patient]
            patient.task = asyncio.create_task(_listen(patient), name="hangup-watch")


async def _listen(patient: Patient) -> None:
    while True:
        message = await patient.receive()
        if message["type"] == "http.disconnect":
            patient.is_gone = True
            if patient.on_gone is not None:
                patient.on_gone()
            return
