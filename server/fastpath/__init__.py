"""The fast path, in C: what a node asks for most, answered without a line of Python.

`Poller` is epoll that serves *lanes* itself: descriptors whose next answer is known
before it is asked for. Whatever else happens on a lane's descriptor is told as any
event, and Python sees to it: options, losses, time-outs, errors, limits, ends. So
the protocols stay in server/protocols; a lane only does again what they have begun.

`Sender` sends long files (`Download`) in a thread beside that.

What the parts do stands in `_fastpath.pyi`. Why C, and what it gives: docs/performance.md.
Where it was not compiled (no compiler when bootfarm was installed), COMPILED is False,
no lane may be made, and server/fastpath/plain.py stands in.
"""

import importlib.util
from typing import TYPE_CHECKING, Final

COMPILED: Final = importlib.util.find_spec("server.fastpath._fastpath") is not None

if TYPE_CHECKING or COMPILED:
    from server.fastpath._fastpath import (
        BULK_BYTES,
        BULK_PER_TURN,
        DOWNLOAD_STEP,
        MIXED_TURNS,
        NBD_CHUNK_DONE,
        NBD_CHUNK_OFFSET_DATA,
        NBD_REQUEST_MAGIC,
        NBD_SIMPLE_REPLY_MAGIC,
        NBD_STRUCTURED_REPLY_MAGIC,
        TFTP_OPCODE_ACK,
        Download,
        Lockstep,
        Poller,
        Reads,
        Sender,
    )
else:
    from server.fastpath.plain import (
        BULK_BYTES,
        BULK_PER_TURN,
        DOWNLOAD_STEP,
        MIXED_TURNS,
        NBD_CHUNK_DONE,
        NBD_CHUNK_OFFSET_DATA,
        NBD_REQUEST_MAGIC,
        NBD_SIMPLE_REPLY_MAGIC,
        NBD_STRUCTURED_REPLY_MAGIC,
        TFTP_OPCODE_ACK,
        NoLane,
        Poller,
    )

    Lockstep = Reads = Download = Sender = NoLane

Lane = Lockstep | Reads
NOT_COMPILED: Final = (
    "the fast path in C (server/fastpath) was not compiled for this Python: TFTP, NBD and"
    " HTTP are answered in Python alone, which takes more of the processor; with gcc and Python's"
    " headers at hand, install bootfarm again"
)
"""What is told to the operator where COMPILED is False."""

__all__ = [
    "BULK_BYTES",
    "BULK_PER_TURN",
    "COMPILED",
    "DOWNLOAD_STEP",
    "MIXED_TURNS",
    "NBD_CHUNK_DONE",
    "NBD_CHUNK_OFFSET_DATA",
    "NBD_REQUEST_MAGIC",
    "NBD_SIMPLE_REPLY_MAGIC",
    "NBD_STRUCTURED_REPLY_MAGIC",
    "NOT_COMPILED",
    "TFTP_OPCODE_ACK",
    "Download",
    "Lane",
    "Lockstep",
    "Poller",
    "Reads",
    "Sender",
]
