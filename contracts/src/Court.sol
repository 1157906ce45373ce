// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Cases} from "./Cases.sol";
import {Domain} from "./Domain.sol";
import {Escrow} from "./Escrow.sol";
import {Bench} from "./Faults.sol";
import {Ledger} from "./Ledger.sol";
import {Proofs} from "./Proofs.sol";
import {Sanctions} from "./Sanctions.sol";

/// @title Court: what a lie costs, and who may say that it was one.
/// @notice Validators' secrets (Secrets) draw panels (Panels) that judge cases (Cases); what signatures alone decide is in
/// Proofs, a contract of its own that this one makes. What is slashed is divided in Sanctions. The court can hold and slash
/// stakes, as the Registry's slasher, and keeps bonds; it reaches no deposit, no lane and no unswept balance, nobody rules
/// it, and nothing about it can be changed.
/// @dev For other contracts: a wrong root of rewards is a case of kind WrongRoot, whose accused is the validator that
/// proposed it and whose topic is the proposal's id. `standingOf(Kind.WrongRoot, proposer, id)` then says all there is to
/// know: (open cases, convictedAt). While the first is above zero the root waits; once the second is not zero it is void.
contract Court is Cases, Bench {
    /// @notice The contract that judges contradictions and silence; it alone may call the last three functions.
    Proofs public immutable proofs;

    /// @notice Only the Proofs contract may ask for this.
    error NotProofs(address caller);

    modifier onlyProofs() {
        if (msg.sender != address(proofs)) revert NotProofs(msg.sender);
        _;
    }

    /// @param escrow of the deployment whose stakes are judged; its registry and token are used.
    /// @param ledger says how long an epoch is.
    /// @param deploymentSalt random id of this deployment.
    /// @param terms_ times, sizes, shares and bonds; unbonding must outlast them, see `UnbondingTooShort`.
    constructor(
        Escrow escrow,
        Ledger ledger,
        bytes32 deploymentSalt,
        Terms memory terms_
    ) Domain(deploymentSalt) Sanctions(escrow, ledger, terms_) {
        proofs = new Proofs(escrow, deploymentSalt, terms_.keepSeconds, terms_.evidenceSeconds);
    }

    /// @inheritdoc Bench
    function beginDemand(bytes32 id, address provider, address demander) external onlyProofs nonReentrant {
        _hold(provider, PROVIDER);
        _takeBond(id, demander, _terms.demandBond);
    }

    /// @inheritdoc Bench
    function endDemand(bytes32 id, address provider, address to) external onlyProofs nonReentrant {
        _free(provider, PROVIDER);
        _releaseBond(id, to, _terms.demandBond);
    }

    /// @inheritdoc Bench
    function punish(
        bytes32 matter,
        address account,
        uint8 role,
        bool isSilence,
        Harm[] calldata harms,
        address informer
    ) external onlyProofs nonReentrant {
        if (!isSilence && atStake(account, role) == 0) revert NothingAtStake(account, role);
        _punish(matter, account, role, isSilence ? _terms.slashBps : _terms.faultBps, harms, informer);
    }
}
