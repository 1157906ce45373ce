// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {Demands} from "./Demands.sol";
import {Domain} from "./Domain.sol";
import {Escrow} from "./Escrow.sol";
import {Faults} from "./Faults.sol";

/// @title Proofs: faults that signatures alone decide, without a panel.
/// @notice Contradictions (Faults) and silence where evidence is demanded (Demands). The Court makes this contract, holds
/// and slashes for it, and keeps its bonds; no money is ever here.
contract Proofs is Demands {
    /// @param escrow of the deployment.
    /// @param deploymentSalt random id of this deployment.
    /// @param keep seconds after a call in which its evidence may be demanded.
    /// @param serve seconds to serve it.
    constructor(
        Escrow escrow,
        bytes32 deploymentSalt,
        uint48 keep,
        uint48 serve
    ) Domain(deploymentSalt) Faults(escrow) Demands(keep, serve) {}
}
