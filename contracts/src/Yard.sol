// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {ERC20} from "@openzeppelin/contracts/token/ERC20/ERC20.sol";
import {ERC20Burnable} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Burnable.sol";
import {ERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Permit.sol";
import {ERC20Votes} from "@openzeppelin/contracts/token/ERC20/extensions/ERC20Votes.sol";
import {ERC3009} from "@openzeppelin/contracts/token/ERC20/extensions/draft-ERC3009.sol";
import {Nonces} from "@openzeppelin/contracts/utils/Nonces.sol";
import {ERC6372Utils} from "@openzeppelin/contracts/utils/ERC6372Utils.sol";
import {Time} from "@openzeppelin/contracts/utils/types/Time.sol";

/// @title Yard: the network's money.
/// @notice An ERC-20 with 9 decimals; its base unit, the nano (10^-9 YARD), is the unit of every amount on chain and off.
/// @dev All of it is OpenZeppelin's: permit (EIP-2612), votes (ERC-5805, on the time clock, as stakes are), transfers by
/// authorization with random nonces (EIP-3009, which x402 uses), burning. Its EIP-712 domain is the usual one of tokens
/// (name "Yard", version "1", chain id, this contract), since wallets and x402 clients expect that.
contract Yard is ERC20, ERC20Burnable, ERC20Permit, ERC20Votes, ERC3009, AccessManaged {
    /// @param manager the AccessManager that says who may mint.
    constructor(address manager) ERC20("Yard", "YARD") ERC20Permit("Yard") AccessManaged(manager) {}

    /// @notice Only the role that the manager set for `mint`: creates new YARD.
    /// @param to who receives it.
    /// @param amount in nano.
    function mint(address to, uint256 amount) external restricted {
        _mint(to, amount);
    }

    /// @notice Anyone: 9, so that one YARD is 1,000,000,000 nano.
    function decimals() public pure override returns (uint8) {
        return 9;
    }

    /// @notice Anyone: the clock of votes: Unix time in seconds.
    function clock() public view override returns (uint48) {
        return Time.timestamp();
    }

    /// @notice Anyone: says that `clock` is a timestamp (ERC-6372).
    // solhint-disable-next-line func-name-mixedcase
    function CLOCK_MODE() public view override returns (string memory) {
        return ERC6372Utils.timestampClockMode(clock());
    }

    /// @notice Anyone: the next nonce that `owner` signs a permit or a delegation with.
    function nonces(address owner) public view override(ERC20Permit, Nonces) returns (uint256) {
        return super.nonces(owner);
    }

    function _update(address from, address to, uint256 value) internal override(ERC20, ERC20Votes) {
        super._update(from, to, value);
    }
}
