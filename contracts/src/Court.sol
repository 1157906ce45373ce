// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Cases} from "./Cases.sol";
import {Domain} from "./Domain.sol";
import {Escrow} from "./Escrow.sol";
import {Ledger} from "./Ledger.sol";
import {Sanctions} from "./Sanctions.sol";

/// @title Court: what a lie costs, and who may say that it was one.
/// @notice Validators' secrets (Secrets) draw panels (Panels) that judge cases (Cases); what is slashed is divided in
/// Sanctions. The court can hold and slash stakes, as the Registry's slasher, and keeps bonds; it reaches no deposit, no
/// lane and no unswept balance, nobody rules it, and nothing about it can be changed.
/// @dev For other contracts: a wrong root of rewards is a case of kind WrongRoot, whose accused is the validator that
/// proposed it and whose topic is the proposal's id. `standingOf(Kind.WrongRoot, proposer, id)` then says all there is to
/// know: (open cases, convictedAt). While the first is above zero the root waits; once the second is not zero it is void.
contract Court is Cases {
    /// @param escrow of the deployment whose stakes are judged; its registry and token are used.
    /// @param ledger says how long an epoch is.
    /// @param deploymentSalt random id of this deployment.
    /// @param terms_ times, sizes, shares and bonds; unbonding must outlast them, see `UnbondingTooShort`.
    constructor(
        Escrow escrow,
        Ledger ledger,
        bytes32 deploymentSalt,
        Terms memory terms_
    ) Domain(deploymentSalt) Sanctions(escrow, ledger, terms_) {}
}
