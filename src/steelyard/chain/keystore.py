"""Keystore files: accounts encrypted on disk, and development keys that never work elsewhere.

1. Files are Ethereum's V3 keystores, readable by any wallet; mode 0600, replaced atomically.
2. A passphrase comes from STEELYARD_PASSPHRASE, from the file that STEELYARD_PASSPHRASE_FILE names, or from a prompt.
3. A development key follows from a seed and an index; its file carries ``"steelyard": {"development": true}``, its
   passphrase is public, and it is refused unless the chain is an embedded development chain on this machine.
4. No key and no passphrase is ever printed, logged or put into a message.

Law: docs/spec/keys.md; Web3 Secret Storage, version 3. Encryption: eth-account (imported only when used: it takes 1 s).
"""

from __future__ import annotations

import getpass
import json
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from steelyard.errors import ConfigError
from steelyard.protocol.hashing import keccak, word
from steelyard.protocol.signing import SigningKey

STANDARD_SCRYPT_N = 2**18
DEVELOPMENT_SCRYPT_N = 2**10
DEVELOPMENT_PASSPHRASE = "development"  # noqa: S105  # public on purpose: a development key guards nothing
DEVELOPMENT_CHAIN_IDS = frozenset({31337, 31415})
MAX_KEYSTORE_BYTES = 64 * 1024
_VARIABLE, _FILE_VARIABLE = "STEELYARD_PASSPHRASE", "STEELYARD_PASSPHRASE_FILE"
_PURPOSE = b"steelyard/development-key/1"


@dataclass(frozen=True, slots=True)
class KeystoreInfo:
    """What a keystore file says without its passphrase."""

    path: Path
    account: bytes
    is_development: bool


def create_key(entropy: Callable[[int], bytes] = os.urandom) -> SigningKey:
    """Return a new random key (entropy: returns that many random bytes)."""
    while True:
        try:
            return SigningKey(entropy(32))
        except ValueError:  # outside the curve's order: once in 2^128 draws
            continue


def derive_development_key(seed: bytes, index: int) -> SigningKey:
    """Return the development key of an index: always the same for the same seed (any bytes)."""
    return SigningKey(keccak(_PURPOSE + keccak(seed) + word(index)))


def save_keystore(
    path: Path,
    key: SigningKey,
    passphrase: str = "",
    *,
    is_development: bool = False,
    scrypt_n: int | None = None,
) -> KeystoreInfo:
    """Write a key to a new keystore file.

    Args:
        path: must not exist; its folder is made, mode 0700. passphrase: ignored for a development key.
        is_development: mark it, and use the public passphrase. scrypt_n: cost; tests alone lower it.

    Raises:
        ConfigError: the file exists, the passphrase is empty, or the file can't be written.
    """
    if is_development:
        passphrase = DEVELOPMENT_PASSPHRASE
    elif not passphrase:
        raise ConfigError("a keystore needs a passphrase: set STEELYARD_PASSPHRASE or type one")
    from eth_account import Account  # takes 1 s to import

    cost = scrypt_n or (DEVELOPMENT_SCRYPT_N if is_development else STANDARD_SCRYPT_N)
    content: dict[str, Any] = dict(Account.encrypt(key.secret, passphrase, kdf="scrypt", iterations=cost))
    content["address"] = key.account.hex()
    if is_development:
        content["steelyard"] = {"development": True}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write_new(path, json.dumps(content, indent=1).encode())
    except FileExistsError:
        raise ConfigError(f"{path} exists already: choose another name, a key is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"can't write the keystore {path}: {error.strerror}") from error
    return KeystoreInfo(path, key.account, is_development)


def load_keystore_info(path: Path) -> KeystoreInfo:
    """Return a keystore's account and mark, without opening it; raises ConfigError."""
    content = _load_content(path)
    return KeystoreInfo(path, _account(content, path), _is_development(content, path))


def load_key(
    path: Path,
    *,
    chain_id: int,
    rpc_urls: Sequence[str],
    read_passphrase: Callable[[str], str],
    source: str = "",
) -> SigningKey:
    """Return the key of a keystore file, for use on one chain.

    Args:
        chain_id, rpc_urls: where it will sign; a development key is refused off the embedded chain.
        read_passphrase: given a title, returns the passphrase; not called for development keys.
        source: where it comes from if nobody types it (`passphrase_source`), to be named where it is wrong.

    Raises:
        ConfigError: no such file, not a V3 keystore, readable by others, a wrong passphrase, or a development key
            off a development chain.
    """
    content = _load_content(path)
    is_development = _is_development(content, path)
    if is_development:
        check_development_chain(chain_id, rpc_urls, f"the key {path}")
        passphrase = DEVELOPMENT_PASSPHRASE
    else:
        _check_mode(path)
        passphrase = read_passphrase(f"Passphrase for {path.name}")
    return decrypt_keystore(content, passphrase, path, source=source)


def decrypt_keystore(content: Mapping[str, Any], passphrase: str, path: Path, *, source: str = "") -> SigningKey:
    """Return the key in a keystore's content; raises ConfigError naming `path`, and `source`, in one line."""
    from eth_account import Account  # takes 1 s to import

    try:
        key = SigningKey(bytes(Account.decrypt(dict(content), passphrase)))
    except ValueError as error:
        if "MAC" in str(error):
            advice = f"{source} has another one: correct or unset it" if source else "try again"
            raise ConfigError(f"wrong passphrase for {path}: {advice}") from None
        raise ConfigError(f"{path} is no readable V3 keystore") from None
    except (KeyError, TypeError, NotImplementedError, OverflowError):
        raise ConfigError(f"{path} is no readable V3 keystore: a field is missing or malformed") from None
    if key.account != _account(content, path):
        raise ConfigError(f"{path} holds another account's key than the address it names")
    return key


def check_development_chain(chain_id: int, rpc_urls: Sequence[str], what: str) -> None:
    """Refuse what is for development alone unless the chain is a development chain on this machine.

    Raises:
        ConfigError: the chain id isn't 31415 (embedded) or 31337 (anvil), or an rpc url isn't loopback.
    """
    if chain_id not in DEVELOPMENT_CHAIN_IDS:
        raise ConfigError(
            f"{what} is for development only and chain {chain_id} is not: make one with steelyard wallet new"
        )
    for url in rpc_urls:
        if not _is_loopback(urlsplit(url).hostname):
            host = urlsplit(url).hostname
            raise ConfigError(f"{what} is for development only and the rpc at {host} is not on this machine")


def passphrase_reader(
    environment: Mapping[str, str], prompt: Callable[[str], str] | None = None
) -> Callable[[str], str]:
    """Return a reader of passphrases: from the environment, else from a file it names, else by prompt.

    Args:
        environment: usually os.environ; STEELYARD_PASSPHRASE, or STEELYARD_PASSPHRASE_FILE with a path.
        prompt: asks a person; None means the terminal's getpass, refused where there is no terminal.
    """

    def read(title: str) -> str:
        if _VARIABLE in environment:
            return environment[_VARIABLE]
        if _FILE_VARIABLE in environment:
            return _read_passphrase_file(Path(environment[_FILE_VARIABLE]))
        if prompt is not None:
            return prompt(title)
        if not sys.stdin.isatty():
            raise ConfigError(
                f"{title} is needed and there is no terminal: set STEELYARD_PASSPHRASE or STEELYARD_PASSPHRASE_FILE"
            )
        return getpass.getpass(f"{title}: ")

    return read


def passphrase_source(environment: Mapping[str, str]) -> str:
    """Return the variable from which `passphrase_reader` takes the passphrase; "" where a person is asked."""
    return next((name for name in (_VARIABLE, _FILE_VARIABLE) if name in environment), "")


def _read_passphrase_file(path: Path) -> str:
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        words = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"STEELYARD_PASSPHRASE_FILE: can't read {path}: {words}") from None
    return text.rstrip("\r\n")


def _load_content(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_KEYSTORE_BYTES + 1)
        content = json.loads(raw) if len(raw) <= MAX_KEYSTORE_BYTES else None
    except FileNotFoundError:
        raise ConfigError(f"there is no keystore at {path}: make one with steelyard wallet new") from None
    except OSError as error:
        raise ConfigError(f"can't read the keystore {path}: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is no V3 keystore: it isn't JSON") from None
    if not isinstance(content, dict) or content.get("version") != 3 or not ({"crypto", "Crypto"} & content.keys()):
        raise ConfigError(f"{path} is no V3 keystore")
    return content


def _account(content: Mapping[str, Any], path: Path) -> bytes:
    try:
        account = bytes.fromhex(str(content["address"]).removeprefix("0x"))
    except (KeyError, ValueError):
        account = b""
    if len(account) != 20:
        raise ConfigError(f"{path} names no address")
    return account


def _is_development(content: Mapping[str, Any], path: Path) -> bool:
    mark = content.get("steelyard", {})
    if not isinstance(mark, dict) or not isinstance(mark.get("development", False), bool):
        raise ConfigError(f'{path} has a malformed "steelyard" section')
    return bool(mark.get("development", False))


def _check_mode(path: Path) -> None:
    if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"{path} can be read by other users: run chmod 600 {path}")


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host or "").is_loopback
    except ValueError:
        return False


def _write_new(path: Path, content: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # mkstemp makes it mode 0600
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)  # unlike rename, refuses to replace a key
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)
