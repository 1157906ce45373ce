"""What a contract said when it refused: the data as it is, and the words if they are standard ones.

Law: Solidity ABI, `Error(string)` and `Panic(uint256)`.
"""

from __future__ import annotations

from steelyard.errors import Reverted

ERROR_STRING = bytes.fromhex("08c379a0")
PANIC = bytes.fromhex("4e487b71")


def reverted(data: bytes) -> Reverted:
    """Return the error for a revert's return data; custom errors keep their data and get no words."""
    reason = _reason(data)
    message = f"execution reverted: {reason}" if reason else "execution reverted"
    return Reverted(message, reason=reason, data=data)


def _reason(data: bytes) -> str:
    if data[:4] == PANIC and len(data) == 36:
        return f"panic code 0x{int.from_bytes(data[4:], 'big'):02x}"
    if data[:4] != ERROR_STRING or len(data) < 68 or int.from_bytes(data[4:36], "big") != 32:
        return ""
    length = int.from_bytes(data[36:68], "big")
    return data[68 : 68 + length].decode("utf-8", "replace") if length <= len(data) - 68 else ""
