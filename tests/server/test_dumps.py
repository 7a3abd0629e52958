import subprocess
import sys

SCRIPT = """
import ctypes, resource
from server.dumps import refuse_dumps
refuse_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""


def test_a_process_that_refuses_dumps_is_not_dumpable() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(0, 0) 0"
