"""What runs in a home: never believed of a dead supervisor, and held by one at a time."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from steelyard.cli.running import LOCK_FILE, STATE_FILE, claim_home, find_supervisor, load_state
from steelyard.errors import ConfigError


def test_state_is_believed_while_its_supervisor_holds_the_home(tmp_path: Path) -> None:
    """Whoever looks sees who holds it, and can't hold it too; afterwards the same file says nothing."""
    (tmp_path / STATE_FILE).write_text(json.dumps({"base_url": "http://127.0.0.1:1/v1"}))
    with claim_home(tmp_path):
        assert find_supervisor(tmp_path) == os.getpid()
        assert load_state(tmp_path) == {"base_url": "http://127.0.0.1:1/v1"}
        with pytest.raises(ConfigError, match="starts or runs in"), claim_home(tmp_path):
            pass
        assert load_state(tmp_path) is not None
    assert (find_supervisor(tmp_path), load_state(tmp_path)) == (None, None)


def test_state_of_a_killed_supervisor_is_not_believed(tmp_path: Path) -> None:
    """Its process id may be somebody else's by now: ours, here."""
    (tmp_path / STATE_FILE).write_text(json.dumps({"pid": os.getpid()}))
    assert load_state(tmp_path) is None
    (tmp_path / LOCK_FILE).write_text(str(os.getpid()))
    assert load_state(tmp_path) is None
    assert find_supervisor(tmp_path) is None
