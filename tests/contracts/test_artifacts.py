"""The committed artefacts are what the sources give, built for Prague, documented, and small enough to deploy."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any, get_args

import pytest

from steelyard.chain.artifacts import ContractName, load_artifact
from steelyard.protocol.hashing import keccak

ROOT = Path(__file__).parents[2]
CONTRACTS = ROOT / "contracts"
COMMITTED = ROOT / "src/steelyard/chain/artifacts"
NAMES: tuple[ContractName, ...] = get_args(ContractName)
PARTS: dict[ContractName, tuple[str, ...]] = {
    "Yard": ("Yard",),
    "Registry": ("Registry", "Stakes", "Domain"),
    "Escrow": ("Escrow", "Deposits", "Domain"),
    "Ledger": ("Ledger",),
    "Court": ("Court", "Cases", "Panels", "Secrets", "Sanctions", "Domain"),
    "Proofs": ("Proofs", "Demands", "Faults", "Domain"),
    "Rewards": ("Rewards",),
    "UptoProxy": ("UptoProxy",),
}
OURS = list(PARTS)
MAX_CODE_BYTES = 24_576  # EIP-170
# Documented by OpenZeppelin in its own words, for developers rather than users.
INHERITED = {"authority", "setAuthority", "isConsumingScheduledOp"}


@pytest.mark.timeout(300)
def test_artifacts_rebuilt_by_npm_solc_are_the_same_bytes(tmp_path: Path) -> None:
    """Where Node.js is, the sources are compiled anew and give exactly what is committed."""
    node = shutil.which("node")
    if node is None or not (CONTRACTS / "node_modules/solc").is_dir():
        pytest.skip("Node.js or solc is missing: run `npm ci` in contracts/")
    subprocess.run([node, "build.mjs", "--out", str(tmp_path)], cwd=CONTRACTS, check=True, timeout=280)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert built == {path.name: path.read_bytes() for path in COMMITTED.glob("*.json")}
    assert set(built) == {f"{name}.json" for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_artifact_metadata_names_prague_and_the_optimizer(name: ContractName) -> None:
    """The EVM version is read from the compiler's own metadata, not from what we wrote beside it."""
    settings = json.loads(load_artifact(name).metadata)["settings"]
    assert settings["evmVersion"] == "prague"
    assert settings["optimizer"] == {"enabled": True, "runs": 10_000}
    assert settings["viaIR"] is True


@pytest.mark.parametrize("name", NAMES)
def test_artifact_metadata_is_what_the_bytecode_commits_to(name: ContractName) -> None:
    """The code ends in the IPFS hash of its metadata, so the metadata can't be swapped."""
    artifact = load_artifact(name)
    raw = json.loads((COMMITTED / f"{name}.json").read_text())
    assert raw["metadataSha256"] == sha256(artifact.metadata.encode()).hexdigest()
    assert b"\x64ipfs\x58\x22" + ipfs_multihash(artifact.metadata.encode()) in artifact.deployed_bytecode[-60:]
    assert artifact.compiler.startswith(json.loads(artifact.metadata)["compiler"]["version"])


@pytest.mark.parametrize("name", NAMES)
def test_artifact_metadata_names_the_sources_of_today(name: ContractName) -> None:
    """Each source of ours has the hash that the metadata was made with, so an edit without a build is found."""
    for path, source in json.loads(load_artifact(name).metadata)["sources"].items():
        if path.startswith("src/"):
            assert source["keccak256"] == f"0x{keccak((CONTRACTS / path).read_bytes()).hex()}", f"{path}: build anew"


@pytest.mark.parametrize("name", NAMES)
def test_artifact_code_fits_the_limit(name: ContractName) -> None:
    """No contract is too large to deploy."""
    assert 0 < len(load_artifact(name).deployed_bytecode) <= MAX_CODE_BYTES


@pytest.mark.parametrize("name", OURS)
def test_contract_documents_all_that_is_its_own(name: ContractName) -> None:
    """Every function says what it does and who may call it; every event and error what it means."""
    artifact = load_artifact(name)
    notices = json.loads(artifact.metadata)["output"]["userdoc"]
    sources = "".join((CONTRACTS / f"src/{part}.sol").read_text() for part in PARTS[name])
    for kind, section in (("function", "methods"), ("event", "events"), ("error", "errors")):
        known = {signature.split("(")[0] for signature, doc in notices.get(section, {}).items() if has_notice(doc)}
        declared = {entry["name"] for entry in artifact.abi if entry["type"] == kind} - INHERITED
        ours = {
            one for one in declared if re.search(rf"\b(function|event|error) {one}\(|public( \w+)* {one}\b", sources)
        }
        assert ours <= known, f"{name}: {sorted(ours - known)} lack a @notice"


@pytest.mark.parametrize("name", OURS)
def test_contract_functions_name_their_caller_first(name: ContractName) -> None:
    """A function's notice begins with who may call it."""
    metadata = json.loads(load_artifact(name).metadata)
    callers = r"(Anyone|Only the|The staker|The gateway|An active gateway)\b"
    views_of_state = {entry["name"] for entry in load_artifact(name).abi if entry.get("stateMutability") == "view"}
    for signature, doc in metadata["output"]["userdoc"]["methods"].items():
        if signature.split("(")[0] not in views_of_state:
            assert re.match(callers, doc.get("notice", "")), f"{name}.{signature}: {doc}"


def test_lockfile_names_no_registry() -> None:
    """The lock pins by hash alone: whoever installs uses its own mirror."""
    lock = (CONTRACTS / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    assert "registry." not in lock
    packages: dict[str, Any] = json.loads(lock)["packages"]
    assert all("integrity" in package for path, package in packages.items() if path)


def test_lockfile_holds_everything_that_it_names() -> None:
    """`npm ci` refuses a lock that lacks a package which another names, be it optional and for another machine."""
    packages: dict[str, Any] = json.loads((CONTRACTS / "package-lock.json").read_text())["packages"]
    manifest: dict[str, Any] = json.loads((CONTRACTS / "package.json").read_text())
    for section in ("devDependencies", "optionalDependencies"):
        assert packages[""][section] == manifest[section]
    for path, package in packages.items():
        for section in ("dependencies", "devDependencies", "optionalDependencies"):
            missing = [name for name in package.get(section, {}) if f"node_modules/{name}" not in packages]
            assert not missing, f"{path or 'package.json'} names {missing}"


def test_load_artifact_unknown_name_refused() -> None:
    """There is nothing to load under another name."""
    with pytest.raises(FileNotFoundError):
        load_artifact("Treasury")  # type: ignore[arg-type]


def has_notice(doc: Any) -> bool:
    """Errors carry a list of documents, functions and events one."""
    return all("notice" in part for part in doc) if isinstance(doc, list) else "notice" in doc


def ipfs_multihash(data: bytes) -> bytes:
    """Return the multihash that IPFS gives a file below 256 KiB: a UnixFS leaf in one protobuf node."""
    size = varint(len(data))
    leaf = b"\x08\x02\x12" + size + data + b"\x18" + size
    return b"\x12\x20" + sha256(b"\x0a" + varint(len(leaf)) + leaf).digest()


def varint(value: int) -> bytes:
    """Return protobuf's variable-length integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))
