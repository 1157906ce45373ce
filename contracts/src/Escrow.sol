// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
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
contract Escrow is AccessManaged, ReentrancyGuardTransient, Domain {
    using SafeERC20 for Yard;
    using SafeCast for uint256;

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

    /// @dev The first slot is what a redemption touches.
    struct Account {
        uint120 deposit; // nano
        uint128 owed; // accepted and not paid, over all lanes, nano
        bool isOpen; // somebody deposited once
        uint120 withdrawAmount; // announced, nano; zero: none
        uint48 withdrawAt; // Unix seconds
    }

    /// @dev Credits of consecutive vouchers for one service, held back until another service comes.
    struct Run {
        bytes32 serviceId;
        Registry.Payees payees;
        uint256 builderCredit;
        uint256 dataCredit;
        uint256 protocolCredit; // over the whole redemption
    }

    bytes32 private constant VOUCHER_TYPEHASH = keccak256(
        "Voucher(address gateway,address provider,bytes32 serviceId,uint64 laneId,uint128 cumulative,uint64 count,bytes32 head)"
    );
    uint256 private constant WHOLE_BPS = 10_000;

    /// @notice The token that is paid.
    Yard public immutable yard;
    /// @notice Where services and gateways' stakes are.
    Registry public immutable registry;
    /// @notice Seconds between announcing a withdrawal and taking it: the time that providers have to redeem.
    uint48 public immutable withdrawDelay;
    /// @notice Who is credited with the protocol's share.
    address public protocolPot;

    mapping(address gateway => Account) private _accounts;
    mapping(bytes32 lane => Lane) private _lanes;
    mapping(address account => uint256) private _unswept;

    /// @notice `payer` added `amount` nano to a gateway's deposit.
    event Deposited(address indexed gateway, address indexed payer, uint256 amount);
    /// @notice The gateway may withdraw up to `amount` nano from `readyAt` on; replaces an earlier announcement.
    event WithdrawalAnnounced(address indexed gateway, uint256 amount, uint48 readyAt);
    /// @notice The gateway took its announcement back.
    event WithdrawalCancelled(address indexed gateway);
    /// @notice `amount` nano left the deposit for the gateway's wallet.
    event Withdrawn(address indexed gateway, uint256 amount);
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

    error ZeroDelay();
    error ZeroAddress();
    error ZeroAmount();
    error InsufficientDeposit(uint256 deposit, uint256 wanted);
    error NothingAnnounced();
    error StillWaiting(uint48 readyAt);
    error StillOwing(uint256 owed);

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
    ) AccessManaged(manager) Domain(deploymentSalt) {
        if (address(token) == address(0) || address(registry_) == address(0)) revert ZeroAddress();
        if (delay == 0) revert ZeroDelay();
        yard = token;
        registry = registry_;
        withdrawDelay = delay;
        _setProtocolPot(pot);
    }

    /// @notice Anyone: adds `amount` nano of the caller's YARD to a gateway's deposit; needs an allowance.
    /// @param gateway whose deposit grows; only it can withdraw.
    /// @param amount in nano, above zero.
    function deposit(address gateway, uint256 amount) external nonReentrant {
        _deposit(gateway, amount);
    }

    /// @notice Anyone: the same, with the caller's EIP-2612 permit instead of an allowance.
    /// @dev A permit that someone submitted before us is no failure while the allowance is there.
    /// @param deadline Unix time in seconds until which the permit holds.
    function depositWithPermit(
        address gateway,
        uint256 amount,
        uint256 deadline,
        uint8 v,
        bytes32 r,
        bytes32 s
    ) external nonReentrant {
        try yard.permit(msg.sender, address(this), amount, deadline, v, r, s) {} catch {}
        _deposit(gateway, amount);
    }

    /// @notice The gateway: announces that it will withdraw up to `amount` nano, once `withdrawDelay` is over.
    /// @dev Vouchers are paid from the whole deposit until the withdrawal happens. A new announcement replaces the old one
    /// and waits anew.
    /// @param amount in nano, above zero, at most the deposit.
    function announceWithdrawal(uint256 amount) external {
        Account storage account = _accounts[msg.sender];
        if (amount == 0) revert ZeroAmount();
        if (amount > account.deposit) revert InsufficientDeposit(account.deposit, amount);
        uint48 readyAt = uint48(block.timestamp) + withdrawDelay;
        account.withdrawAmount = uint120(amount);
        account.withdrawAt = readyAt;
        emit WithdrawalAnnounced(msg.sender, amount, readyAt);
    }

    /// @notice The gateway: takes its announcement back.
    function cancelWithdrawal() external {
        Account storage account = _accounts[msg.sender];
        if (account.withdrawAmount == 0) revert NothingAnnounced();
        (account.withdrawAmount, account.withdrawAt) = (0, 0);
        emit WithdrawalCancelled(msg.sender);
    }

    /// @notice The gateway: takes what it announced, or what vouchers left of it, after the delay, while it owes nothing.
    function withdraw() external nonReentrant {
        Account storage account = _accounts[msg.sender];
        uint120 amount = account.withdrawAmount;
        if (amount == 0) revert NothingAnnounced();
        if (block.timestamp < account.withdrawAt) revert StillWaiting(account.withdrawAt);
        if (account.owed != 0) revert StillOwing(account.owed);
        if (amount > account.deposit) amount = account.deposit;
        account.deposit -= amount;
        (account.withdrawAmount, account.withdrawAt) = (0, 0);
        emit Withdrawn(msg.sender, amount);
        yard.safeTransfer(msg.sender, amount);
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
            bytes32 lane = laneKey(voucher.gateway, voucher.provider, voucher.serviceId, voucher.laneId);
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

    /// @notice Anyone: a gateway's deposit and debt, and its announced withdrawal (nano, Unix seconds; zero: none).
    function accountOf(
        address gateway
    ) external view returns (uint256 deposit_, uint256 owed, uint256 withdrawAmount, uint48 withdrawAt) {
        Account storage account = _accounts[gateway];
        return (account.deposit, account.owed, account.withdrawAmount, account.withdrawAt);
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
    ) public pure returns (bytes32) {
        return keccak256(abi.encode(gateway, provider, serviceId, laneId));
    }

    function _deposit(address gateway, uint256 amount) private {
        if (gateway == address(0)) revert ZeroAddress();
        if (amount == 0) revert ZeroAmount();
        Account storage account = _accounts[gateway];
        account.deposit = (account.deposit + amount).toUint120();
        account.isOpen = true;
        emit Deposited(gateway, msg.sender, amount);
        yard.safeTransferFrom(msg.sender, address(this), amount);
    }

    /// @dev Moves what is due from the gateway to the lane; leaves the split to the caller.
    function _settle(
        Voucher calldata voucher,
        bytes32 lane,
        Run memory run
    ) private returns (Skip reason, uint256 amount) {
        if (!_isSigned(voucher)) return (Skip.BadSignature, 0);
        if (voucher.provider == address(0)) return (Skip.BadProvider, 0);
        if (!_enter(voucher.serviceId, run)) return (Skip.UnknownService, 0);
        Account storage account = _accounts[voucher.gateway];
        (uint256 funds, uint256 owed, bool isOpen) = (account.deposit, account.owed, account.isOpen);
        if (!isOpen) return (Skip.NoAccount, 0);
        (uint128 accepted, uint128 paid) = (_lanes[lane].accepted, _lanes[lane].paid);
        if (voucher.cumulative < accepted) return (Skip.LowerTotal, 0);
        if (voucher.cumulative == paid) return (Skip.NothingDue, 0);
        owed += voucher.cumulative - accepted;
        if (owed > type(uint128).max) return (Skip.TooHigh, 0);

        uint256 due = voucher.cumulative - paid;
        amount = due < funds ? due : funds;
        _lanes[lane] = Lane(voucher.cumulative, paid + uint128(amount));
        (account.deposit, account.owed) = (uint120(funds - amount), uint128(owed - amount));
        if (amount < due) {
            uint128 drawn = _draw(voucher.gateway, lane, due - amount);
            _lanes[lane].paid += drawn;
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
        if (run.serviceId != serviceId || run.payees.builder == address(0)) {
            Registry.Payees memory payees = registry.payeesOf(serviceId);
            if (payees.builder == address(0)) return false;
            _flush(run);
            (run.serviceId, run.payees) = (serviceId, payees);
        }
        return true;
    }

    function _split(address provider, uint256 amount, Run memory run) private {
        Registry.Payees memory payees = run.payees;
        uint256 toBuilder = (amount * payees.builderBps) / WHOLE_BPS;
        uint256 toData = (amount * payees.dataBps) / WHOLE_BPS;
        uint256 toProtocol = (amount * payees.protocolBps) / WHOLE_BPS;
        run.builderCredit += toBuilder;
        run.dataCredit += toData;
        run.protocolCredit += toProtocol;
        _unswept[provider] += amount - toBuilder - toData - toProtocol;
    }

    /// @dev Credits what the run held back for its builder and data pot.
    function _flush(Run memory run) private {
        if (run.builderCredit != 0) _unswept[run.payees.builder] += run.builderCredit;
        if (run.dataCredit != 0) _unswept[run.payees.dataPot] += run.dataCredit;
        (run.builderCredit, run.dataCredit) = (0, 0);
    }

    function _isSigned(Voucher calldata voucher) private view returns (bool) {
        bytes32 structHash = keccak256(
            abi.encode(
                VOUCHER_TYPEHASH,
                voucher.gateway,
                voucher.provider,
                voucher.serviceId,
                voucher.laneId,
                voucher.cumulative,
                voucher.count,
                voucher.head
            )
        );
        (address signer, , ) = ECDSA.tryRecover(_digest(structHash), voucher.r, voucher.vs);
        return signer != address(0) && signer == voucher.gateway;
    }

    function _setProtocolPot(address pot) private {
        if (pot == address(0)) revert ZeroAddress();
        protocolPot = pot;
        emit ProtocolPotSet(pot);
    }
}
