"""The fast path, in C: what a node asks for most, answered without a line of Python.

`Poller` is epoll that serves *lanes* itself: descriptors whose next answer is known
before it is asked for. Whatever else happens on a lane's descriptor is told as any
event, and Python sees to it: options, losses, time-outs, errors, limits, ends. So
the protocols stay in server/protocols; a lane only does again what they have begun.

What the parts do stands in `_fastpath.pyi`. Why C, and what it gives: docs/performance.md.
"""

try:
    from server.fastpath._fastpath import Lockstep, Poller, Reads
except ModuleNotFoundError as error:
    raise ImportError(
        "the server's fast path (server/fastpath/*.c) is not compiled for this Python:"
        " run `make install`, or `pip install .` with gcc and Python's headers at hand"
    ) from error

Lane = Lockstep | Reads

__all__ = ["Lane", "Lockstep", "Poller", "Reads"]
