"""lts.conf: grammar, resolver, renderer; pure but for `load`."""

from server.ltsconf.conf import LtsConf, NodeId, Setting, decode, encode
from server.ltsconf.errors import LtsConfError
from server.ltsconf.flat import is_flat_key, parse_flat, render_flat
from server.ltsconf.interface import Conf, parse_conf
from server.ltsconf.order import sort_numbered
from server.ltsconf.template import LtsTemplate, Renderer, is_template, make_facts, read_secrets

__all__ = [
    "Conf",
    "LtsConf",
    "LtsConfError",
    "LtsTemplate",
    "NodeId",
    "Renderer",
    "Setting",
    "decode",
    "encode",
    "is_flat_key",
    "is_template",
    "make_facts",
    "parse_conf",
    "parse_flat",
    "read_secrets",
    "render_flat",
    "sort_numbered",
]
