"""The methods that the embedded chain serves, one module per subject.

Law: docs/spec/embedded-chain.md, section 5.
"""

from __future__ import annotations

from steelyard.chain.embedded.chain import EmbeddedChain
from steelyard.chain.embedded.filters import Filters
from steelyard.chain.embedded.jsonrpc import Method
from steelyard.chain.embedded.methods.blocks import BlockMethods
from steelyard.chain.embedded.methods.development import DevelopmentMethods
from steelyard.chain.embedded.methods.fees import FeeMethods
from steelyard.chain.embedded.methods.logs import LogMethods
from steelyard.chain.embedded.methods.node import NodeMethods
from steelyard.chain.embedded.methods.state import StateMethods


def build_methods(chain: EmbeddedChain, *, is_dev_time: bool) -> dict[str, Method]:
    """Return every method by name; `is_dev_time` opens those that move the chain's clock."""
    methods = {
        **NodeMethods(chain).table(),
        **BlockMethods(chain).table(),
        **StateMethods(chain).table(),
        **FeeMethods(chain).table(),
        **LogMethods(chain, Filters()).table(),
    }
    if is_dev_time:
        methods.update(DevelopmentMethods(chain).table())
    return methods
