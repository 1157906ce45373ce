// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Domain} from "./Domain.sol";
import {Escrow} from "./Escrow.sol";
import {Ledger} from "./Ledger.sol";
import {Registry} from "./Registry.sol";
import {Yard} from "./Yard.sol";

/// @title Sanctions: the Court's hands: bonds, holds on stakes, and how a slash is divided.
/// @notice Of what is slashed the harmed gateways receive at most what they paid, together at most half; who brought it
/// up receives a tenth; the rest is burned. So nobody gets a lie's price back by accusing himself.
/// @dev A stake is held while anything is open against it, however many cases that are: the last one to close frees it.
/// Invariant: this contract's YARD = sum of the bonds of open cases and demands (+ what strangers sent it unasked).
abstract contract Sanctions is Domain, ReentrancyGuardTransient {
    using SafeERC20 for Yard;

    /// @notice The court's terms, fixed for ever. Times in seconds, amounts in nano, shares in basis points.
    struct Terms {
        uint48 revealSeconds; // after an epoch, for its secrets
        uint48 commitSeconds; // after a draw, for votes
        uint48 voteSeconds; // after that, to reveal them
        uint48 appealSeconds; // after a conviction
        uint48 keepSeconds; // after a call, in which its evidence may be demanded
        uint48 evidenceSeconds; // after a demand, to serve it
        uint16 minValidators; // fewest validators that a panel is drawn from
        uint8 maxDraws; // panels that may fail before a case lapses
        uint8 panelSize;
        uint8 panelQuorum;
        uint8 appealSize;
        uint8 appealQuorum;
        uint16 slashBps; // of the stake, on a panel's conviction or for silence
        uint16 faultBps; // of the stake, for a lie that the contract itself sees
        uint128 bond; // to open a case
        uint128 appealBond;
        uint128 demandBond; // to demand evidence
        uint128 fine; // for a withheld secret or an empty seat
    }

    /// @notice What a gateway paid for calls that a case is about, on one lane.
    struct Harm {
        bytes32 lane;
        address gateway;
        uint96 amount; // nano
    }

    uint8 internal constant PROVIDER = 1;
    uint8 internal constant GATEWAY = 2;
    uint8 internal constant VALIDATOR = 3;
    uint256 private constant WHOLE_BPS = 10_000;
    uint256 private constant HARMED_BPS = 5_000;
    uint256 private constant INFORMER_BPS = 1_000;

    /// @notice The token of bonds and stakes.
    Yard public immutable yard;
    /// @notice Where the stakes are.
    Registry public immutable registry;
    /// @notice Where the lanes are.
    Escrow public immutable escrow;
    /// @notice The length of an epoch in seconds, the Ledger's.
    uint64 public immutable epochSeconds;

    Terms internal _terms;
    mapping(uint8 role => mapping(address account => uint256)) private _holds;
    mapping(bytes32 lane => uint256) private _compensated;

    /// @notice `amount` nano came from `payer` as the bond of a matter: a case's number, or a demand's id.
    event BondPosted(bytes32 indexed matter, address indexed payer, uint256 amount);
    /// @notice `amount` nano of a matter's bond went to `to`; zero burned it.
    event BondReleased(bytes32 indexed matter, address indexed to, uint256 amount);
    /// @notice A stake lost `taken` nano: to harmed gateways, to `informer`, and the rest burned.
    event Punished(
        bytes32 indexed matter,
        address indexed account,
        uint8 indexed role,
        uint256 taken,
        uint256 toHarmed,
        address informer,
        uint256 toInformer
    );
    /// @notice Of a slash a gateway received `amount` nano of what it had paid on a lane.
    event Compensated(bytes32 indexed matter, bytes32 indexed lane, address indexed gateway, uint256 amount);
    /// @notice A validator lost `amount` nano of stake: it withheld a secret, or left its seat empty.
    event Fined(bytes32 indexed matter, address indexed validator, uint256 amount);

    /// @notice Registry, Escrow and token are not of one deployment.
    error WrongContracts();
    /// @notice A time, size, bond or share is zero or out of bounds.
    error BadTerms();
    /// @notice Stake could leave before the evidence, the panel and the appeal: seconds both.
    error UnbondingTooShort(uint48 unbondDelay, uint256 needed);
    /// @notice The account has no stake that could be slashed.
    error NothingAtStake(address account, uint8 role);
    /// @notice The time for it begins at `readyAt`, Unix seconds.
    error TooEarly(uint48 readyAt);
    /// @notice The time for it ended at `until`, Unix seconds.
    error TooLate(uint48 until);

    constructor(Escrow escrow_, Ledger ledger, Terms memory terms_) {
        Registry registry_ = escrow_.registry();
        if (registry_.domainSeparator() != domainSeparator()) revert WrongContracts();
        (yard, registry, escrow) = (registry_.yard(), registry_, escrow_);
        epochSeconds = ledger.epochSeconds();
        _checkTerms(terms_);
        uint256 panel = uint256(epochSeconds) + terms_.revealSeconds + terms_.commitSeconds + terms_.voteSeconds;
        uint256 evidence = uint256(terms_.keepSeconds) + terms_.evidenceSeconds;
        uint256 needed = epochSeconds + evidence + 2 * panel + terms_.appealSeconds;
        uint48 unbonding = registry_.unbondDelay();
        if (unbonding <= needed) revert UnbondingTooShort(unbonding, needed);
        _terms = terms_;
    }

    /// @notice Anyone: the court's terms.
    function terms() external view returns (Terms memory) {
        return _terms;
    }

    /// @notice Anyone: how many open cases and demands hold a stake.
    function holdsOn(address account, uint8 role) external view returns (uint256) {
        return _holds[role][account];
    }

    /// @notice Anyone: what a gateway received back, in nano, of what it paid on a lane.
    function compensatedOn(bytes32 lane) external view returns (uint256) {
        return _compensated[lane];
    }

    /// @notice Anyone: the epoch that Unix time `t` (seconds) falls in, as the Ledger counts.
    function epochAt(uint256 t) public view returns (uint64) {
        return uint64(t / epochSeconds);
    }

    /// @notice Anyone: what a stake and its unbonding part come to, in nano: all that can be slashed.
    function atStake(address account, uint8 role) public view returns (uint256) {
        (uint256 unbonding, ) = registry.unbondingOf(account, role);
        return registry.stakeOf(account, role) + unbonding;
    }

    function _hold(address account, uint8 role) internal {
        if (atStake(account, role) == 0) revert NothingAtStake(account, role);
        if (_holds[role][account]++ == 0) registry.lock(account, role, type(uint48).max);
    }

    function _free(address account, uint8 role) internal {
        if (--_holds[role][account] == 0) registry.lock(account, role, 0);
    }

    /// @dev Slashes a share of all that is at stake, and divides it.
    function _punish(
        bytes32 matter,
        address account,
        uint8 role,
        uint256 bps,
        Harm[] memory harms,
        address informer
    ) internal {
        uint256 taken = (atStake(account, role) * bps) / WHOLE_BPS;
        uint256 toHarmed = _compensate(matter, account, role, harms, (taken * HARMED_BPS) / WHOLE_BPS);
        uint256 toInformer = (taken * INFORMER_BPS) / WHOLE_BPS;
        if (toInformer != 0) registry.slash(account, role, toInformer, informer);
        registry.slash(account, role, taken - toHarmed - toInformer, address(0));
        emit Punished(matter, account, role, taken, toHarmed, informer, toInformer);
    }

    function _fine(bytes32 matter, address validator) internal {
        uint256 taken = registry.slash(validator, VALIDATOR, _terms.fine, address(0));
        emit Fined(matter, validator, taken);
    }

    /// @dev What a gateway paid on a lane and has not got back.
    function _payable(bytes32 lane) internal view returns (uint256) {
        (, uint128 paid) = escrow.laneOf(lane);
        return paid - _compensated[lane];
    }

    function _takeBond(bytes32 matter, address payer, uint256 amount) internal {
        emit BondPosted(matter, payer, amount);
        yard.safeTransferFrom(payer, address(this), amount);
    }

    function _releaseBond(bytes32 matter, address to, uint256 amount) internal {
        emit BondReleased(matter, to, amount);
        if (to == address(0)) yard.burn(amount);
        else yard.safeTransfer(to, amount);
    }

    /// @dev Pays each lane what was harmed on it, in proportion where the pool is too small.
    function _compensate(
        bytes32 matter,
        address account,
        uint8 role,
        Harm[] memory harms,
        uint256 pool
    ) private returns (uint256 sum) {
        uint256 claimed;
        for (uint256 i = 0; i < harms.length; ++i) {
            uint256 cap = _payable(harms[i].lane);
            if (harms[i].amount > cap) harms[i].amount = uint96(cap);
            claimed += harms[i].amount;
        }
        for (uint256 i = 0; i < harms.length; ++i) {
            Harm memory harm = harms[i];
            uint256 share = claimed <= pool ? harm.amount : (harm.amount * pool) / claimed;
            if (share == 0) continue;
            sum += share;
            _compensated[harm.lane] += share;
            emit Compensated(matter, harm.lane, harm.gateway, share);
            registry.slash(account, role, share, harm.gateway);
        }
    }

    function _checkTerms(Terms memory t) private pure {
        bool hasTimes = t.revealSeconds != 0 && t.commitSeconds != 0 && t.voteSeconds != 0 && t.appealSeconds != 0 &&
            t.keepSeconds != 0 && t.evidenceSeconds != 0 && t.maxDraws != 0 && t.minValidators != 0;
        bool hasBonds = t.bond != 0 && t.appealBond != 0 && t.demandBond != 0;
        bool isMajority = t.panelQuorum * 2 > t.panelSize && t.appealQuorum * 2 > t.appealSize;
        bool fits = t.panelQuorum <= t.panelSize && t.appealQuorum <= t.appealSize && t.panelSize != 0 &&
            t.panelSize <= t.appealSize && t.appealSize <= 64 && t.slashBps != 0 && t.slashBps <= WHOLE_BPS &&
            t.faultBps != 0 && t.faultBps <= WHOLE_BPS;
        if (!hasTimes || !hasBonds || !isMajority || !fits) revert BadTerms();
    }
}
