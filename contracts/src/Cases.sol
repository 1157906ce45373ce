// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Panels} from "./Panels.sol";

/// @title Cases: what takes a panel to decide.
/// @notice Anyone opens a case with a bond. The epoch's secrets draw a panel, which convicts by its quorum or acquits; a
/// convicted account may appeal to a larger one, drawn anew. Only when that is over is anything slashed; until then the
/// stake is held.
///
/// | what happens | the case goes | bonds |
/// |---|---|---|
/// | too few validators, or neither a quorum nor an acquittal | back to the draw, at most `maxDraws` times | stay |
/// | that often | closed, lapsed | each back to its payer |
/// | acquitted, by the first panel or the second | closed, acquitted | challenger's: half to the accused, half burned |
/// | convicted, not appealed in time | closed, convicted | challenger's back |
/// | convicted by the second panel too | closed, convicted | challenger's back, the appeal's burned |
///
/// @dev One wrong is punished once: a case covers what the accused did on one topic since the last conviction for it, up
/// to its opening; if another case's conviction covers it meanwhile, it slashes nothing. Bonds of an acquittal are half
/// burned, so that a case against a friend, to get ahead of a real one, costs money; and it frees nothing, since the stake
/// stays held while any other case is open.
abstract contract Cases is Panels {
    /// @notice What is claimed.
    enum Kind {
        Cheat, // a provider's answers are not what it sold; topic: the service
        Lazy, // a validator's verdicts are not from checking; topic: zero, or what it was lazy about
        WrongRoot // a validator proposed a wrong root of rewards; topic: the proposal's id
    }

    /// @notice Where a case stands.
    enum Phase {
        None,
        Drawing,
        Voting,
        Convicted, // the time to appeal runs
        Closed
    }

    /// @notice How a case ended.
    enum Ruling {
        None,
        Convicted,
        Acquitted,
        Lapsed
    }

    /// @notice A case.
    struct Case {
        address accused;
        Kind kind;
        Phase phase;
        Ruling ruling; // once closed
        bool isAppealed;
        uint8 draws; // panels that failed
        address challenger;
        uint48 openedAt; // Unix seconds
        uint48 since; // covers what was done after this Unix time, until it was opened
        uint64 epoch; // whose secrets draw the next panel
        uint48 appealUntil; // Unix seconds, once convicted
        bytes32 topic;
        bytes32 evidence; // sha256 digest of the blob
    }

    /// @notice What a challenger claims for a gateway: nano that it paid, on one lane, for calls of the evidence.
    struct Claim {
        address gateway;
        uint64 laneId;
        uint96 amount;
    }

    /// @dev All cases of one kind against one account on one topic.
    struct Standing {
        uint64 open; // cases that are not closed
        uint48 settledUntil; // Unix seconds: convicted, and slashed, for what it did before
    }

    uint256 private constant MAX_CLAIMS = 16;

    /// @notice How many cases were opened; they are numbered from 1.
    uint256 public caseCount;

    mapping(uint256 caseId => Case) private _cases;
    mapping(uint256 caseId => Harm[]) private _harms;
    mapping(bytes32 key => Standing) private _standings;

    /// @notice A case was opened; the secrets of `epoch` draw its panel.
    event CaseOpened(
        uint256 indexed caseId,
        address indexed accused,
        address indexed challenger,
        Kind kind,
        bytes32 topic,
        bytes32 evidence,
        uint48 since,
        uint64 epoch,
        Claim[] claims
    );
    /// @notice No panel could be drawn or none decided, `draws` times now; the secrets of `epoch` draw the next.
    event CaseWaits(uint256 indexed caseId, uint64 epoch, uint8 draws);
    /// @notice The first panel convicted; the accused may appeal until `appealUntil`, Unix seconds.
    event CaseConvicted(uint256 indexed caseId, uint256 guilty, uint256 innocent, uint48 appealUntil);
    /// @notice The accused appealed; the secrets of `epoch` draw the second panel.
    event CaseAppealed(uint256 indexed caseId, uint64 epoch);
    /// @notice A case ended.
    event CaseClosed(uint256 indexed caseId, Ruling ruling);

    /// @notice The case is not where this can be done.
    error WrongPhase(uint256 caseId, Phase phase);
    /// @notice Nobody opens a case against itself.
    error SelfChallenge();
    /// @notice A case needs the digest of the blob with its evidence.
    error NoEvidence();
    /// @notice Only a case against a provider harmed gateways, at most 16 lanes of them.
    error TooManyClaims(uint256 given);
    /// @notice Claims stand in ascending order of their lanes' keys, each lane once.
    error UnsortedClaims(bytes32 lane);
    /// @notice The gateway paid only `payable_` nano on the lane, less what it got back.
    error ClaimTooHigh(bytes32 lane, uint256 amount, uint256 payable_);
    /// @notice Only the convicted account appeals.
    error NotAccused(address caller);

    /// @notice Anyone with the bond (needs an allowance): opens a case, and holds the accused's stake until it closes.
    /// @param kind 0 cheat (a provider), 1 lazy, 2 wrong root (a validator).
    /// @param accused whose stake is held.
    /// @param topic the service of a cheat, the proposal of a wrong root.
    /// @param evidence sha256 digest of the blob that the panel reads.
    /// @param claims what gateways paid for the calls of the evidence, by ascending lane key; for a cheat alone.
    /// @return caseId the case's number.
    function open(
        Kind kind,
        address accused,
        bytes32 topic,
        bytes32 evidence,
        Claim[] calldata claims
    ) external nonReentrant returns (uint256 caseId) {
        if (accused == msg.sender) revert SelfChallenge();
        if (evidence == 0) revert NoEvidence();
        caseId = ++caseCount;
        _claim(caseId, kind, accused, topic, claims);
        Standing storage standing = _standings[_key(kind, accused, topic)];
        ++standing.open;
        Case storage c = _cases[caseId];
        (c.accused, c.kind, c.phase, c.challenger) = (accused, kind, Phase.Drawing, msg.sender);
        (c.openedAt, c.since, c.epoch) = (uint48(block.timestamp), standing.settledUntil, epochAt(block.timestamp));
        (c.topic, c.evidence) = (topic, evidence);
        emit CaseOpened(caseId, accused, msg.sender, kind, topic, evidence, c.since, c.epoch, claims);
        _hold(accused, _role(kind));
        _takeBond(bytes32(caseId), msg.sender, _terms.bond);
    }

    /// @notice Anyone: seats the panel once its epoch is tallied, or, where too few validators revealed, lets the case wait.
    /// @param caseId the case's number.
    /// @param members who the tickets fell on, one for each seat, in order; ignored where too few validators revealed.
    function draw(uint256 caseId, address[] calldata members) external nonReentrant {
        Case storage c = _in(caseId, Phase.Drawing);
        bool isSeated = _seat(caseId, c.epoch, _size(c), c.accused, c.challenger, members);
        if (isSeated) c.phase = Phase.Voting;
        else _wait(caseId, c);
    }

    /// @notice Anyone: counts the votes once they are all in or the time is over; and, after a conviction, closes the case
    /// once the time to appeal is.
    function resolve(uint256 caseId) external nonReentrant {
        Case storage c = _cases[caseId];
        if (c.phase == Phase.Convicted) {
            if (block.timestamp < c.appealUntil) revert TooEarly(c.appealUntil);
            return _convict(caseId, c);
        }
        _in(caseId, Phase.Voting);
        uint256 size = _size(c);
        (uint256 guilty, uint256 innocent) = _count(caseId, size);
        uint256 quorum = c.isAppealed ? _terms.appealQuorum : _terms.panelQuorum;
        if (guilty >= quorum) {
            if (c.isAppealed) return _convict(caseId, c);
            (c.phase, c.appealUntil) = (Phase.Convicted, uint48(block.timestamp) + _terms.appealSeconds);
            emit CaseConvicted(caseId, guilty, innocent, c.appealUntil);
        } else if (innocent > size - quorum) {
            _acquit(caseId, c);
        } else {
            _wait(caseId, c);
        }
    }

    /// @notice Only the convicted account, with the bond (needs an allowance): asks for a second, larger panel.
    function appeal(uint256 caseId) external nonReentrant {
        Case storage c = _in(caseId, Phase.Convicted);
        if (msg.sender != c.accused) revert NotAccused(msg.sender);
        if (block.timestamp >= c.appealUntil) revert TooLate(c.appealUntil);
        (c.phase, c.isAppealed, c.draws, c.epoch) = (Phase.Drawing, true, 0, epochAt(block.timestamp));
        emit CaseAppealed(caseId, c.epoch);
        _takeBond(bytes32(caseId), msg.sender, _terms.appealBond);
    }

    /// @notice Anyone: a case.
    function caseOf(uint256 caseId) external view returns (Case memory) {
        return _cases[caseId];
    }

    /// @notice Anyone: what a case claims that gateways paid.
    function harmsOf(uint256 caseId) external view returns (Harm[] memory) {
        return _harms[caseId];
    }

    /// @notice Anyone: how many cases of a kind are open against an account on a topic, and until when (Unix seconds, zero:
    /// never) it stands convicted for it.
    function standingOf(
        Kind kind,
        address accused,
        bytes32 topic
    ) external view returns (uint64 openCases, uint48 settledUntil) {
        Standing storage standing = _standings[_key(kind, accused, topic)];
        return (standing.open, standing.settledUntil);
    }

    function _claim(
        uint256 caseId,
        Kind kind,
        address accused,
        bytes32 serviceId,
        Claim[] calldata claims
    ) private {
        if (claims.length > (kind == Kind.Cheat ? MAX_CLAIMS : 0)) revert TooManyClaims(claims.length);
        bytes32 last;
        for (uint256 i = 0; i < claims.length; ++i) {
            Claim calldata claim = claims[i];
            bytes32 lane = escrow.laneKey(claim.gateway, accused, serviceId, claim.laneId);
            if (lane <= last) revert UnsortedClaims(lane);
            uint256 cap = _payable(lane);
            if (claim.amount > cap) revert ClaimTooHigh(lane, claim.amount, cap);
            _harms[caseId].push(Harm(lane, claim.gateway, claim.amount));
            last = lane;
        }
    }

    function _wait(uint256 caseId, Case storage c) private {
        if (++c.draws < _terms.maxDraws) {
            (c.phase, c.epoch) = (Phase.Drawing, epochAt(block.timestamp));
            emit CaseWaits(caseId, c.epoch, c.draws);
            return;
        }
        _close(caseId, c, Ruling.Lapsed);
        _releaseBond(bytes32(caseId), c.challenger, _terms.bond);
        if (c.isAppealed) _releaseBond(bytes32(caseId), c.accused, _terms.appealBond);
    }

    function _acquit(uint256 caseId, Case storage c) private {
        _close(caseId, c, Ruling.Acquitted);
        uint256 toAccused = _terms.bond / 2;
        _releaseBond(bytes32(caseId), c.accused, toAccused);
        _releaseBond(bytes32(caseId), address(0), _terms.bond - toAccused);
        if (c.isAppealed) _releaseBond(bytes32(caseId), c.accused, _terms.appealBond);
    }

    function _convict(uint256 caseId, Case storage c) private {
        Standing storage standing = _standings[_key(c.kind, c.accused, c.topic)];
        if (standing.settledUntil == c.since) {
            standing.settledUntil = c.openedAt;
            _punish(bytes32(caseId), c.accused, _role(c.kind), _terms.slashBps, _harms[caseId], c.challenger);
        }
        _close(caseId, c, Ruling.Convicted);
        _releaseBond(bytes32(caseId), c.challenger, _terms.bond);
        if (c.isAppealed) _releaseBond(bytes32(caseId), address(0), _terms.appealBond);
    }

    function _close(uint256 caseId, Case storage c, Ruling ruling) private {
        (c.phase, c.ruling) = (Phase.Closed, ruling);
        --_standings[_key(c.kind, c.accused, c.topic)].open;
        emit CaseClosed(caseId, ruling);
        _free(c.accused, _role(c.kind));
    }

    function _in(uint256 caseId, Phase phase) private view returns (Case storage c) {
        c = _cases[caseId];
        if (c.phase != phase) revert WrongPhase(caseId, c.phase);
    }

    function _size(Case storage c) private view returns (uint256) {
        return c.isAppealed ? _terms.appealSize : _terms.panelSize;
    }

    function _role(Kind kind) private pure returns (uint8) {
        return kind == Kind.Cheat ? PROVIDER : VALIDATOR;
    }

    function _key(Kind kind, address accused, bytes32 topic) private pure returns (bytes32) {
        return keccak256(abi.encode(kind, accused, topic));
    }
}
