"""A gateway that dies between signing its first voucher and sending it: the real process, with one line changed."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from steelyard.cli.app import main
from steelyard.link.provider_link import ProviderSession


def die(*_: object) -> NoReturn:
    """End as a crash would: nothing is flushed, nobody is told."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit


if __name__ == "__main__":
    ProviderSession.send_voucher = die  # type: ignore[method-assign]
    main()
