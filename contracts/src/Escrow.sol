// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Deposits} from "./Deposits.sol";
import {Domain} from "./Domain.sol";
import {Registry} from "./Registry.sol";
import {Yard} from "./Yard.sol";

/// @title Escrow: where gateways' deposits become everyone's pay.
/// @notice A gateway has one pooled deposit and signs cumulative vouchers per lane. Redeeming pays what a voucher adds to
/// its lane, split among provider, builder, data pot and protocol. What the deposit can't pay is drawn from the gateway's
/// stake; what that can't pay either stays owed, and no withdrawal happens while anything is owed.
/// @dev Nobody but the gateway's own signature, or the gateway itself after the announced delay, moves a deposit: the one
/// restricted function chooses who receives the protocol's share of *later* redemptions. The only calls out go to Yard and
/// Registry, both fixed; state is written before them, and the guard is there because the Registry asks its authority,
/// which its admin may replace.
/// Invariant: this contract's YARD = sum of deposits + sum of unswept balances (+ what strangers sent it unasked).
contract Escrow is AccessManaged, Deposits, Domain {
    using SafeERC20 for Yard;

    /// @notice A signed voucher: on this lane, `cumulative` nano are owed in all, for ever, for `count` calls up to `head`.
    struct Voucher {
        address gateway;
        address provider;
        bytes32 serviceId;
        uint64 laneId;
        uint128 cumulative;
        uint64 count;
        bytes32 head;
        bytes32 r; // EIP-2098 signature of the gateway over the fields above
        bytes32 vs;
    }

    /// @notice Why a voucher was skipped.
    enum Skip {
        None,
        BadSignature, // not signed by the gateway that it names
        BadProvider, // the provider is the zero address
        UnknownService, // no such service
        NoAccount, // nobody ever deposited for this gateway
        LowerTotal, // its total is below the lane's
        NothingDue, // all of its total was paid before
        TooHigh, // its total would overflow what the gateway can owe
        NoFunds // nothing new was owed, and nothing could be paid now
    }

    /// @dev One storage slot.
    struct Lane {
        uint128 accepted; // highest total redeemed, nano
        uint128 paid; // of which was paid, nano; the rest is owed
    }

    /// @dev Credits of consecutive vouchers for one service, held back until another service comes.
    struct Run {
        bytes32 serviceId;
        address builder;
        address dataPot;
        uint256 builderBps;
        uint256 dataBps;
        uint256 protocolBps;
        uint256 builderCredit;
        uint256 dataCredit;
        uint256 protocolCredit; // over the whole redemption
    }

    bytes32 private constant VOUCHER_TYPEHASH = keccak256(
        "Voucher(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint128 cumulative,uint64 count,bytes32 head)"
    );
    uint256 private constant WHOLE_BPS = 10_000;

    /// @notice Where services and gateways' stakes are.
    Registry public immutable registry;
    /// @notice Who is credited with the protocol's share.
    address public protocolPot;

    mapping(bytes32 lane => Lane) private _lanes;
    mapping(address account => uint256) private _unswept;

    /// @notice A lane was paid on for the first time; `lane` is keccak256(abi.encode(the four fields)).
    event LaneOpened(
        bytes32 indexed lane,
        address indexed gateway,
        address indexed provider,
        bytes32 serviceId,
        uint64 laneId
    );
    /// @notice A lane's total is now `cumulative`; `paid` nano were paid for it by this redemption, and split.
    event LaneRedeemed(bytes32 indexed lane, uint128 cumulative, uint128 paid, uint64 count, bytes32 head);
    /// @notice The voucher at `index` changed nothing.
    event VoucherSkipped(uint256 index, bytes32 indexed lane, Skip reason);
    /// @notice `amount` nano of what a lane was paid came from the gateway's stake.
    event StakeDrawn(address indexed gateway, bytes32 indexed lane, uint256 amount);
    /// @notice The redeemer says where the leaves of the heads it redeemed are: the sha256 digest of a blob.
    event CallsPublished(address indexed publisher, bytes32 indexed blob);
    /// @notice `amount` nano of unswept balance went to its owner's wallet.
    event Swept(address indexed account, uint256 amount);
    /// @notice The protocol's share of later redemptions is credited to `pot`.
    event ProtocolPotSet(address indexed pot);

    /// @notice The Registry is of another deployment: its token or its domain differs.
    error WrongRegistry(address registry);
    /// @notice A gateway's stake could leave before the vouchers that it stands for: seconds both.
    error StakeLeavesFirst(uint48 unbondDelay, uint48 withdrawDelay);

    /// @param token the Yard.
    /// @param registry_ the Registry.
    /// @param manager the AccessManager that says who may choose the protocol's pot.
    /// @param deploymentSalt random id of this deployment.
    /// @param delay seconds that a withdrawal waits, above zero.
    /// @param pot who is credited with the protocol's share.
    constructor(
        Yard token,
        Registry registry_,
        address manager,
        bytes32 deploymentSalt,
        uint48 delay,
        address pot
    ) AccessManaged(manager) Deposits(token, delay) Domain(deploymentSalt) {
        bool isOurs = address(registry_.yard()) == address(token) && registry_.domainSeparator() == domainSeparator();
        if (!isOurs) revert WrongRegistry(address(registry_));
        if (registry_.unbondDelay() <= delay) revert StakeLeavesFirst(registry_.unbondDelay(), delay);
        registry = registry_;
        _setProtocolPot(pot);
    }

    /// @notice Anyone (usually the provider): pays what each voucher adds to its lane, and what its lane is still owed.
    /// @dev A voucher that can't be honoured is skipped with an event and never reverts the others. Shares are floored per
    /// voucher on what is *paid*, and the rest is the provider's. Vouchers of one service side by side cost least.
    /// @param vouchers signed vouchers, of any gateways, providers and services.
    /// @param blob sha256 digest of the blob with the receipts behind the heads; zero: not published here.
    /// @return paid what was paid in all, in nano.
    function redeem(Voucher[] calldata vouchers, bytes32 blob) external nonReentrant returns (uint256 paid) {
        Run memory run;
        for (uint256 i = 0; i < vouchers.length; ++i) {
            Voucher calldata voucher = vouchers[i];
            bytes32 lane = _laneKey(voucher);
            (Skip reason, uint256 amount) = _settle(voucher, lane, run);
            if (reason != Skip.None) emit VoucherSkipped(i, lane, reason);
            else if (amount != 0) {
                paid += amount;
                _split(voucher.provider, amount, run);
            }
        }
        _flush(run);
        if (run.protocolCredit != 0) _unswept[protocolPot] += run.protocolCredit;
        if (blob != 0) emit CallsPublished(msg.sender, blob);
    }

    /// @notice Anyone: sends the unswept balances of `accounts` to those accounts' own wallets.
    /// @param accounts who is paid out; one with nothing is passed over.
    function sweep(address[] calldata accounts) external nonReentrant {
        for (uint256 i = 0; i < accounts.length; ++i) {
            address account = accounts[i];
            uint256 amount = _unswept[account];
            if (amount == 0 || account == address(this)) continue;
            _unswept[account] = 0;
            emit Swept(account, amount);
            yard.safeTransfer(account, amount);
        }
    }

    /// @notice Only the role that the manager set: chooses who receives the protocol's share of later redemptions.
    /// @dev Reaches no deposit and no balance credited before.
    function setProtocolPot(address pot) external restricted {
        _setProtocolPot(pot);
    }

    /// @notice Anyone: a lane's highest total and what of it was paid, both in nano; the difference is owed.
    function laneOf(bytes32 lane) external view returns (uint128 accepted, uint128 paid) {
        return (_lanes[lane].accepted, _lanes[lane].paid);
    }

    /// @notice Anyone: what an account was credited and has not been swept, in nano.
    function unsweptOf(address account) external view returns (uint256) {
        return _unswept[account];
    }

    /// @notice Anyone: the key of a lane.
    function laneKey(
        address gateway,
        address provider,
        bytes32 serviceId,
        uint64 laneId
    ) external pure returns (bytes32) {
        return keccak256(abi.encode(gateway, provider, serviceId, laneId));
    }

    /// @dev Moves what is due from the gateway to the lane; leaves the split to the caller.
    function _settle(
        Voucher calldata voucher,
        bytes32 lane,
        Run memory run
    ) private returns (Skip reason, uint256 amount) {
        if (!_isSigned(voucher)) return (Skip.BadSignature, 0);
        if (voucher.provider == address(0)) return (Skip.BadProvider, 0);
        Lane storage totals = _lanes[lane];
        (uint128 accepted, uint128 paid) = (totals.accepted, totals.paid);
        if (voucher.cumulative < accepted) return (Skip.LowerTotal, 0);
        if (voucher.cumulative == paid) return (Skip.NothingDue, 0);
        if (!_enter(voucher.serviceId, run)) return (Skip.UnknownService, 0);
        Account storage account = _accounts[voucher.gateway];
        (uint256 funds, uint256 owed, bool isOpen) = (account.deposit, account.owed, account.isOpen);
        if (!isOpen) return (Skip.NoAccount, 0);
        owed += voucher.cumulative - accepted;
        if (owed > type(uint128).max) return (Skip.TooHigh, 0);

        uint256 due = voucher.cumulative - paid;
        amount = due < funds ? due : funds;
        (totals.accepted, totals.paid) = (voucher.cumulative, paid + uint128(amount));
        (account.deposit, account.owed) = (uint120(funds - amount), uint128(owed - amount));
        if (amount < due) {
            uint128 drawn = _draw(voucher.gateway, lane, due - amount);
            totals.paid += drawn;
            account.owed -= drawn;
            amount += drawn;
            if (amount == 0 && voucher.cumulative == accepted) return (Skip.NoFunds, 0);
        }
        if (accepted == 0) {
            emit LaneOpened(lane, voucher.gateway, voucher.provider, voucher.serviceId, voucher.laneId);
        }
        emit LaneRedeemed(lane, voucher.cumulative, uint128(amount), voucher.count, voucher.head);
    }

    /// @dev What the gateway's stake gives; nothing where the Registry refuses, so that one refusal spoils no batch.
    function _draw(address gateway, bytes32 lane, uint256 amount) private returns (uint128 drawn) {
        try registry.drawStake(gateway, amount) returns (uint256 taken) {
            drawn = uint128(taken); // at most `amount`, which is part of a uint128
        } catch {}
        if (drawn != 0) emit StakeDrawn(gateway, lane, drawn);
    }

    /// @dev Makes `serviceId` the run's service; false where it is not registered.
    function _enter(bytes32 serviceId, Run memory run) private returns (bool) {
        if (run.serviceId != serviceId || run.builder == address(0)) {
            (address builder, address dataPot, uint256 builderBps, uint256 dataBps, uint256 protocolBps) =
                registry.payeesOf(serviceId);
            if (builder == address(0)) return false;
            _flush(run);
            (run.serviceId, run.builder, run.dataPot) = (serviceId, builder, dataPot);
            (run.builderBps, run.dataBps, run.protocolBps) = (builderBps, dataBps, protocolBps);
        }
        return true;
    }

    /// @dev Unchecked: amounts are paid in YARD that exists, below 2^208, and a service's shares sum to 10,000.
    function _split(address provider, uint256 amount, Run memory run) private {
        unchecked {
            uint256 toBuilder = (amount * run.builderBps) / WHOLE_BPS;
            uint256 toData = (amount * run.dataBps) / WHOLE_BPS;
            uint256 toProtocol = (amount * run.protocolBps) / WHOLE_BPS;
            run.builderCredit += toBuilder;
            run.dataCredit += toData;
            run.protocolCredit += toProtocol;
            _unswept[provider] += amount - toBuilder - toData - toProtocol;
        }
    }

    /// @dev Credits what the run held back for its builder and data pot.
    function _flush(Run memory run) private {
        if (run.builderCredit != 0) _unswept[run.builder] += run.builderCredit;
        if (run.dataCredit != 0) _unswept[run.dataPot] += run.dataCredit;
        (run.builderCredit, run.dataCredit) = (0, 0);
    }

    /// @dev Both hashes below copy the voucher's words as they came. One with dirty upper bits hashes to what no encoder
    /// signs, and is refused by the compiler's own checks as soon as a field of it is read.
    function _laneKey(Voucher calldata voucher) private pure returns (bytes32 lane) {
        assembly ("memory-safe") {
            let start := mload(0x40)
            calldatacopy(start, voucher, 0x80) // gateway, provider, serviceId, laneId
            lane := keccak256(start, 0x80)
        }
    }

    function _isSigned(Voucher calldata voucher) private view returns (bool) {
        bytes32 typeHash = VOUCHER_TYPEHASH;
        bytes32 structHash;
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, typeHash)
            calldatacopy(add(start, 0x20), voucher, 0xe0) // the seven signed fields, in EIP-712's order
            structHash := keccak256(start, 0x100)
        }
        (address signer, , ) = ECDSA.tryRecover(_digest(structHash), voucher.r, voucher.vs);
        return signer != address(0) && signer == voucher.gateway;
    }

    function _setProtocolPot(address pot) private {
        if (pot == address(0)) revert ZeroAddress();
        protocolPot = pot;
        emit ProtocolPotSet(pot);
    }
}
