// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Sanctions} from "./Sanctions.sol";

/// @title Secrets: what validators can't choose afterwards.
/// @notice Before an epoch begins, a validator commits to a secret for it; when the epoch is over, it reveals it. The
/// secret chose which calls it checked, so anyone recomputes that choice; and all secrets together draw the panels of
/// the cases that were opened in that epoch: committed before the case, revealed after it.
/// @dev Who commits and doesn't reveal loses a fine and has no weight in the draw. Weight is the stake at the end of the
/// last second before the epoch. The tally walks validators in the order in which they committed, which nobody could
/// choose knowing another's secret, in as many transactions as it needs.
abstract contract Secrets is Sanctions {
    using SafeCast for uint256;

    /// @notice How far a validator's secret for an epoch is.
    enum SecretState {
        None,
        Committed,
        Revealed,
        Fined
    }

    /// @notice A validator's secret for an epoch, and its weight in the draw.
    struct Secret {
        bytes32 value; // the commitment; once revealed the secret itself
        uint112 weight; // nano of stake; zero until revealed, or where it was below the minimum
        uint112 end; // sum of the weights up to and including this one; zero until tallied
        SecretState state;
    }

    /// @notice One epoch's tally.
    struct Round {
        uint112 total; // nano of stake that draws
        uint32 walked; // validators that the tally has passed, in the order of their commitments
        uint32 seated; // of which revealed and have weight
        bytes32 mix; // keccak256(mix before || secret), over those
    }

    mapping(uint64 epoch => mapping(address validator => Secret)) internal _secrets;
    mapping(uint64 epoch => address[]) private _committed;
    mapping(uint64 epoch => Round) private _rounds;

    /// @notice A validator committed to keccak256(secret) for an epoch.
    event SecretCommitted(address indexed validator, uint64 indexed epoch, bytes32 commitment);
    /// @notice A validator revealed its secret of an epoch; `weight` nano of stake draw with it.
    event SecretRevealed(address indexed validator, uint64 indexed epoch, bytes32 secret, uint256 weight);
    /// @notice An epoch's tally is complete.
    event RoundTallied(uint64 indexed epoch, uint256 seated, uint256 total, bytes32 mix);

    /// @notice The account's stake is below the minimum of `role`.
    error NotActive(address account, uint8 role);
    /// @notice Secrets are for epochs to come; the running one is `current`.
    error EpochBegun(uint64 epoch, uint64 current);
    /// @notice A validator has one secret for an epoch.
    error AlreadyCommitted(address validator, uint64 epoch);
    /// @notice The validator never committed for the epoch, or revealed before.
    error NothingToReveal(address validator, uint64 epoch);
    /// @notice The secret's keccak256 is not what was committed.
    error WrongSecret(bytes32 commitment);
    /// @notice The tally of the epoch has `missing` validators to go.
    error NotTallied(uint64 epoch, uint256 missing);

    /// @notice Anyone with an active validator's stake: commits to a secret for an epoch that has not begun, once.
    /// @param epoch number of the epoch.
    /// @param commitment keccak256 of 32 random bytes, which nobody else must know until the epoch is over.
    function commitSecret(uint64 epoch, bytes32 commitment) external {
        uint64 current = epochAt(block.timestamp);
        if (epoch <= current) revert EpochBegun(epoch, current);
        if (!registry.isActive(msg.sender, VALIDATOR)) revert NotActive(msg.sender, VALIDATOR);
        Secret storage secret = _secrets[epoch][msg.sender];
        if (secret.state != SecretState.None) revert AlreadyCommitted(msg.sender, epoch);
        (secret.value, secret.state) = (commitment, SecretState.Committed);
        _committed[epoch].push(msg.sender);
        emit SecretCommitted(msg.sender, epoch, commitment);
    }

    /// @notice Anyone who committed: reveals the secret of an epoch that is over, within `revealSeconds`.
    /// @param epoch number of the epoch.
    /// @param value the 32 bytes whose keccak256 was committed.
    function revealSecret(uint64 epoch, bytes32 value) external {
        (uint256 begin, uint256 until) = _revealWindow(epoch);
        if (block.timestamp < begin) revert TooEarly(uint48(begin));
        if (block.timestamp >= until) revert TooLate(uint48(until));
        Secret storage secret = _secrets[epoch][msg.sender];
        if (secret.state != SecretState.Committed) revert NothingToReveal(msg.sender, epoch);
        if (keccak256(abi.encode(value)) != secret.value) revert WrongSecret(secret.value);
        uint256 weight = registry.stakeAt(msg.sender, VALIDATOR, uint48(uint256(epoch) * epochSeconds - 1));
        if (weight < registry.minStakeOf(VALIDATOR)) weight = 0;
        (secret.value, secret.weight, secret.state) = (value, weight.toUint112(), SecretState.Revealed);
        emit SecretRevealed(msg.sender, epoch, value, weight);
    }

    /// @notice Anyone: tallies an epoch after the time to reveal, and fines who committed and kept silent.
    /// @param epoch number of the epoch.
    /// @param most how many validators to walk now, at most; the next call goes on where this one stopped.
    function tally(uint64 epoch, uint256 most) external nonReentrant {
        _requireRevealed(epoch);
        Round memory round = _rounds[epoch];
        address[] storage committed = _committed[epoch];
        uint256 stop = committed.length - round.walked > most ? round.walked + most : committed.length;
        for (uint256 i = round.walked; i < stop; ++i) {
            Secret storage secret = _secrets[epoch][committed[i]];
            if (secret.state == SecretState.Committed) {
                secret.state = SecretState.Fined;
                _fine(bytes32(uint256(epoch)), committed[i]);
            } else if (secret.weight != 0) {
                round.total = (uint256(round.total) + secret.weight).toUint112();
                round.mix = keccak256(abi.encode(round.mix, secret.value));
                ++round.seated;
                secret.end = round.total;
            }
        }
        if (round.walked != stop && stop == committed.length) {
            emit RoundTallied(epoch, round.seated, round.total, round.mix);
        }
        round.walked = uint32(stop);
        _rounds[epoch] = round;
    }

    /// @notice Anyone: a validator's secret for an epoch.
    function secretOf(address validator, uint64 epoch) external view returns (Secret memory) {
        return _secrets[epoch][validator];
    }

    /// @notice Anyone: an epoch's tally so far.
    function roundOf(uint64 epoch) external view returns (Round memory) {
        return _rounds[epoch];
    }

    /// @notice Anyone: who committed for an epoch, in the order that the tally walks.
    function committedFor(uint64 epoch) external view returns (address[] memory) {
        return _committed[epoch];
    }

    /// @dev The finished tally of an epoch.
    function _tallied(uint64 epoch) internal view returns (Round memory round) {
        _requireRevealed(epoch);
        round = _rounds[epoch];
        uint256 missing = _committed[epoch].length - round.walked;
        if (missing != 0) revert NotTallied(epoch, missing);
    }

    function _requireRevealed(uint64 epoch) private view {
        (, uint256 until) = _revealWindow(epoch);
        if (block.timestamp < until) revert TooEarly(uint48(until));
    }

    function _revealWindow(uint64 epoch) private view returns (uint256 begin, uint256 until) {
        begin = (uint256(epoch) + 1) * epochSeconds;
        until = begin + _terms.revealSeconds;
    }
}
