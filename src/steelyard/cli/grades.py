"""The grade of an offer whose seller names none: what its manifest allows, where the manifest is on this machine."""

from __future__ import annotations

from steelyard.cli.settings import Settings
from steelyard.errors import SteelyardError
from steelyard.protocol.cid import Cid
from steelyard.protocol.messages import Grade
from steelyard.services.discovery import installed_services
from steelyard.services.manifest import decode_manifest
from steelyard.storage.blobs import FolderBlobs


async def find_grade(settings: Settings, manifest: bytes) -> int:
    """Return the highest grade that a manifest (SHA-256, 32 bytes) allows; unchecked where it can't be read here."""
    try:
        decoded = decode_manifest(await FolderBlobs(settings.blobs_folder).get(Cid(manifest)))
        return int(installed_services().find(decoded.kind)(decoded).grade)
    except SteelyardError:
        return int(Grade.UNCHECKED)
