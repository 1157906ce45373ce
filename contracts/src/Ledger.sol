// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";

/// @title Ledger: the append-only record of roots.
/// @notice Per epoch and kind, anyone posts under its own name the Merkle root of what it recorded, with the CID of the
/// blob that holds the leaves. What was posted once stays; nobody owns this contract and it holds no money.
/// @dev A leaf is `keccak256(keccak256(item))` and inner nodes hash the sorted pair: OpenZeppelin's MerkleProof. The leaf
/// is computed here from the item, so an inner node can never be passed off as one. Law: docs/spec/contracts.md.
contract Ledger {
    /// @notice One posted root.
    /// @param root Merkle root over the epoch's items.
    /// @param cid sha256 digest of the blob that holds the leaves.
    /// @param count how many items the tree has.
    /// @param postedAt Unix time of the posting, in seconds.
    struct Root {
        bytes32 root;
        bytes32 cid;
        uint64 count;
        uint48 postedAt;
    }

    /// @notice The length of an epoch, in seconds; epoch `n` spans `[n * epochSeconds, (n + 1) * epochSeconds)` of Unix time.
    uint64 public immutable epochSeconds;

    mapping(address publisher => mapping(bytes32 kind => mapping(uint64 epoch => Root))) private _roots;

    /// @notice A root was posted.
    event Posted(
        address indexed publisher,
        bytes32 indexed kind,
        uint64 indexed epoch,
        bytes32 root,
        bytes32 cid,
        uint64 count
    );

    /// @notice An epoch lasts at least a second.
    error ZeroEpochLength();
    /// @notice A root or a count of zero records nothing.
    error EmptyRoot();
    /// @notice The epoch has not begun; the running one is `current`.
    error FutureEpoch(uint64 epoch, uint64 current);
    /// @notice The publisher posted this kind for this epoch before.
    error AlreadyPosted(address publisher, bytes32 kind, uint64 epoch);

    /// @param epochLength length of an epoch in seconds, above zero.
    constructor(uint64 epochLength) {
        if (epochLength == 0) revert ZeroEpochLength();
        epochSeconds = epochLength;
    }

    /// @notice Anyone, under its own name: posts the root of one epoch, once.
    /// @dev The running epoch may be posted, one that has not begun may not.
    /// @param kind what the tree is over, e.g. `keccak256("verdicts")`.
    /// @param epoch number of the epoch.
    /// @param root Merkle root, not zero.
    /// @param cid sha256 digest of the blob that holds the leaves.
    /// @param count how many items the tree has, above zero.
    function post(bytes32 kind, uint64 epoch, bytes32 root, bytes32 cid, uint64 count) external {
        if (root == 0 || count == 0) revert EmptyRoot();
        uint64 current = epochAt(uint48(block.timestamp));
        if (epoch > current) revert FutureEpoch(epoch, current);
        Root storage entry = _roots[msg.sender][kind][epoch];
        if (entry.root != 0) revert AlreadyPosted(msg.sender, kind, epoch);
        (entry.root, entry.cid, entry.count, entry.postedAt) = (root, cid, count, uint48(block.timestamp));
        emit Posted(msg.sender, kind, epoch, root, cid, count);
    }

    /// @notice Anyone: the root that `publisher` posted; all zero where there is none.
    function rootOf(address publisher, bytes32 kind, uint64 epoch) external view returns (Root memory) {
        return _roots[publisher][kind][epoch];
    }

    /// @notice Anyone: whether `item` is in the tree that `publisher` posted; false where none was posted.
    /// @param item the 32-byte item itself (e.g. a receipt hash), not its leaf.
    /// @param proof sibling hashes from the leaf up.
    function included(
        address publisher,
        bytes32 kind,
        uint64 epoch,
        bytes32 item,
        bytes32[] calldata proof
    ) external view returns (bool) {
        bytes32 root = _roots[publisher][kind][epoch].root;
        bytes32 leaf = keccak256(bytes.concat(keccak256(bytes.concat(item))));
        return root != 0 && MerkleProof.verifyCalldata(proof, root, leaf);
    }

    /// @notice Anyone: the epoch that Unix time `t` (seconds) falls in.
    function epochAt(uint48 t) public view returns (uint64) {
        return uint64(t) / epochSeconds;
    }
}
