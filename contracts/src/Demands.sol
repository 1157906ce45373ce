// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Hashes} from "@openzeppelin/contracts/utils/cryptography/Hashes.sol";
import {Faults} from "./Faults.sol";
import {Sanctions} from "./Sanctions.sol";

/// @title Demands: evidence that was not served is asked for here, where silence shows.
/// @notice A receipt commits to its evidence. For `keepSeconds` after a call its gateway, or whom that gateway allowed it,
/// demands it with a bond; the provider serves it here within `evidenceSeconds` and keeps the bond, or is slashed by
/// `slashBps`. What is served is public, for ever: so only the gateway, who knows whose call it was, lets a call be demanded.
/// @dev Evidence is cut into chunks of 1,024 bytes, the last one shorter; the receipt's `evidenceHash` is the Merkle root
/// over keccak256(index || chunk) of each. Law: docs/spec/messages.md, section 5; twin: steelyard.protocol.evidence.
abstract contract Demands is Faults {
    /// @notice How far a demand is.
    enum DemandState {
        None,
        Open,
        Served,
        Silent
    }

    /// @notice A demand for one receipt's evidence.
    struct Demand {
        address provider;
        uint48 until; // Unix seconds
        uint32 served; // chunks
        DemandState state;
        address demander;
        bytes32 evidenceHash;
        Sanctions.Harm harm; // what the call cost
    }

    bytes32 private constant CONSENT_TYPEHASH = keccak256("Consent(address demander,bytes32 receipt)");
    uint256 private constant CHUNK_BYTES = 1_024;

    /// @notice Seconds after a call in which its evidence may be demanded.
    uint48 public immutable keepSeconds;
    /// @notice Seconds that a provider has to serve it then.
    uint48 public immutable evidenceSeconds;

    mapping(bytes32 id => Demand) private _demands;

    /// @notice Evidence is demanded; it must be served until `until`, Unix seconds.
    event EvidenceDemanded(
        bytes32 indexed id,
        address indexed provider,
        bytes32 indexed receipt,
        bytes32 lane,
        bytes32 evidenceHash,
        address demander,
        uint48 until
    );
    /// @notice A provider served chunks `first`, `first + 1`, … of demanded evidence.
    event EvidenceServed(bytes32 indexed id, uint256 first, bytes[] chunks);
    /// @notice A demand ended: all was served, or the provider kept silent and is slashed.
    event DemandClosed(bytes32 indexed id, bool isServed);

    /// @notice The time for it begins at `readyAt`, Unix seconds.
    error TooEarly(uint48 readyAt);
    /// @notice The time for it ended at `until`, Unix seconds.
    error TooLate(uint48 until);
    /// @notice The receipt commits to no evidence.
    error NothingKept(bytes32 receipt);
    /// @notice The evidence was demanded before.
    error AlreadyDemanded(bytes32 id);
    /// @notice There is no such demand, or it ended.
    error NotDemanded(bytes32 id);
    /// @notice The chunks' hashes don't give the receipt's evidence hash.
    error WrongItems(bytes32 root);
    /// @notice Chunks are served in order, each once: `next` is due.
    error WrongPlace(uint256 next);
    /// @notice The chunk at `index` has the wrong length, or is not what its item says.
    error WrongChunk(uint256 index);

    constructor(uint48 keep, uint48 serve) {
        (keepSeconds, evidenceSeconds) = (keep, serve);
    }

    /// @notice Anyone with the bond (needs the Court's allowance) and the gateway's consent: demands a receipt's evidence.
    /// @param given the receipt, in its signed batch.
    /// @param r first word of the gateway's EIP-2098 signature over Consent(demander, receipt); any, if it calls itself.
    /// @param vs second word of it.
    /// @return id keccak256(abi.encode(provider, receipt's hash)).
    function demandEvidence(
        BatchedReceipt calldata given,
        bytes32 r,
        bytes32 vs
    ) external returns (bytes32 id) {
        Sanctions.Harm memory harm = _harmOf(given);
        bytes32 receipt = _receiptHash(given.receipt);
        if (given.receipt.evidenceHash == 0) revert NothingKept(receipt);
        uint256 keptUntil = given.receipt.finishedMs / 1_000 + keepSeconds;
        if (block.timestamp >= keptUntil) revert TooLate(uint48(keptUntil));
        if (msg.sender != given.batch.gateway) {
            _requireSigned(keccak256(abi.encode(CONSENT_TYPEHASH, msg.sender, receipt)), r, vs, given.batch.gateway);
        }
        address provider = given.batch.provider;
        id = keccak256(abi.encode(provider, receipt));
        if (_demands[id].state != DemandState.None) revert AlreadyDemanded(id);
        uint48 until = uint48(block.timestamp) + evidenceSeconds;
        bytes32 evidenceHash = given.receipt.evidenceHash;
        _demands[id] = Demand(provider, until, 0, DemandState.Open, msg.sender, evidenceHash, harm);
        emit EvidenceDemanded(id, provider, receipt, harm.lane, evidenceHash, msg.sender, until);
        court.beginDemand(id, provider, msg.sender);
    }

    /// @notice Anyone (usually the provider): serves the next chunks; with the last one the provider has the bond.
    /// @param items keccak256(index as a 32-byte word || chunk) of every chunk of the evidence, in order.
    /// @param first index of the first chunk that is served now, from 0.
    /// @param chunks of 1,024 bytes, the last of all shorter.
    function serveEvidence(
        bytes32 id,
        bytes32[] calldata items,
        uint256 first,
        bytes[] calldata chunks
    ) external {
        Demand storage demand = _open(id);
        if (block.timestamp >= demand.until) revert TooLate(demand.until);
        bytes32 root = _rootOf(items);
        if (root != demand.evidenceHash) revert WrongItems(root);
        uint256 next = first + chunks.length;
        if (first != demand.served || next > items.length) revert WrongPlace(demand.served);
        for (uint256 i = 0; i < chunks.length; ++i) {
            uint256 index = first + i;
            uint256 size = chunks[i].length;
            bool fits = index == items.length - 1 ? size != 0 && size <= CHUNK_BYTES : size == CHUNK_BYTES;
            if (!fits || keccak256(bytes.concat(bytes32(index), chunks[i])) != items[index]) revert WrongChunk(index);
        }
        demand.served = uint32(next);
        emit EvidenceServed(id, first, chunks);
        if (next != items.length) return;
        demand.state = DemandState.Served;
        emit DemandClosed(id, true);
        court.endDemand(id, demand.provider, demand.provider);
    }

    /// @notice Anyone: slashes a provider that let the time to serve pass; the demander has its bond back.
    function closeDemand(bytes32 id) external {
        Demand storage demand = _open(id);
        if (block.timestamp < demand.until) revert TooEarly(demand.until);
        demand.state = DemandState.Silent;
        Sanctions.Harm[] memory harms = new Sanctions.Harm[](1);
        harms[0] = demand.harm;
        emit DemandClosed(id, false);
        court.punish(id, demand.provider, PROVIDER, true, harms, demand.demander);
        court.endDemand(id, demand.provider, demand.demander);
    }

    /// @notice Anyone: a demand; its state is zero where there is none.
    function demandOf(bytes32 id) external view returns (Demand memory) {
        return _demands[id];
    }

    function _open(bytes32 id) private view returns (Demand storage demand) {
        demand = _demands[id];
        if (demand.state != DemandState.Open) revert NotDemanded(id);
    }

    /// @dev The root over items as steelyard.protocol.merkle builds it: leaves hashed twice, an odd node moves up.
    function _rootOf(bytes32[] calldata items) private pure returns (bytes32) {
        uint256 size = items.length;
        if (size == 0) return 0;
        bytes32[] memory level = new bytes32[](size);
        for (uint256 i = 0; i < size; ++i) level[i] = keccak256(bytes.concat(keccak256(bytes.concat(items[i]))));
        while (size > 1) {
            for (uint256 i = 0; i < size; i += 2) {
                level[i / 2] = i + 1 < size ? Hashes.commutativeKeccak256(level[i], level[i + 1]) : level[i];
            }
            size = (size + 1) / 2;
        }
        return level[0];
    }
}
