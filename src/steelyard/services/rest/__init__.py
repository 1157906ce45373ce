"""The kind `rest`: any HTTP API that answers with data, relayed to the provider's own server and priced by the call.

Law: docs/spec/kinds/rest.md.
"""

from steelyard.services.rest.service import RestService

__all__ = ["RestService"]
