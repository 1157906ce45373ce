// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {MessageHashUtils} from "@openzeppelin/contracts/utils/cryptography/MessageHashUtils.sol";
import {IERC5267} from "@openzeppelin/contracts/interfaces/IERC5267.sol";

/// @title Domain: the one EIP-712 domain that every Steelyard message is signed under.
/// @notice `EIP712Domain(string name,string version,uint256 chainId,bytes32 salt)`, name "Steelyard", version "1".
/// @dev OpenZeppelin's EIP712 binds a message to one contract. Ours binds it to one *deployment*: all contracts and all
/// off-chain messages share the random `salt`, so a wiped development chain never accepts an old signature. The separator
/// is cached and rebuilt when the chain id changes (a fork). Law: docs/spec/messages.md.
abstract contract Domain is IERC5267 {
    bytes1 private constant FIELDS = 0x17; // name | version | chainId | salt
    bytes32 private constant NAME_HASH = keccak256("Steelyard");
    bytes32 private constant VERSION_HASH = keccak256("1");

    bytes32 private immutable _salt;
    uint256 private immutable _cachedChainId;
    bytes32 private immutable _cachedSeparator;

    /// @param deploymentSalt random id of this deployment, the same for all of its contracts.
    constructor(bytes32 deploymentSalt) {
        _salt = deploymentSalt;
        _cachedChainId = block.chainid;
        _cachedSeparator = _buildSeparator();
    }

    /// @notice Anyone: the domain separator that messages are hashed under on this chain.
    function domainSeparator() public view returns (bytes32) {
        return block.chainid == _cachedChainId ? _cachedSeparator : _buildSeparator();
    }

    /// @notice Anyone: the domain's fields, as ERC-5267 wants them.
    /// @inheritdoc IERC5267
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (FIELDS, "Steelyard", "1", block.chainid, address(0), _salt, new uint256[](0));
    }

    /// @dev The digest that a signer of the struct signed.
    function _digest(bytes32 structHash) internal view returns (bytes32) {
        return MessageHashUtils.toTypedDataHash(domainSeparator(), structHash);
    }

    function _buildSeparator() private view returns (bytes32) {
        return
            MessageHashUtils.toDomainSeparator(FIELDS, NAME_HASH, VERSION_HASH, block.chainid, address(0), _salt);
    }
}
