"""Keystores: what is written can be read again by the right passphrase alone, and development keys stay at home."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from eth_account import Account

from steelyard.chain.keystore import (
    check_development_chain,
    create_key,
    derive_development_key,
    load_key,
    load_keystore_info,
    passphrase_reader,
    passphrase_source,
    save_keystore,
)
from steelyard.errors import ConfigError
from steelyard.protocol.signing import SigningKey

CHEAP = 2
PASSPHRASE = "open sesame"
LOCAL = ["http://127.0.0.1:8545"]


def load(path: Path, passphrase: str = PASSPHRASE, chain_id: int = 10, urls: list[str] = LOCAL) -> SigningKey:
    return load_key(path, chain_id=chain_id, rpc_urls=urls, read_passphrase=lambda _title: passphrase)


def test_keystore_right_passphrase_returns_the_key(tmp_path: Path) -> None:
    """A saved key comes back, from a file of mode 0600 in a folder of mode 0700 that eth-account can read as well."""
    path, key = tmp_path / "keys" / "node.json", create_key()
    info = save_keystore(path, key, PASSPHRASE, scrypt_n=CHEAP)
    assert load(path).secret == key.secret
    assert info == load_keystore_info(path)
    assert info.account == key.account
    assert not info.is_development
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert Account.decrypt(json.loads(path.read_text()), PASSPHRASE) == key.secret


def test_keystore_wrong_passphrase_is_one_line_without_secrets(tmp_path: Path) -> None:
    """A wrong passphrase is a ConfigError of one line that names the file and shows no secret."""
    path, key = tmp_path / "node.json", create_key()
    save_keystore(path, key, PASSPHRASE, scrypt_n=CHEAP)
    with pytest.raises(ConfigError, match="wrong passphrase") as caught:
        load(path, "xyzzy-canary")
    assert "\n" not in str(caught.value)
    assert "xyzzy-canary" not in str(caught.value)
    assert key.secret.hex() not in str(caught.value)


def test_keystore_wrong_passphrase_names_the_variable_that_it_came_from(tmp_path: Path) -> None:
    """Whoever typed nothing is told which variable to look at, and whoever typed it to try again."""
    path = tmp_path / "node.json"
    save_keystore(path, create_key(), PASSPHRASE, scrypt_n=CHEAP)
    with pytest.raises(ConfigError, match=r"wrong passphrase for .+: try again"):
        load(path, "xyzzy-canary")
    file = {"STEELYARD_PASSPHRASE_FILE": "unread"}
    for environment in (file, file | {"STEELYARD_PASSPHRASE": "xyzzy-canary"}):
        source = passphrase_source(environment)
        with pytest.raises(ConfigError, match=f"{source} has another one: correct or unset it"):
            load_key(path, chain_id=10, rpc_urls=LOCAL, read_passphrase=lambda _title: "xyzzy-canary", source=source)
    assert passphrase_source({}) == ""


def test_keystore_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """Saving over a key is refused, and leaves it and no temporary file behind."""
    path, key = tmp_path / "node.json", create_key()
    save_keystore(path, key, PASSPHRASE, scrypt_n=CHEAP)
    with pytest.raises(ConfigError, match="exists already"):
        save_keystore(path, create_key(), PASSPHRASE, scrypt_n=CHEAP)
    assert load(path).secret == key.secret
    assert [file.name for file in tmp_path.iterdir()] == ["node.json"]


def test_keystore_empty_passphrase_is_refused(tmp_path: Path) -> None:
    """A key that is not for development is never stored under an empty passphrase."""
    with pytest.raises(ConfigError, match="needs a passphrase"):
        save_keystore(tmp_path / "node.json", create_key(), "", scrypt_n=CHEAP)


def test_keystore_readable_by_others_is_refused(tmp_path: Path) -> None:
    """A file that other users can read is refused with the command that mends it."""
    path = tmp_path / "node.json"
    save_keystore(path, create_key(), PASSPHRASE, scrypt_n=CHEAP)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        load(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("not json", "isn't JSON"),
        ("[]", "no V3 keystore"),
        ('{"version": 4, "crypto": {}}', "no V3 keystore"),
        ('{"version": 3, "crypto": {}, "address": "00"}', "a field is missing"),
        ('{"version": 3, "crypto": {}, "address": "' + "00" * 20 + '", "steelyard": 1}', "malformed"),
        (" " * 70_000, "no V3 keystore"),
    ],
)
def test_keystore_malformed_file_is_one_clear_line(tmp_path: Path, content: str, words: str) -> None:
    """Whatever else lies at the path is refused with a line that names the path."""
    path = tmp_path / "node.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=words) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_keystore_missing_file_names_the_command(tmp_path: Path) -> None:
    """A missing file says how to make one."""
    with pytest.raises(ConfigError, match="steelyard wallet new"):
        load(tmp_path / "none.json")


def test_keystore_swapped_address_is_refused(tmp_path: Path) -> None:
    """A file whose address is another account's is refused: the key would sign for somebody unexpected."""
    path = tmp_path / "node.json"
    save_keystore(path, create_key(), PASSPHRASE, scrypt_n=CHEAP)
    content = json.loads(path.read_text())
    content["address"] = create_key().account.hex()
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="another account's key"):
        load(path)


def test_development_key_on_the_embedded_chain_needs_no_passphrase(tmp_path: Path) -> None:
    """A marked key opens on a development chain on this machine, and its passphrase is never asked for."""
    path, key = tmp_path / "dev.json", derive_development_key(b"seed", 3)
    assert save_keystore(path, key, is_development=True).is_development
    assert json.loads(path.read_text())["steelyard"] == {"development": True}

    def never(_title: str) -> str:
        raise AssertionError("asked for a passphrase")

    for chain_id in (31415, 31337):
        assert load_key(path, chain_id=chain_id, rpc_urls=LOCAL, read_passphrase=never).account == key.account


@pytest.mark.parametrize(
    ("chain_id", "url"),
    [
        (1, "http://127.0.0.1:8545"),
        (31415, "http://10.0.0.7:8545"),
        (31415, "https://rpc.example.org/key"),
        (31415, "http://127.0.0.1.example.org:8545"),
        (31337, "http://user:localhost@example.org"),
    ],
)
def test_development_key_off_the_embedded_chain_is_refused(tmp_path: Path, chain_id: int, url: str) -> None:
    """A marked key is refused on any other chain and at any endpoint that isn't this machine."""
    path = tmp_path / "dev.json"
    save_keystore(path, derive_development_key(b"seed", 0), is_development=True)
    with pytest.raises(ConfigError, match="for development only"):
        load(path, chain_id=chain_id, urls=[*LOCAL, url])


@pytest.mark.parametrize("url", ["http://localhost:1", "http://127.8.8.8", "http://[::1]:8545"])
def test_development_chain_loopback_is_accepted(url: str) -> None:
    """Every spelling of this machine counts as loopback."""
    check_development_chain(31415, [url], "the key")


def test_development_keys_same_seed_are_the_same_and_all_differ() -> None:
    """Keys follow from seed and index alone, and no two of them are equal."""
    keys = [derive_development_key(seed, index).account for seed in (b"a", b"b") for index in range(20)]
    assert len(set(keys)) == 40
    assert keys[3] == derive_development_key(b"a", 3).account


def test_passphrase_environment_wins_over_file_and_prompt(tmp_path: Path) -> None:
    """STEELYARD_PASSPHRASE comes first, then the file (one line end cut), then the prompt."""
    path = tmp_path / "passphrase"
    path.write_text(" from file \n")
    both = {"STEELYARD_PASSPHRASE": "from env", "STEELYARD_PASSPHRASE_FILE": str(path)}
    assert passphrase_reader(both)("title") == "from env"
    assert passphrase_reader({"STEELYARD_PASSPHRASE_FILE": str(path)})("title") == " from file "
    assert passphrase_reader({}, lambda title: f"typed for {title}")("title") == "typed for title"


def test_passphrase_unreadable_file_is_one_clear_line(tmp_path: Path) -> None:
    """A passphrase file that isn't there is named in the error."""
    with pytest.raises(ConfigError, match="STEELYARD_PASSPHRASE_FILE: can't read"):
        passphrase_reader({"STEELYARD_PASSPHRASE_FILE": str(tmp_path / "none")})("title")


def test_passphrase_without_terminal_says_which_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can type, the error names the two environment variables instead of waiting for ever."""
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    with pytest.raises(ConfigError, match="STEELYARD_PASSPHRASE or STEELYARD_PASSPHRASE_FILE"):
        passphrase_reader({})("Passphrase for node.json")
