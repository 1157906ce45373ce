// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {IERC20Permit} from "@openzeppelin/contracts/token/ERC20/extensions/IERC20Permit.sol";

/// @dev What is called of Permit2, as its own interface declares it.
interface IPermit2 {
    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    struct SignatureTransferDetails {
        address to;
        uint256 requestedAmount;
    }

    function permitWitnessTransferFrom(
        PermitTransferFrom calldata permit,
        SignatureTransferDetails calldata details,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external;
}

/// @title UptoProxy: x402's `upto` scheme for development chains.
/// @notice A payer signs a Permit2 transfer of at most an amount, to one receiver, by one facilitator; that facilitator
/// settles it once, at what was really used.
/// @dev The embedded chain's genesis carries this code at the address where x402 publishes its own proxy
/// (docs/spec/x402.md): the same functions, the same signed types. Public chains have x402's. It holds nothing and stores
/// nothing; Permit2 checks the signature and spends the nonce.
contract UptoProxy {
    /// @dev What the payer signs beside the transfer.
    struct Witness {
        address to; // who is paid
        address facilitator; // who alone may settle
        uint256 validAfter; // Unix seconds
    }

    /// @dev An EIP-2612 permit that lets Permit2 take the amount; its owner is the payer, its spender Permit2.
    struct TokenPermit {
        uint256 value;
        uint256 deadline;
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    /// @notice Permit2, at its address on every chain.
    IPermit2 public constant PERMIT2 = IPermit2(0x000000000022D473030F116dDEE9F6B43aC78BA3);

    bytes32 private constant WITNESS_TYPE_HASH =
        keccak256("Witness(address to,address facilitator,uint256 validAfter)");
    string private constant WITNESS_TYPE_STRING =
        "Witness witness)TokenPermissions(address token,uint256 amount)Witness(address to,address facilitator,uint256 validAfter)";

    /// @notice A payment was settled.
    event Settled();
    /// @notice A payment was settled, with its own allowance for Permit2.
    event SettledWithPermit();

    /// @notice Nothing is to be paid: then there is nothing to settle.
    error InvalidAmount();
    /// @notice More is to be paid than the payer signed.
    error AmountExceedsPermitted();
    /// @notice The caller is not whom the payer named.
    error UnauthorizedFacilitator();
    /// @notice The receiver is the zero address.
    error InvalidDestination();
    /// @notice The payer is the zero address.
    error InvalidOwner();
    /// @notice The payment is not valid yet.
    error PaymentTooEarly();
    /// @notice The token's permit is for another amount than the payment's.
    error Permit2612AmountMismatch();

    /// @notice Only the facilitator that the payer signed for: moves `amount` from the payer to the signed receiver.
    /// @param permit token, highest amount, nonce and deadline (Unix seconds), as signed.
    /// @param amount in the token's base unit, above zero, at most what was signed.
    /// @param owner the payer.
    /// @param witness receiver, facilitator and start, as signed.
    /// @param signature the payer's, over permit and witness, for Permit2.
    function settle(
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external {
        _settle(permit, amount, owner, witness, signature);
        emit Settled();
    }

    /// @notice Only the facilitator that the payer signed for: the same, after the payer's EIP-2612 permit for Permit2.
    /// @dev A permit that somebody submitted before us is no failure while the allowance is there.
    /// @param tokenPermit of the same amount as `permit`.
    /// @param permit token, highest amount, nonce and deadline (Unix seconds), as signed.
    /// @param amount in the token's base unit, above zero, at most what was signed.
    /// @param owner the payer.
    /// @param witness receiver, facilitator and start, as signed.
    /// @param signature the payer's, over permit and witness, for Permit2.
    function settleWithPermit(
        TokenPermit calldata tokenPermit,
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) external {
        if (tokenPermit.value != permit.permitted.amount) revert Permit2612AmountMismatch();
        try IERC20Permit(permit.permitted.token).permit(
            owner,
            address(PERMIT2),
            tokenPermit.value,
            tokenPermit.deadline,
            tokenPermit.v,
            tokenPermit.r,
            tokenPermit.s
        ) {} catch {}
        _settle(permit, amount, owner, witness, signature);
        emit SettledWithPermit();
    }

    function _settle(
        IPermit2.PermitTransferFrom calldata permit,
        uint256 amount,
        address owner,
        Witness calldata witness,
        bytes calldata signature
    ) private {
        if (amount == 0) revert InvalidAmount();
        if (amount > permit.permitted.amount) revert AmountExceedsPermitted();
        if (msg.sender != witness.facilitator) revert UnauthorizedFacilitator();
        if (witness.to == address(0)) revert InvalidDestination();
        if (owner == address(0)) revert InvalidOwner();
        if (block.timestamp < witness.validAfter) revert PaymentTooEarly();
        bytes32 hash =
            keccak256(abi.encode(WITNESS_TYPE_HASH, witness.to, witness.facilitator, witness.validAfter));
        PERMIT2.permitWitnessTransferFrom(
            permit, IPermit2.SignatureTransferDetails(witness.to, amount), owner, hash, WITNESS_TYPE_STRING, signature
        );
    }
}
