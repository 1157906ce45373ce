// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {Domain} from "./Domain.sol";
import {Escrow} from "./Escrow.sol";
import {Sanctions} from "./Sanctions.sol";

/// @title Bench: what Proofs asks of the Court, which alone holds stakes, slashes and keeps bonds.
interface Bench {
    /// @notice Only the Proofs contract: holds a provider's stake and takes the demander's bond.
    function beginDemand(bytes32 id, address provider, address demander) external;

    /// @notice Only the Proofs contract: gives the bond to `to`, and frees the stake unless something else holds it.
    function endDemand(bytes32 id, address provider, address to) external;

    /// @notice Only the Proofs contract: slashes the share for silence, or for a lie, and divides it.
    function punish(
        bytes32 matter,
        address account,
        uint8 role,
        bool isSilence,
        Sanctions.Harm[] calldata harms,
        address informer
    ) external;
}

/// @title Faults: lies that need no panel, since the liar signed both halves of the contradiction.
/// @notice Two receipts for one order and part; two batches of a lane that can't follow each other; two vouchers of a lane
/// that can't both be true. Each is slashed once, at once, by `faultBps`. Nothing here reads anything but signatures.
/// @dev An honest provider keeps a batch before it sends it, and an honest gateway a voucher: neither signs twice.
abstract contract Faults is Domain {
    /// @notice A provider's signed batch of receipts; its digest is its lane's new head.
    struct Batch {
        address gateway;
        address provider;
        bytes32 serviceId;
        uint64 laneId;
        uint64 seq;
        bytes32 prevHead;
        bytes32 receiptsRoot;
        uint32 count;
        uint128 cumulative; // nano, the lane's
        bytes32 r; // EIP-2098 signature of the provider over the fields above
        bytes32 vs;
    }

    /// @notice What a provider says it did for an order; it counts once it stands in a signed batch.
    struct Receipt {
        bytes32 orderHash;
        uint32 part;
        bytes32 responseHash;
        bytes32 evidenceHash;
        uint64 unitsIn;
        uint64 unitsOut;
        uint128 cost; // nano
        uint64 startedMs; // Unix milliseconds
        uint64 finishedMs;
        uint8 finishReason;
    }

    /// @notice A receipt, the batch that it stands in, and the siblings that lead there.
    struct BatchedReceipt {
        Batch batch;
        Receipt receipt;
        bytes32[] proof;
    }

    /// @notice What was proven.
    enum Fault {
        TwoReceipts,
        TwoBatches,
        TwoVouchers
    }

    uint8 internal constant PROVIDER = 1;
    uint8 internal constant GATEWAY = 2;
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "Batch(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint64 seq,bytes32 prevHead,bytes32 receiptsRoot,uint32 count,uint128 cumulative)"
    );
    bytes32 private constant RECEIPT_TYPEHASH = keccak256(
        "Receipt(bytes32 orderHash,uint32 part,bytes32 responseHash,bytes32 evidenceHash,uint64 unitsIn,uint64 unitsOut,uint128 cost,uint64 startedMs,uint64 finishedMs,uint8 finishReason)"
    );
    bytes32 private constant VOUCHER_TYPEHASH = keccak256(
        "Voucher(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint128 cumulative,uint64 count,bytes32 head)"
    );

    /// @notice The court, which made this contract.
    Bench public immutable court;
    /// @notice Where the lanes are.
    Escrow public immutable escrow;

    /// @notice Anyone: whether a fault was proven before; its id is keccak256(abi.encode(fault, liar, what)), where `what` is
    /// keccak256(abi.encode(orderHash, part)) for receipts, else the lane's key.
    mapping(bytes32 id => bool) public isProven;

    /// @notice A lie was proven by `informer`, and slashed.
    event FaultProven(bytes32 indexed id, address indexed liar, Fault fault, bytes32 what, address informer);

    /// @notice Not signed by the account that it names, for this deployment.
    error NotSignedBy(address signer);
    /// @notice The receipt does not stand in the batch.
    error NotInBatch(bytes32 receipt);
    /// @notice The two don't contradict each other.
    error NoContradiction();
    /// @notice This lie was proven before.
    error AlreadyProven(bytes32 id);

    constructor(Escrow escrow_) {
        (court, escrow) = (Bench(msg.sender), escrow_);
    }

    /// @notice Anyone: proves that a provider signed two different receipts for one order and part. The gateways get back
    /// what the two cost, as far as it was paid.
    function proveTwoReceipts(BatchedReceipt calldata a, BatchedReceipt calldata b) external {
        (Sanctions.Harm memory one, Sanctions.Harm memory other) = (_harmOf(a), _harmOf(b));
        bool isSameOrder = a.receipt.orderHash == b.receipt.orderHash && a.receipt.part == b.receipt.part;
        bool isTwice = isSameOrder && _receiptHash(a.receipt) != _receiptHash(b.receipt);
        if (!isTwice || a.batch.provider != b.batch.provider) revert NoContradiction();
        bool isOneLane = one.lane == other.lane;
        Sanctions.Harm[] memory harms = new Sanctions.Harm[](isOneLane ? 1 : 2);
        harms[0] = one;
        if (isOneLane) harms[0].amount = _uint96(uint256(one.amount) + other.amount);
        else harms[1] = other;
        bytes32 what = keccak256(abi.encode(a.receipt.orderHash, a.receipt.part));
        _prove(Fault.TwoReceipts, a.batch.provider, PROVIDER, what, harms);
    }

    /// @notice Anyone: proves that a provider signed two batches of one lane that can't both be: under one number, or the
    /// later one with another previous head or a lower total.
    /// @param a the earlier batch, or any of two with one number.
    /// @param b the other.
    function proveTwoBatches(Batch calldata a, Batch calldata b) external {
        (bytes32 headA, bytes32 headB) = (_headOf(a), _headOf(b));
        bytes32 lane = _laneOf(a);
        bool isContradiction = a.seq == b.seq
            ? headA != headB
            : a.seq < b.seq && ((b.seq - a.seq == 1 && b.prevHead != headA) || b.cumulative < a.cumulative);
        if (lane != _laneOf(b) || !isContradiction) revert NoContradiction();
        _prove(Fault.TwoBatches, a.provider, PROVIDER, lane, new Sanctions.Harm[](0));
    }

    /// @notice Anyone: proves that a gateway signed two vouchers of one lane that can't both be: one count or one head with
    /// two meanings, or more calls for a lower total.
    /// @param a the one with fewer calls, or any of the two.
    /// @param b the other.
    function proveTwoVouchers(Escrow.Voucher calldata a, Escrow.Voucher calldata b) external {
        _requireSigned(_voucherHash(a), a.r, a.vs, a.gateway);
        _requireSigned(_voucherHash(b), b.r, b.vs, b.gateway);
        bytes32 lane = escrow.laneKey(a.gateway, a.provider, a.serviceId, a.laneId);
        bool isOneLane = lane == escrow.laneKey(b.gateway, b.provider, b.serviceId, b.laneId);
        bool isSame = a.count == b.count && a.head == b.head && a.cumulative == b.cumulative;
        bool isOnePoint = a.count == b.count || a.head == b.head;
        bool isLower = a.count < b.count && a.cumulative > b.cumulative;
        if (!isOneLane || isSame || !(isOnePoint || isLower)) revert NoContradiction();
        _prove(Fault.TwoVouchers, a.gateway, GATEWAY, lane, new Sanctions.Harm[](0));
    }

    function _prove(Fault fault, address liar, uint8 role, bytes32 what, Sanctions.Harm[] memory harms) private {
        bytes32 id = keccak256(abi.encode(fault, liar, what));
        if (isProven[id]) revert AlreadyProven(id);
        isProven[id] = true;
        emit FaultProven(id, liar, fault, what, msg.sender);
        court.punish(id, liar, role, false, harms, msg.sender);
    }

    /// @dev What a signed and batched receipt cost its gateway.
    function _harmOf(BatchedReceipt calldata given) internal view returns (Sanctions.Harm memory) {
        _headOf(given.batch);
        bytes32 receipt = _receiptHash(given.receipt);
        bytes32 leaf = keccak256(bytes.concat(keccak256(bytes.concat(receipt))));
        if (!MerkleProof.verifyCalldata(given.proof, given.batch.receiptsRoot, leaf)) revert NotInBatch(receipt);
        return Sanctions.Harm(_laneOf(given.batch), given.batch.gateway, _uint96(given.receipt.cost));
    }

    function _receiptHash(Receipt calldata receipt) internal pure returns (bytes32) {
        return keccak256(abi.encode(RECEIPT_TYPEHASH, receipt));
    }

    function _requireSigned(bytes32 structHash, bytes32 r, bytes32 vs, address signer) internal view {
        (address found, , ) = ECDSA.tryRecover(_digest(structHash), r, vs);
        if (found == address(0) || found != signer) revert NotSignedBy(signer);
    }

    /// @dev The head that a batch signed by its provider makes.
    function _headOf(Batch calldata batch) private view returns (bytes32) {
        bytes32 structHash = keccak256(
            abi.encode(
                BATCH_TYPEHASH,
                batch.gateway,
                batch.provider,
                batch.serviceId,
                batch.laneId,
                batch.seq,
                batch.prevHead,
                batch.receiptsRoot,
                batch.count,
                batch.cumulative
            )
        );
        _requireSigned(structHash, batch.r, batch.vs, batch.provider);
        return _digest(structHash);
    }

    function _laneOf(Batch calldata batch) private view returns (bytes32) {
        return escrow.laneKey(batch.gateway, batch.provider, batch.serviceId, batch.laneId);
    }

    function _voucherHash(Escrow.Voucher calldata v) private pure returns (bytes32) {
        return keccak256(
            abi.encode(VOUCHER_TYPEHASH, v.gateway, v.provider, v.serviceId, v.laneId, v.cumulative, v.count, v.head)
        );
    }

    function _uint96(uint256 amount) private pure returns (uint96) {
        return amount < type(uint96).max ? uint96(amount) : type(uint96).max;
    }
}
