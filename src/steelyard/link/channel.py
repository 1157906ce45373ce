"""The TLS channel that a handshake is bound to, and where a link may do without TLS.

1. On TLS the channel is the SHA-256 of the server's certificate (DER), as the client saw it and the server holds it.
2. Without TLS the channel is zero, and both ends refuse it unless the other one's address is loopback.
3. A proxy that ends TLS on the gateway's own machine is allowed: the server then is told the proxy's certificate.

Law: docs/spec/link.md, section 3.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from steelyard.errors import BadMessage, ConfigError
from steelyard.protocol.hashing import ZERO32


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What a link server shows on TLS.

    Args:
        context: with the certificate and its key; None where a proxy on this machine ends TLS.
        certificate: DER of the certificate that clients see.
    """

    context: ssl.SSLContext | None
    certificate: bytes


def load_tls(certificate_path: Path, key_path: Path | None) -> TlsIdentity:
    """Return the identity in PEM files; without a key the certificate is a local proxy's.

    Raises:
        ConfigError: a file is missing or malformed; names it.
    """
    try:
        pem = certificate_path.read_text("ascii")
        end = pem.index("-----END CERTIFICATE-----") + len("-----END CERTIFICATE-----")
        certificate = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE-----") : end])
        context = None
        if key_path is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            context.load_cert_chain(certificate_path, key_path)
    except (OSError, ValueError, ssl.SSLError) as error:
        raise ConfigError(f"can't read the link's certificate {certificate_path} or its key: {error}") from error
    return TlsIdentity(context, certificate)


def certificate_channel(certificate: bytes) -> bytes:
    """Return the 32-byte channel of a DER certificate."""
    return sha256(certificate).digest()


def is_loopback(host: str) -> bool:
    """Tell whether an IP address, or the name ``localhost``, is this machine's own."""
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def check_url(url: str) -> None:
    """Refuse a gateway's URL that no link may be opened to.

    Raises:
        ConfigError: neither wss:// nor ws:// to a loopback host; says what to write instead.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ConfigError(f"{url!r} is no link URL: it looks like wss://gateway.example:9100/link", param="url")
    if parts.scheme == "ws" and not is_loopback(parts.hostname):
        raise ConfigError(f"{url!r} is not encrypted: off this machine a link needs wss://", param="url")


def server_channel(identity: TlsIdentity | None, peer_host: str) -> bytes:
    """Return the channel on a server's end; raises BadMessage for a peer off this machine without TLS."""
    if identity is not None and (identity.context is not None or is_loopback(peer_host)):
        return certificate_channel(identity.certificate)
    if not is_loopback(peer_host):
        raise BadMessage(f"{peer_host} dialled without TLS: off this machine a link needs wss://", code="no_tls")
    return ZERO32


def client_channel(ssl_object: ssl.SSLObject | None, peer_host: str) -> bytes:
    """Return the channel on a client's end; raises BadMessage off loopback without TLS or without a certificate."""
    if ssl_object is None:
        if not is_loopback(peer_host):
            raise BadMessage(f"no TLS to {peer_host}: off this machine a link needs wss://", code="no_tls")
        return ZERO32
    certificate = ssl_object.getpeercert(binary_form=True)
    if not certificate:
        raise BadMessage("the server showed no certificate", code="no_tls")
    return certificate_channel(certificate)
