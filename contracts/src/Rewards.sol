// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {MerkleProof} from "@openzeppelin/contracts/utils/cryptography/MerkleProof.sol";
import {ReentrancyGuardTransient} from "@openzeppelin/contracts/utils/ReentrancyGuardTransient.sol";
import {Checkpoints} from "@openzeppelin/contracts/utils/structs/Checkpoints.sol";
import {SafeCast} from "@openzeppelin/contracts/utils/math/SafeCast.sol";
import {Escrow} from "./Escrow.sol";
import {Registry} from "./Registry.sol";
import {Yard} from "./Yard.sol";

/// @notice What this page needs of the Court, whose own page is Court.sol.
interface ICourt {
    function escrow() external view returns (Escrow);
    function epochSeconds() external view returns (uint64);
    function atStake(address account, uint8 role) external view returns (uint256);
    function standingOf(
        uint8 kind,
        address accused,
        bytes32 topic
    ) external view returns (uint64 openCases, uint48 settledUntil);
}

/// @title Rewards: the pot of the protocol's cut, and how it is given back.
/// @notice Validators propose, for an epoch that is over, the root of a tree of (account, cumulative nano): what the last
/// final root says, and what the epochs since earned. After a time in which anyone may challenge it at the Court, it is
/// final, and pays whoever brings a leaf. At most nine tenths of what came in are ever given back; the rest is burned.
/// @dev The rest is burned and not kept by a treasury: whoever held that could trade with himself and lose nothing.
/// What a wrong root can't do, even if nobody challenged it: a final root pays from its own purse alone, which holds what it
/// added to the total of the one before. So it gets no more than the cap left, and nothing that an earlier root promised;
/// what was left unclaimed in a purse for `purseSeconds` goes on to the newest one, whose tree has all those leaves too.
/// Nobody rules this contract, and nothing about it can be changed.
/// Invariants: this contract's YARD = received - paid - burned + bonds; paid <= total of the last final root
/// <= nine tenths of received; burned <= one tenth of it.
contract Rewards is ReentrancyGuardTransient {
    using SafeERC20 for Yard;
    using SafeCast for uint256;
    using Checkpoints for Checkpoints.Trace208;

    /// @notice Where a proposal stands.
    enum State {
        None,
        Pending,
        Final,
        Void, // the court found it wrong
        Lapsed // another became final first, or its proposer had nothing left to lose
    }

    /// @notice A proposed root.
    struct Proposal {
        address proposer;
        uint48 readyAt; // Unix seconds from which it can become final
        uint48 finalAt; // Unix seconds at which it did
        State state;
        uint64 epoch; // covers what was redeemed until its end
        uint64 base; // number of the final root that it adds to; zero: the first
        uint128 total; // nano, of all leaves
        uint128 purse; // nano that claims under it may still draw
        bytes32 root;
        bytes32 cid; // sha256 digest of the blob with the leaves
    }

    uint8 private constant VALIDATOR = 3;
    uint8 private constant WRONG_ROOT = 2;
    uint256 private constant WHOLE_BPS = 10_000;
    uint256 private constant REWARD_BPS = 9_000;

    /// @notice The token.
    Yard public immutable yard;
    /// @notice Where the protocol's cut is credited.
    Escrow public immutable escrow;
    /// @notice Where proposers' stakes are.
    Registry public immutable registry;
    /// @notice Who judges wrong roots.
    ICourt public immutable court;
    /// @notice The length of an epoch in seconds, the Ledger's.
    uint64 public immutable epochSeconds;
    /// @notice Seconds in which a proposal may be challenged.
    uint48 public immutable challengeSeconds;
    /// @notice Seconds for which a final root's purse is its own.
    uint48 public immutable purseSeconds;
    /// @notice What a proposal costs until it is settled, in nano.
    uint128 public immutable bond;

    /// @notice How many roots were proposed; they are numbered from 1.
    uint64 public proposalCount;
    /// @notice The number of the newest final root; zero while there is none.
    uint64 public lastFinal;
    /// @notice What was paid to accounts, in nano.
    uint256 public paid;
    /// @notice What was burned of the rest, in nano.
    uint256 public burned;
    /// @notice The bonds of pending proposals, in nano.
    uint256 public bonds;

    mapping(uint256 id => Proposal) private _proposals;
    mapping(address account => uint256) private _claimed;
    Checkpoints.Trace208 private _income; // epoch => received, at the first reading in that epoch

    /// @notice By the first reading in `epoch`, `received` nano had come in, ever.
    event Collected(uint64 indexed epoch, uint256 received);
    /// @notice A validator proposed a root for all epochs up to `epoch`, on top of the final root `base`.
    event Proposed(
        uint256 indexed id,
        address indexed proposer,
        uint64 indexed epoch,
        uint64 base,
        bytes32 root,
        bytes32 cid,
        uint128 total,
        uint48 readyAt
    );
    /// @notice A proposal became final, void or lapsed.
    event Settled(uint256 indexed id, State state);
    /// @notice `amount` nano went to an account, which has received `cumulative` now.
    event Claimed(uint256 indexed id, address indexed account, uint256 amount, uint256 cumulative);
    /// @notice What was left in an old purse went on to the newest.
    event Rolled(uint256 indexed id, uint256 indexed to, uint256 amount);
    /// @notice `amount` nano of the tenth that nobody receives was burned.
    event RestBurned(uint256 amount);
    /// @notice `amount` nano came from `payer` as the bond of a proposal.
    event BondPosted(bytes32 indexed matter, address indexed payer, uint256 amount);
    /// @notice `amount` nano of a proposal's bond went to `to`; zero burned it.
    event BondReleased(bytes32 indexed matter, address indexed to, uint256 amount);

    /// @notice A time or the bond is zero.
    error ZeroTerm();
    /// @notice A proposer's stake could leave before its root is challenged: seconds both.
    error UnbondingTooShort(uint48 unbondDelay, uint256 needed);
    /// @notice The account's stake is below the minimum of `role`.
    error NotActive(address account, uint8 role);
    /// @notice A root and its blob's digest are not zero.
    error EmptyRoot();
    /// @notice The epoch is not over; the running one is `current`.
    error EpochNotOver(uint64 epoch, uint64 current);
    /// @notice The last final root covers this epoch.
    error StaleEpoch(uint64 epoch, uint64 last);
    /// @notice The total is below the last final root's.
    error LowerTotal(uint128 total, uint128 last);
    /// @notice The total is above nine tenths of what came in by the epoch's end.
    error AboveCap(uint128 total, uint256 cap);
    /// @notice The proposal is not where this can be done.
    error WrongState(uint256 id, State state);
    /// @notice `openCases` cases against the proposal are open at the court.
    error Disputed(uint256 id, uint64 openCases);
    /// @notice The time for it begins at `readyAt`, Unix seconds.
    error TooEarly(uint48 readyAt);
    /// @notice (account, cumulative) is not under the root by this proof.
    error WrongProof(address account, uint256 cumulative);
    /// @notice The account has received this much before, or the purse is empty.
    error NothingDue(address account, uint256 claimed, uint256 purse);
    /// @notice This contract pays nothing to itself.
    error InvalidRecipient();
    /// @notice There is nothing to move or to burn.
    error NothingLeft();

    /// @param court_ of the deployment; its escrow, registry and token are used.
    /// @param challengeSeconds_ in which a proposal may be challenged; unbonding must outlast it.
    /// @param purseSeconds_ for which a final root's purse is its own.
    /// @param bond_ of a proposal, in nano.
    constructor(ICourt court_, uint48 challengeSeconds_, uint48 purseSeconds_, uint128 bond_) {
        if (challengeSeconds_ == 0 || purseSeconds_ == 0 || bond_ == 0) revert ZeroTerm();
        (court, escrow, epochSeconds) = (court_, court_.escrow(), court_.epochSeconds());
        (registry, yard) = (escrow.registry(), escrow.yard());
        uint48 unbonding = registry.unbondDelay();
        if (unbonding <= challengeSeconds_) revert UnbondingTooShort(unbonding, challengeSeconds_);
        (challengeSeconds, purseSeconds, bond) = (challengeSeconds_, purseSeconds_, bond_);
    }

    /// @notice Anyone: takes in what the escrow holds for this pot; the first reading in an epoch is kept.
    /// @dev What the contract knows to have come in by an epoch's end is the first reading after it, so validators take one
    /// as each epoch begins.
    /// @return received what came in ever, in nano.
    function collect() external nonReentrant returns (uint256 received) {
        return _collect();
    }

    /// @notice Anyone with an active validator's stake and the bond (needs an allowance): proposes a root.
    /// @dev Several may be pending on one base, so that nobody can hold the others up; the first to become final lapses the
    /// rest.
    /// @param epoch that is over, after the last final root's.
    /// @param root over the items keccak256(abi.encode(account, cumulative)).
    /// @param cid sha256 digest of the blob with the leaves.
    /// @param total of all leaves in nano, at least the last final root's.
    /// @return id the proposal's number, which is the topic of a case against it.
    function propose(
        uint64 epoch,
        bytes32 root,
        bytes32 cid,
        uint128 total
    ) external nonReentrant returns (uint256 id) {
        if (!registry.isActive(msg.sender, VALIDATOR)) revert NotActive(msg.sender, VALIDATOR);
        if (root == 0 || cid == 0) revert EmptyRoot();
        uint64 current = epochAt(block.timestamp);
        if (epoch >= current) revert EpochNotOver(epoch, current);
        uint64 base = lastFinal;
        Proposal storage before = _proposals[base];
        if (base != 0 && epoch <= before.epoch) revert StaleEpoch(epoch, before.epoch);
        if (total < before.total) revert LowerTotal(total, before.total);
        _collect();
        uint256 cap = capOf(epoch);
        if (total > cap) revert AboveCap(total, cap);
        id = ++proposalCount;
        Proposal storage p = _proposals[id];
        (p.proposer, p.state, p.readyAt) = (msg.sender, State.Pending, uint48(block.timestamp) + challengeSeconds);
        (p.epoch, p.base, p.total, p.root, p.cid) = (epoch, base, total, root, cid);
        bonds += bond;
        emit Proposed(id, msg.sender, epoch, base, root, cid, total, p.readyAt);
        emit BondPosted(bytes32(id), msg.sender, bond);
        yard.safeTransferFrom(msg.sender, address(this), bond);
    }

    /// @notice Anyone: ends a proposal once its time is over and no case against it is open.
    /// @dev Convicted at the court: void, its bond burned. Otherwise the bond goes back, and the root is final, unless another
    /// became final on the same base, or nobody could have opened a case because its proposer has nothing at stake.
    function settle(uint256 id) external nonReentrant {
        Proposal storage p = _proposals[id];
        if (p.state != State.Pending) revert WrongState(id, p.state);
        if (block.timestamp < p.readyAt) revert TooEarly(p.readyAt);
        (uint64 open, uint48 convicted) = court.standingOf(WRONG_ROOT, p.proposer, bytes32(id));
        if (open != 0) revert Disputed(id, open);
        if (convicted >= p.readyAt - challengeSeconds) {
            p.state = State.Void;
        } else if (p.base != lastFinal || court.atStake(p.proposer, VALIDATOR) == 0) {
            p.state = State.Lapsed;
        } else {
            (p.state, p.finalAt) = (State.Final, uint48(block.timestamp));
            p.purse = p.total - _proposals[p.base].total;
            lastFinal = uint64(id);
        }
        bonds -= bond;
        emit Settled(id, p.state);
        address to = p.state == State.Void ? address(0) : p.proposer;
        emit BondReleased(bytes32(id), to, bond);
        if (to == address(0)) yard.burn(bond);
        else yard.safeTransfer(to, bond);
    }

    /// @notice Anyone, for any account: pays what a leaf of a final root says beyond what the account ever received, as far as
    /// that root's purse reaches.
    /// @param id a final root's number; whoever has leaves under several claims in their order.
    /// @param account who is paid.
    /// @param cumulative what the leaf says that it earned ever, in nano.
    /// @param proof sibling hashes from the leaf up.
    /// @return amount what was paid, in nano.
    function claim(
        uint256 id,
        address account,
        uint256 cumulative,
        bytes32[] calldata proof
    ) external nonReentrant returns (uint256 amount) {
        Proposal storage p = _proposals[id];
        if (p.state != State.Final) revert WrongState(id, p.state);
        if (account == address(this)) revert InvalidRecipient();
        bytes32 item = keccak256(abi.encode(account, cumulative));
        bytes32 leaf = keccak256(bytes.concat(keccak256(bytes.concat(item))));
        if (!MerkleProof.verifyCalldata(proof, p.root, leaf)) revert WrongProof(account, cumulative);
        (uint256 claimed, uint256 purse) = (_claimed[account], p.purse);
        amount = cumulative > claimed ? cumulative - claimed : 0;
        if (amount > purse) amount = purse;
        if (amount == 0) revert NothingDue(account, claimed, purse);
        p.purse = (purse - amount).toUint128();
        _claimed[account] = claimed + amount;
        paid += amount;
        emit Claimed(id, account, amount, claimed + amount);
        yard.safeTransfer(account, amount);
    }

    /// @notice Anyone: moves what is left in a final root's purse to the newest one's, `purseSeconds` after it became final.
    function roll(uint256 id) external {
        Proposal storage p = _proposals[id];
        if (p.state != State.Final || id == lastFinal) revert WrongState(id, p.state);
        uint48 readyAt = p.finalAt + purseSeconds;
        if (block.timestamp < readyAt) revert TooEarly(readyAt);
        uint128 amount = p.purse;
        if (amount == 0) revert NothingLeft();
        p.purse = 0;
        _proposals[lastFinal].purse += amount;
        emit Rolled(id, lastFinal, amount);
    }

    /// @notice Anyone: burns what has not been burned yet of the tenth that nobody receives.
    /// @return amount what was burned, in nano.
    function burnRest() external nonReentrant returns (uint256 amount) {
        uint256 received = _collect();
        amount = (received * (WHOLE_BPS - REWARD_BPS)) / WHOLE_BPS - burned;
        if (amount == 0) revert NothingLeft();
        burned += amount;
        emit RestBurned(amount);
        yard.burn(amount);
    }

    /// @notice Anyone: a proposal.
    function proposalOf(uint256 id) external view returns (Proposal memory) {
        return _proposals[id];
    }

    /// @notice Anyone: what an account was paid ever, in nano.
    function claimedBy(address account) external view returns (uint256) {
        return _claimed[account];
    }

    /// @notice Anyone: the epoch that Unix time `t` (seconds) falls in, as the Ledger counts.
    function epochAt(uint256 t) public view returns (uint64) {
        return uint64(t / epochSeconds);
    }

    /// @notice Anyone: what truly came in ever, in nano; what the escrow still holds is not in it.
    function receivedSoFar() public view returns (uint256) {
        return yard.balanceOf(address(this)) + paid + burned - bonds;
    }

    /// @notice Anyone: the highest total that may be proposed for an epoch; zero until there is a reading after it.
    function capOf(uint64 epoch) public view returns (uint256) {
        return (uint256(_income.lowerLookup(uint48(epoch) + 1)) * REWARD_BPS) / WHOLE_BPS;
    }

    function _collect() private returns (uint256 received) {
        if (escrow.unsweptOf(address(this)) != 0) {
            address[] memory pots = new address[](1);
            pots[0] = address(this);
            escrow.sweep(pots);
        }
        received = receivedSoFar();
        uint48 epoch = uint48(epochAt(block.timestamp));
        (bool isKnown, uint48 last, ) = _income.latestCheckpoint();
        if (!isKnown || last < epoch) {
            _income.push(epoch, received.toUint208());
            emit Collected(epoch, received);
        }
    }
}
