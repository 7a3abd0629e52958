"""What the HTTP service does with files and sockets besides its connections."""

import errno
import os
import socket


def refuse(sock: socket.socket) -> None:
    """Tell a client that there is no room for it, and hang up."""
    text = b"too many connections\n"
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
        f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\n\r\n"
    )
    try:
        sock.send(head.encode() + text)
    except OSError:
        pass  # the client has gone
    sock.close()


def is_in_memory(file: int, offset: int, count: int) -> bool:
    """Whether both ends of a range can be read without waiting; True where nobody can tell."""
    for position in (offset, offset + count - 1):
        try:
            if os.preadv(file, [bytearray(1)], position, os.RWF_NOWAIT) < 1:
                return True  # beyond the end: sendfile will say so
        except BlockingIOError:
            return False
        except OSError:
            return True
    return True


def touch(file: int, offset: int, count: int) -> None:
    """Have a part of a file in memory; blocks. What follows it is read meanwhile."""
    os.posix_fadvise(file, offset + count, count, os.POSIX_FADV_WILLNEED)
    if not os.pread(file, count, offset):
        raise describe(errno.ENODATA)


def describe(number: int) -> OSError:
    """An errno with its words. ENODATA: a file ends before its part does."""
    short = "the file is shorter than it was"
    return OSError(number, short if number == errno.ENODATA else os.strerror(number))


def explain(error: OSError) -> str:
    """What an OSError of a transfer means, in words without a path."""
    if error.errno in (errno.EPIPE, errno.ECONNRESET):
        return "the client closed the connection before the end"
    return error.strerror or str(error)


def hang_up(sock: socket.socket) -> None:
    """End a connection whose descriptor another thread still uses."""
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is broken already
