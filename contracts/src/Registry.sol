// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.30;

import {AccessManaged} from "@openzeppelin/contracts/access/manager/AccessManaged.sol";
import {ECDSA} from "@openzeppelin/contracts/utils/cryptography/ECDSA.sol";
import {Domain} from "./Domain.sol";
import {Stakes} from "./Stakes.sol";
import {Yard} from "./Yard.sol";

/// @title Registry: who takes part, and what is on sale.
/// @notice Stakes (see Stakes), gateways' addresses on the net, services, and the offers that providers sign. A service is
/// immutable: a new split or manifest is a new service. Nobody can change or remove what someone else registered.
contract Registry is Stakes, Domain {
    /// @notice Who is paid when a service's vouchers are redeemed; the shares are basis points and sum to 10,000.
    /// @dev Two storage slots.
    struct Payees {
        address builder;
        uint16 providerBps;
        uint16 builderBps;
        uint16 dataBps;
        uint16 protocolBps;
        address dataPot;
    }

    /// @notice A service on sale.
    struct Service {
        Payees payees;
        bytes32 manifest; // sha256 digest of the manifest blob
        string kind;
        string name;
    }

    /// @notice What a provider signs to sell a service: prices in nano per 1,000,000 units; a zero manifest withdraws it.
    struct Offer {
        address provider;
        bytes32 serviceId;
        uint64 priceIn;
        uint64 priceOut;
        uint8 grade;
        bytes32 manifest;
        uint64 seq;
    }

    /// @notice The standing offer of a provider for a service.
    struct StandingOffer {
        uint64 priceIn;
        uint64 priceOut;
        uint64 seq;
        uint48 setAt;
        uint8 grade;
        bytes32 manifest;
    }

    bytes32 private constant OFFER_TYPEHASH = keccak256(
        "Offer(address provider,bytes32 serviceId,uint64 priceIn,uint64 priceOut,uint8 grade,bytes32 manifest,uint64 seq)"
    );
    /// @dev Bit c is set where character c may stand in a name: a-z 0-9 first, and then also - . / : @ _
    uint256 private constant ALPHANUMERICS = (((1 << 26) - 1) << 0x61) | (((1 << 10) - 1) << 0x30);
    uint256 private constant NAME_CHARACTERS =
        ALPHANUMERICS | (1 << 0x2d) | (1 << 0x2e) | (1 << 0x2f) | (1 << 0x3a) | (1 << 0x40) | (1 << 0x5f);
    uint256 private constant MAX_NAME_BYTES = 64;
    uint256 private constant MAX_KIND_BYTES = 32;
    uint256 private constant MAX_URL_BYTES = 256;
    uint16 private constant WHOLE_BPS = 10_000;
    uint8 private constant MAX_GRADE = 6;

    mapping(address gateway => string) private _urls;
    mapping(bytes32 serviceId => Service) private _services;
    mapping(address provider => mapping(bytes32 serviceId => StandingOffer)) private _offers;

    /// @notice A gateway said where it is reached; empty: nowhere.
    event GatewaySet(address indexed gateway, string url);
    /// @notice A service was registered, for ever; `splitBps` is provider, builder, data pot, protocol.
    event ServiceRegistered(
        bytes32 indexed serviceId,
        address indexed builder,
        address indexed dataPot,
        string name,
        string kind,
        bytes32 manifest,
        uint16[4] splitBps
    );
    /// @notice A provider's offer was set; a zero manifest withdrew it.
    event OfferSet(
        address indexed provider,
        bytes32 indexed serviceId,
        uint64 priceIn,
        uint64 priceOut,
        uint8 grade,
        bytes32 manifest,
        uint64 seq
    );

    /// @notice The account's stake is below the minimum of `role`.
    error NotActive(address account, uint8 role);
    /// @notice A text has `length` bytes, which must be from `least` to `most`.
    error BadLength(uint256 length, uint256 least, uint256 most);
    /// @notice The character at `position` (from 0) is not one of a-z 0-9, or after the first of - . / : @ _
    error BadCharacter(uint256 position);
    /// @notice The shares add up to `sum` basis points, not 10,000.
    error BadSplit(uint256 sum);
    /// @notice A data share needs someone to receive it.
    error MissingDataPot();
    /// @notice The name is taken, for ever.
    error AlreadyRegistered(bytes32 serviceId);
    /// @notice No such service is registered.
    error UnknownService(bytes32 serviceId);
    /// @notice Grades are 0 to 6.
    error BadGrade(uint8 grade);
    /// @notice The offer is not signed by the provider that it names.
    error BadSignature();
    /// @notice An offer's number must be above that of the standing one.
    error StaleSeq(uint64 current, uint64 given);

    /// @param token the Yard.
    /// @param manager the AccessManager that says who may lock, slash and draw.
    /// @param deploymentSalt random id of this deployment.
    /// @param delay seconds that unbonding takes, above zero.
    /// @param minStakes least stake in nano of a provider, a gateway and a validator.
    constructor(
        Yard token,
        address manager,
        bytes32 deploymentSalt,
        uint48 delay,
        uint256[3] memory minStakes
    ) AccessManaged(manager) Domain(deploymentSalt) Stakes(token, delay, minStakes) {}

    /// @notice An active gateway: says where nodes and clients reach it; the empty string, which anyone may set, takes it back.
    /// @param url at most 256 bytes.
    function setGateway(string calldata url) external {
        if (bytes(url).length > MAX_URL_BYTES) revert BadLength(bytes(url).length, 0, MAX_URL_BYTES);
        if (bytes(url).length != 0 && !isActive(msg.sender, GATEWAY)) revert NotActive(msg.sender, GATEWAY);
        _urls[msg.sender] = url;
        emit GatewaySet(msg.sender, url);
    }

    /// @notice Anyone, who becomes its builder: registers a service for ever.
    /// @param name 1 to 64 bytes of a-z 0-9 - . / : @ _, the first a letter or digit.
    /// @param kind the sort of work, 1 to 32 bytes by the same rule.
    /// @param manifest sha256 digest of the manifest blob.
    /// @param splitBps shares of provider, builder, data pot and protocol in basis points; their sum is 10,000.
    /// @param dataPot who receives the data share; may be zero only where that share is.
    /// @return serviceId keccak256 of the name.
    function registerService(
        string calldata name,
        string calldata kind,
        bytes32 manifest,
        uint16[4] calldata splitBps,
        address dataPot
    ) external returns (bytes32 serviceId) {
        _checkName(bytes(name), MAX_NAME_BYTES);
        _checkName(bytes(kind), MAX_KIND_BYTES);
        uint256 sum = uint256(splitBps[0]) + splitBps[1] + splitBps[2] + splitBps[3];
        if (sum != WHOLE_BPS) revert BadSplit(sum);
        if (splitBps[2] != 0 && dataPot == address(0)) revert MissingDataPot();
        serviceId = keccak256(bytes(name));
        Service storage service = _services[serviceId];
        if (service.payees.builder != address(0)) revert AlreadyRegistered(serviceId);
        service.payees = Payees(msg.sender, splitBps[0], splitBps[1], splitBps[2], splitBps[3], dataPot);
        (service.manifest, service.kind, service.name) = (manifest, kind, name);
        emit ServiceRegistered(serviceId, msg.sender, dataPot, name, kind, manifest, splitBps);
    }

    /// @notice Anyone: sets the offer that an active provider signed; withdrawing one needs no stake.
    /// @param offer what was signed; its `seq` must be above the standing one's.
    /// @param r first word of the EIP-2098 signature.
    /// @param vs second word of it.
    function setOffer(Offer calldata offer, bytes32 r, bytes32 vs) external {
        (address signer, , ) = ECDSA.tryRecover(_digest(keccak256(abi.encode(OFFER_TYPEHASH, offer))), r, vs);
        if (signer == address(0) || signer != offer.provider) revert BadSignature();
        if (_services[offer.serviceId].payees.builder == address(0)) revert UnknownService(offer.serviceId);
        if (offer.grade > MAX_GRADE) revert BadGrade(offer.grade);
        StandingOffer storage standing = _offers[offer.provider][offer.serviceId];
        if (offer.seq <= standing.seq) revert StaleSeq(standing.seq, offer.seq);
        if (offer.manifest != 0 && !isActive(offer.provider, PROVIDER)) revert NotActive(offer.provider, PROVIDER);
        _offers[offer.provider][offer.serviceId] = StandingOffer(
            offer.priceIn, offer.priceOut, offer.seq, uint48(block.timestamp), offer.grade, offer.manifest
        );
        emit OfferSet(
            offer.provider, offer.serviceId, offer.priceIn, offer.priceOut, offer.grade, offer.manifest, offer.seq
        );
    }

    /// @notice Anyone: where a gateway is reached; empty where it never said.
    function gatewayUrl(address account) external view returns (string memory) {
        return _urls[account];
    }

    /// @notice Anyone: a registered service; its builder is zero where there is none.
    function serviceOf(bytes32 serviceId) external view returns (Service memory) {
        return _services[serviceId];
    }

    /// @notice Anyone: what the Escrow needs at redemption; the provider's share is the rest of 10,000.
    function payeesOf(
        bytes32 serviceId
    )
        external
        view
        returns (address builder, address dataPot, uint256 builderBps, uint256 dataBps, uint256 protocolBps)
    {
        Payees storage payees = _services[serviceId].payees;
        return (payees.builder, payees.dataPot, payees.builderBps, payees.dataBps, payees.protocolBps);
    }

    /// @notice Anyone: the last offer of a provider for a service; its manifest is zero where there is none.
    function offerOf(address provider, bytes32 serviceId) external view returns (StandingOffer memory) {
        return _offers[provider][serviceId];
    }

    function _checkName(bytes calldata name, uint256 most) private pure {
        if (name.length == 0 || name.length > most) revert BadLength(name.length, 1, most);
        for (uint256 i = 0; i < name.length; ++i) {
            uint256 allowed = i == 0 ? ALPHANUMERICS : NAME_CHARACTERS;
            if ((allowed >> uint8(name[i])) & 1 == 0) revert BadCharacter(i);
        }
    }
}
