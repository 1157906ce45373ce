"""The kind `rpc`: any blockchain's JSON-RPC, relayed to the provider's own node and priced by compute units.

Law: docs/spec/kinds/rpc.md.
"""

from steelyard.services.rpc.service import RpcService

__all__ = ["RpcService"]
