"""Writes what kernels send by netconsole (UDP) to standard output.

Run as `python -m rack.netconsole ADDRESS PORT`.
"""

import socket
import sys


def listen(address: str, port: int) -> None:
    """Print each datagram after its sender's address, for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind((address, port))
        while True:
            data, sender = receiver.recvfrom(65535)
            for line in data.decode("utf-8", "replace").splitlines():
                print(f"{sender[0]} {line}", flush=True)


if __name__ == "__main__":
    listen(sys.argv[1], int(sys.argv[2]))
