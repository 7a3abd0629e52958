"""What every test relies on."""

import signal

from hypothesis import settings

# No time for one example: a busy machine takes what it takes.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A shell that starts its jobs in the background lets them ignore SIGINT, and so would
# every program that a test starts and interrupts: a handler here means the default there.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
