// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Yard} from "./Yard.sol";

/// @title Stakes: what providers, gateways and validators put at risk.
/// @notice Each account stakes per role. Stake counts from the second it arrives and can be read as of any past second;
/// leaving takes `unbondDelay`, and until it is over the leaving part can still be slashed and drawn.
/// @dev A loss is taken from the unbonding part first, since that would leave first. Every change emits an event, so that
/// all balances follow from events alone. The sum of stakes and unbonding parts is always held by this contract.
abstract contract Stakes is AccessManaged {
    using SafeERC20 for Yard;
    using SafeCast for uint256;
    using Checkpoints for Checkpoints.Trace208;

    /// @dev What one account has besides its stake, per role; one storage slot.
    struct Leaving {
        uint128 amount; // nano on its way out
        uint48 readyAt; // Unix seconds from which it may be taken
        uint48 lockedUntil; // Unix seconds until which it may not
    }

    /// @notice Role number of providers.
    uint8 public constant PROVIDER = 1;
    /// @notice Role number of gateways.
    uint8 public constant GATEWAY = 2;
    /// @notice Role number of validators.
    uint8 public constant VALIDATOR = 3;

    /// @notice The token that is staked.
    Yard public immutable yard;
    /// @notice Seconds between `startUnbond` and the earliest `finishUnbond`.
    uint48 public immutable unbondDelay;

    uint256 private immutable _minProvider;
    uint256 private immutable _minGateway;
    uint256 private immutable _minValidator;

    mapping(uint8 role => mapping(address account => Checkpoints.Trace208)) private _stakes;
    mapping(uint8 role => Checkpoints.Trace208) private _totals;
    mapping(uint8 role => mapping(address account => Leaving)) private _leaving;

    /// @notice `payer` added `amount` nano to the stake of `account`.
    event Staked(address indexed account, uint8 indexed role, address payer, uint256 amount);
    /// @notice `amount` nano left the stake and may be taken from `readyAt` on, with all that was unbonding before.
    event UnbondStarted(address indexed account, uint8 indexed role, uint256 amount, uint48 readyAt);
    /// @notice `amount` nano, all that was unbonding, went back to the account.
    event UnbondFinished(address indexed account, uint8 indexed role, uint256 amount);
    /// @notice The account can't finish unbonding before `until`; zero or a past time frees it.
    event Locked(address indexed account, uint8 indexed role, uint48 until);
    /// @notice `amount` nano was taken, unbonding part first; `to` is zero where it was burned.
    event Slashed(address indexed account, uint8 indexed role, uint256 amount, address indexed to);
    /// @notice `amount` nano of a gateway's stake, unbonding part first, went to `drawer` to pay its vouchers.
    event Drawn(address indexed gateway, address indexed drawer, uint256 amount);

    /// @notice Roles are 1 provider, 2 gateway, 3 validator.
    error UnknownRole(uint8 role);
    /// @notice An amount that must be above zero is zero.
    error ZeroAmount();
    /// @notice A delay of zero would let stake flee a challenge.
    error ZeroDelay();
    /// @notice An address that must be one is zero.
    error ZeroAddress();
    /// @notice More was asked for than is staked, both in nano.
    error InsufficientStake(uint256 stake, uint256 wanted);
    /// @notice Nothing is unbonding.
    error NothingUnbonding();
    /// @notice The delay runs until `readyAt`, Unix seconds.
    error StillUnbonding(uint48 readyAt);
    /// @notice A lock holds the stake until `until`, Unix seconds.
    error StillLocked(uint48 until);
    /// @notice Slashed stake can't go to `to`.
    error InvalidRecipient(address to);
    /// @notice Stakes are known of past seconds alone: `timepoint` is not below `clock`.
    error FutureLookup(uint48 timepoint, uint48 clock);

    modifier knownRole(uint8 role) {
        if (role < PROVIDER || role > VALIDATOR) revert UnknownRole(role);
        _;
    }

    constructor(Yard token, uint48 delay, uint256[3] memory minStakes) {
        if (address(token) == address(0)) revert ZeroAddress();
        if (delay == 0) revert ZeroDelay();
        yard = token;
        unbondDelay = delay;
        (_minProvider, _minGateway, _minValidator) = (minStakes[0], minStakes[1], minStakes[2]);
    }

    /// @notice Anyone: stakes `amount` nano of the caller's YARD for itself; needs an allowance.
    /// @param role 1 provider, 2 gateway, 3 validator.
    /// @param amount in nano, above zero.
    function stake(uint8 role, uint256 amount) external {
        _stake(msg.sender, role, amount);
    }

    /// @notice Anyone: stakes `amount` nano of the caller's YARD for `account`, which alone can take it out again.
    /// @param account who holds the stake.
    /// @param role 1 provider, 2 gateway, 3 validator.
    /// @param amount in nano, above zero.
    function stakeFor(address account, uint8 role, uint256 amount) external {
        if (account == address(0)) revert ZeroAddress();
        _stake(account, role, amount);
    }

    /// @notice The staker: moves `amount` nano of its own stake into unbonding, at once out of its weight.
    /// @dev One date per account and role: a second call waits the whole delay again, for all that is unbonding.
    /// @param role 1 provider, 2 gateway, 3 validator.
    /// @param amount in nano, above zero, at most the stake.
    function startUnbond(uint8 role, uint256 amount) external knownRole(role) {
        if (amount == 0) revert ZeroAmount();
        uint256 staked = stakeOf(msg.sender, role);
        if (amount > staked) revert InsufficientStake(staked, amount);
        Leaving storage leaving = _leaving[role][msg.sender];
        uint48 readyAt = uint48(block.timestamp) + unbondDelay;
        leaving.amount += amount.toUint128();
        leaving.readyAt = readyAt;
        _lower(msg.sender, role, amount);
        emit UnbondStarted(msg.sender, role, amount, readyAt);
    }

    /// @notice The staker: takes out all that is unbonding, once the delay is over and no lock holds it.
    /// @param role 1 provider, 2 gateway, 3 validator.
    function finishUnbond(uint8 role) external knownRole(role) {
        Leaving storage leaving = _leaving[role][msg.sender];
        uint256 amount = leaving.amount;
        if (amount == 0) revert NothingUnbonding();
        if (block.timestamp < leaving.readyAt) revert StillUnbonding(leaving.readyAt);
        if (block.timestamp < leaving.lockedUntil) revert StillLocked(leaving.lockedUntil);
        leaving.amount = 0;
        leaving.readyAt = 0;
        emit UnbondFinished(msg.sender, role, amount);
        yard.safeTransfer(msg.sender, amount);
    }

    /// @notice Only the role that the manager set: keeps an account from finishing to unbond (and from having its
    /// gateway stake drawn) before `until`, while a challenge runs; zero frees it.
    /// @dev Without the bar on drawing, a gateway could carry its stake past a challenge by a voucher to itself.
    /// @param until Unix time in seconds.
    function lock(address account, uint8 role, uint48 until) external restricted knownRole(role) {
        _leaving[role][account].lockedUntil = until;
        emit Locked(account, role, until);
    }

    /// @notice Only the role that the manager set: takes stake away, unbonding part first.
    /// @param amount in nano; where the account has less, all of it is taken.
    /// @param to who receives it; zero burns it.
    /// @return taken what was taken, in nano.
    function slash(
        address account,
        uint8 role,
        uint256 amount,
        address to
    ) external restricted knownRole(role) returns (uint256 taken) {
        if (to == address(this)) revert InvalidRecipient(to);
        taken = _take(account, role, amount);
        if (taken == 0) return 0;
        emit Slashed(account, role, taken, to);
        if (to == address(0)) yard.burn(taken);
        else yard.safeTransfer(to, taken);
    }

    /// @notice Only the role that the manager set (the Escrow's): pays a gateway's vouchers from its stake.
    /// @param amount what its deposit could not pay, in nano; where it has less, all of it is taken.
    /// @return taken what was paid to the caller, in nano; zero while the stake is locked.
    function drawStake(address gateway, uint256 amount) external restricted returns (uint256 taken) {
        if (block.timestamp < _leaving[GATEWAY][gateway].lockedUntil) return 0;
        taken = _take(gateway, GATEWAY, amount);
        if (taken == 0) return 0;
        emit Drawn(gateway, msg.sender, taken);
        yard.safeTransfer(msg.sender, taken);
    }

    /// @notice Anyone: the stake that counts now, in nano; what is unbonding is not in it.
    function stakeOf(address account, uint8 role) public view returns (uint256) {
        return _stakes[role][account].latest();
    }

    /// @notice Anyone: the stake at the end of a past second `t`, in nano.
    function stakeAt(address account, uint8 role, uint48 t) external view returns (uint256) {
        return _stakes[role][account].upperLookupRecent(_past(t));
    }

    /// @notice Anyone: all stake of a role at the end of a past second `t`, in nano.
    function totalStakeAt(uint8 role, uint48 t) external view returns (uint256) {
        return _totals[role].upperLookupRecent(_past(t));
    }

    /// @notice Anyone: all stake of a role now, in nano.
    function totalStakeOf(uint8 role) external view returns (uint256) {
        return _totals[role].latest();
    }

    /// @notice Anyone: what is unbonding, in nano, and the Unix time in seconds from which it may be taken.
    function unbondingOf(address account, uint8 role) external view returns (uint256 amount, uint48 readyAt) {
        Leaving storage leaving = _leaving[role][account];
        return (leaving.amount, leaving.readyAt);
    }

    /// @notice Anyone: the Unix time in seconds until which the account's stake is locked; zero if it never was.
    function lockedUntil(address account, uint8 role) external view returns (uint48) {
        return _leaving[role][account].lockedUntil;
    }

    /// @notice Anyone: the least stake, in nano, that makes an account active in a role.
    function minStakeOf(uint8 role) public view knownRole(role) returns (uint256) {
        return role == PROVIDER ? _minProvider : role == GATEWAY ? _minGateway : _minValidator;
    }

    /// @notice Anyone: whether the account's stake is at least the role's minimum and above zero.
    function isActive(address account, uint8 role) public view returns (bool) {
        uint256 staked = stakeOf(account, role);
        return staked != 0 && staked >= minStakeOf(role);
    }

    function _stake(address account, uint8 role, uint256 amount) private knownRole(role) {
        if (amount == 0) revert ZeroAmount();
        uint48 now_ = uint48(block.timestamp);
        _stakes[role][account].push(now_, (stakeOf(account, role) + amount).toUint208());
        _totals[role].push(now_, (_totals[role].latest() + amount).toUint208());
        emit Staked(account, role, msg.sender, amount);
        yard.safeTransferFrom(msg.sender, address(this), amount);
    }

    function _lower(address account, uint8 role, uint256 amount) private {
        uint48 now_ = uint48(block.timestamp);
        _stakes[role][account].push(now_, (stakeOf(account, role) - amount).toUint208());
        _totals[role].push(now_, (_totals[role].latest() - amount).toUint208());
    }

    function _take(address account, uint8 role, uint256 amount) private returns (uint256 taken) {
        Leaving storage leaving = _leaving[role][account];
        uint256 unbonding = leaving.amount;
        uint256 staked = stakeOf(account, role);
        taken = amount < unbonding + staked ? amount : unbonding + staked;
        if (taken <= unbonding) {
            leaving.amount = uint128(unbonding - taken);
        } else {
            leaving.amount = 0;
            _lower(account, role, taken - unbonding);
        }
    }

    function _past(uint48 t) private view returns (uint48) {
        if (t >= block.timestamp) revert FutureLookup(t, uint48(block.timestamp));
        return t;
    }
}
