import os
import signal
import subprocess
import sys

from server.hangup import hangup_spares_children, ignore_hangup

SAYS = "import sys; print('up', flush=True); sys.stdin.read()"


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SAYS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def test_a_child_outlives_a_hangup_from_its_first_moment() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    with hangup_spares_children():
        child = start()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before
    child.send_signal(signal.SIGHUP)
    assert child.communicate("")[0] == "up\n"
    assert child.returncode == 0


def test_this_process_is_not_ended() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        ignore_hangup()
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
