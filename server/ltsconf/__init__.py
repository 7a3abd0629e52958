"""lts.conf: grammar, resolver, renderer; pure but for `load`."""

from server.ltsconf.conf import LtsConf, NodeId, Setting, decode, encode
from server.ltsconf.errors import LtsConfError
from server.ltsconf.flat import is_flat_key, parse_flat, render_flat
from server.ltsconf.order import sort_numbered

__all__ = [
    "LtsConf",
    "LtsConfError",
    "NodeId",
    "Setting",
    "decode",
    "encode",
    "is_flat_key",
    "parse_flat",
    "render_flat",
    "sort_numbered",
]
