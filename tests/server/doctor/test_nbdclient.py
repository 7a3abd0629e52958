import socket
import struct
import threading

import pytest

from server.doctor.nbdclient import NbdError, NbdExport
from server.protocols.nbd_wire import OPTION_REPLY, OPTION_REPLY_MAGIC, Info, Option, Reply


def test_a_handshake_without_an_end_ends() -> None:
    info = struct.pack(">HQH", Info.EXPORT, 8192, 3)
    endless = OPTION_REPLY.pack(OPTION_REPLY_MAGIC, Option.GO, Reply.INFO, len(info)) + info
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def lie() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"NBDMAGICIHAVEOPT\0\3")
                try:
                    while True:
                        sock.sendall(endless * 1000)
                except OSError:
                    return

        thread = threading.Thread(target=lie)
        thread.start()
        with pytest.raises(NbdError, match="without an end"):
            NbdExport("127.0.0.1", listener.getsockname()[1], "root")
        thread.join()
