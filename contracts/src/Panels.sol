// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Secrets} from "./Secrets.sol";

/// @title Panels: who judges a case, and how they vote.
/// @notice Seats are drawn by stake, with replacement, from the validators whose secrets were committed before the case
/// and revealed after it; the accused and the challenger have none. Votes are committed first and revealed afterwards.
/// @dev Seat `i` belongs to whom the ticket `uint256(keccak256(abi.encode(seed, i))) % eligible` falls on, over the
/// cumulative weights in the order of commitment, `seed = keccak256(abi.encode(caseId, mix))`. The drawer names the
/// members and the contract checks each against its ticket, so a draw costs the same however many validators there are.
/// Law: docs/spec/contracts.md; twin: steelyard.verification.panel.
abstract contract Panels is Secrets {
    /// @notice What a juror says; the numbers are those of a Verdict's outcome.
    enum Vote {
        Pass, // the accused did nothing wrong
        Fail, // guilty
        Abstain // the juror can't tell
    }

    /// @notice How far a juror is.
    enum SeatState {
        Drawn,
        Committed,
        Revealed
    }

    /// @notice A juror's seats on one panel.
    struct Seat {
        bytes32 commitment;
        uint8 seats; // how often it was drawn; that many votes
        SeatState state;
        Vote vote; // once revealed
    }

    /// @notice A panel: who sits on it is in `jurorsOf`.
    struct Panel {
        uint48 commitUntil; // Unix seconds
        uint48 revealUntil;
        uint8 guilty; // seats
        uint8 innocent;
        uint8 revealed;
        uint64 epoch; // whose secrets drew it
    }

    mapping(uint256 caseId => Panel) internal _panels;
    mapping(uint256 caseId => address[]) internal _jurors;
    mapping(uint256 caseId => mapping(uint64 epoch => mapping(address juror => Seat))) private _seats;

    /// @notice A panel was drawn: one member a seat. Votes are committed, then revealed, until these Unix seconds.
    event PanelDrawn(
        uint256 indexed caseId,
        uint64 indexed epoch,
        bytes32 seed,
        address[] members,
        uint48 commitUntil,
        uint48 revealUntil
    );
    /// @notice A juror committed its vote.
    event VoteCommitted(uint256 indexed caseId, uint64 indexed epoch, address indexed juror, bytes32 commitment);
    /// @notice A juror revealed its vote, which counts for all of its seats.
    event VoteRevealed(uint256 indexed caseId, uint64 indexed epoch, address indexed juror, Vote vote, uint8 seats);

    /// @notice The panel has `size` seats.
    error WrongPanelSize(uint256 size, uint256 given);
    /// @notice The ticket of seat `seat` did not fall on `account`.
    error WrongMember(address account, uint256 seat);
    /// @notice The account has no seat on the case's present panel.
    error NotDrawn(uint256 caseId, address account);
    /// @notice The juror committed its vote before.
    error AlreadyVoted(uint256 caseId, address juror);
    /// @notice The juror committed no vote, or revealed it before.
    error NothingToCount(uint256 caseId, address juror);
    /// @notice Vote and salt do not give what was committed.
    error WrongVote(bytes32 commitment);

    /// @notice Anyone with a seat: commits to a vote, once, until `commitUntil`.
    /// @param caseId the case's number.
    /// @param commitment keccak256(abi.encode(caseId, epoch of the panel, juror, vote, salt)).
    function commitVote(uint256 caseId, bytes32 commitment) external {
        Panel storage panel = _panels[caseId];
        Seat storage seat = _seats[caseId][panel.epoch][msg.sender];
        if (seat.seats == 0) revert NotDrawn(caseId, msg.sender);
        if (block.timestamp >= panel.commitUntil) revert TooLate(panel.commitUntil);
        if (seat.state != SeatState.Drawn) revert AlreadyVoted(caseId, msg.sender);
        (seat.commitment, seat.state) = (commitment, SeatState.Committed);
        emit VoteCommitted(caseId, panel.epoch, msg.sender, commitment);
    }

    /// @notice Anyone with a seat: reveals its vote, from `commitUntil` until `revealUntil`.
    /// @param caseId the case's number.
    /// @param vote 0 pass, 1 fail (guilty), 2 abstain.
    /// @param salt the 32 random bytes of the commitment.
    function revealVote(uint256 caseId, Vote vote, bytes32 salt) external {
        Panel storage panel = _panels[caseId];
        Seat storage seat = _seats[caseId][panel.epoch][msg.sender];
        if (seat.seats == 0) revert NotDrawn(caseId, msg.sender);
        if (block.timestamp < panel.commitUntil) revert TooEarly(panel.commitUntil);
        if (block.timestamp >= panel.revealUntil) revert TooLate(panel.revealUntil);
        if (seat.state != SeatState.Committed) revert NothingToCount(caseId, msg.sender);
        bytes32 commitment = keccak256(abi.encode(caseId, panel.epoch, msg.sender, vote, salt));
        if (commitment != seat.commitment) revert WrongVote(seat.commitment);
        (seat.vote, seat.state) = (vote, SeatState.Revealed);
        panel.revealed += seat.seats;
        if (vote == Vote.Fail) panel.guilty += seat.seats;
        else if (vote == Vote.Pass) panel.innocent += seat.seats;
        emit VoteRevealed(caseId, panel.epoch, msg.sender, vote, seat.seats);
    }

    /// @notice Anyone: a case's present panel.
    function panelOf(uint256 caseId) external view returns (Panel memory) {
        return _panels[caseId];
    }

    /// @notice Anyone: who sits on a case's present panel, each once.
    function jurorsOf(uint256 caseId) external view returns (address[] memory) {
        return _jurors[caseId];
    }

    /// @notice Anyone: a juror's seats on the panel that an epoch's secrets drew for a case.
    function seatOf(uint256 caseId, uint64 epoch, address juror) external view returns (Seat memory) {
        return _seats[caseId][epoch][juror];
    }

    /// @dev Seats a panel; false where too few validators may sit on it.
    function _seat(
        uint256 caseId,
        uint64 epoch,
        uint256 size,
        address accused,
        address challenger,
        address[] calldata members
    ) internal returns (bool) {
        Round memory round = _tallied(epoch);
        (Secret memory low, Secret memory high) = (_secrets[epoch][accused], _secrets[epoch][challenger]);
        if (low.end > high.end) (low, high) = (high, low);
        uint256 eligible = round.total - low.weight - high.weight;
        uint256 barred = (low.weight == 0 ? 0 : 1) + (high.weight == 0 ? 0 : 1);
        if (round.seated - barred < _terms.minValidators) return false;
        if (members.length != size) revert WrongPanelSize(size, members.length);
        bytes32 seed = keccak256(abi.encode(caseId, round.mix));
        delete _jurors[caseId];
        for (uint256 i = 0; i < size; ++i) {
            uint256 ticket = uint256(keccak256(abi.encode(seed, i))) % eligible;
            if (ticket >= low.end - low.weight) ticket += low.weight;
            if (ticket >= high.end - high.weight) ticket += high.weight;
            Secret storage holder = _secrets[epoch][members[i]];
            if (ticket >= holder.end || ticket + holder.weight < holder.end) revert WrongMember(members[i], i);
            Seat storage seat = _seats[caseId][epoch][members[i]];
            if (seat.seats++ == 0) _jurors[caseId].push(members[i]);
        }
        uint48 commitUntil = uint48(block.timestamp) + _terms.commitSeconds;
        uint48 revealUntil = commitUntil + _terms.voteSeconds;
        _panels[caseId] = Panel(commitUntil, revealUntil, 0, 0, 0, epoch);
        emit PanelDrawn(caseId, epoch, seed, members, commitUntil, revealUntil);
        return true;
    }

    /// @dev The seats that voted each way, once all did or the time is over; empty seats are fined.
    function _count(uint256 caseId, uint256 size) internal returns (uint256 guilty, uint256 innocent) {
        Panel memory panel = _panels[caseId];
        if (panel.revealed != size) {
            if (block.timestamp < panel.revealUntil) revert TooEarly(panel.revealUntil);
            address[] storage jurors = _jurors[caseId];
            for (uint256 i = 0; i < jurors.length; ++i) {
                bool isEmpty = _seats[caseId][panel.epoch][jurors[i]].state != SeatState.Revealed;
                if (isEmpty) _fine(bytes32(caseId), jurors[i]);
            }
        }
        return (panel.guilty, panel.innocent);
    }
}
