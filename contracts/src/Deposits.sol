// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Yard} from "./Yard.sol";

/// @title Deposits: the Escrow's side that faces gateways.
/// @notice A gateway has one deposit, which anyone may add to. To take it out the gateway announces it and waits
/// `withdrawDelay`, the time that providers have to redeem; while it owes anything it can't.
/// @dev Whatever providers redeem before the withdrawal *happens* is paid first; the announcement reserves nothing.
abstract contract Deposits is ReentrancyGuardTransient {
    using SafeERC20 for Yard;
    using SafeCast for uint256;

    /// @dev The first slot is what a redemption touches.
    struct Account {
        uint120 deposit; // nano
        uint128 owed; // accepted and not paid, over all lanes, nano
        bool isOpen; // somebody deposited once
        uint120 withdrawAmount; // announced, nano; zero: none
        uint48 withdrawAt; // Unix seconds
    }

    /// @notice The token that is paid.
    Yard public immutable yard;
    /// @notice Seconds between announcing a withdrawal and taking it: the time that providers have to redeem.
    uint48 public immutable withdrawDelay;

    mapping(address gateway => Account) internal _accounts;

    /// @notice `payer` added `amount` nano to a gateway's deposit.
    event Deposited(address indexed gateway, address indexed payer, uint256 amount);
    /// @notice The gateway may withdraw up to `amount` nano from `readyAt` on; replaces an earlier announcement.
    event WithdrawalAnnounced(address indexed gateway, uint256 amount, uint48 readyAt);
    /// @notice The gateway took its announcement back.
    event WithdrawalCancelled(address indexed gateway);
    /// @notice `amount` nano left the deposit for the gateway's wallet.
    event Withdrawn(address indexed gateway, uint256 amount);

    /// @notice A delay of zero would leave providers no time.
    error ZeroDelay();
    /// @notice An address that must be one is zero.
    error ZeroAddress();
    /// @notice An amount that must be above zero is zero.
    error ZeroAmount();
    /// @notice More was announced than the deposit holds, both in nano.
    error InsufficientDeposit(uint256 deposit, uint256 wanted);
    /// @notice No withdrawal is announced.
    error NothingAnnounced();
    /// @notice The delay runs until `readyAt`, Unix seconds.
    error StillWaiting(uint48 readyAt);
    /// @notice The gateway owes `owed` nano on its lanes; see `redeem`.
    error StillOwing(uint256 owed);

    constructor(Yard token, uint48 delay) {
        if (address(token) == address(0)) revert ZeroAddress();
        if (delay == 0) revert ZeroDelay();
        yard = token;
        withdrawDelay = delay;
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

    /// @notice Anyone: a gateway's deposit and debt, and its announced withdrawal (nano, Unix seconds; zero: none).
    function accountOf(
        address gateway
    ) external view returns (uint256 deposit_, uint256 owed, uint256 withdrawAmount, uint48 withdrawAt) {
        Account storage account = _accounts[gateway];
        return (account.deposit, account.owed, account.withdrawAmount, account.withdrawAt);
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
}
