"""What lets a person in: a public key, a password's hash. One that was cut lets nobody in.

Shapes: OpenSSH's public key is a type, base64 and a comment (RFC 4253, section 6.6: the blob
begins with the type again, all of it strings of a length and bytes); hashes are crypt(5)'s.
"""

import base64
import binascii
import re
from typing import Final

_HASHES: Final = {
    "6": (r"\$6\$(rounds=\d+\$)?[^$:]{1,16}\$[./0-9A-Za-z]{86}", "86"),
    "5": (r"\$5\$(rounds=\d+\$)?[^$:]{1,16}\$[./0-9A-Za-z]{43}", "43"),
    "y": (r"\$y\$[./0-9A-Za-z]+\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43}", "43"),
    "gy": (r"\$gy\$[./0-9A-Za-z]+\$[./0-9A-Za-z]{0,86}\$[./0-9A-Za-z]{43}", "43"),
    "7": (r"\$7\$[./0-9A-Za-z]{11,97}\$[./0-9A-Za-z]{43}", "43"),
}
_BCRYPT: Final = r"\$2[aby]\$\d\d\$[./0-9A-Za-z]{53}"


def find_key_fault(line: str) -> str | None:
    """What is wrong with a line of an id_*.pub file, or None."""
    kind, _, rest = line.partition(" ")
    try:
        blob = base64.b64decode(rest.partition(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        return "the key is no base64: it was cut, or broken over lines"
    fields = _split(blob)
    if fields is None or len(fields) < 2:
        return "the key was cut: it ends within a field"
    if fields[0] != kind.encode():
        return f"it says {kind}, and the key is {fields[0].decode('ascii', 'replace')!r:.40}"
    return None


def _split(blob: bytes) -> list[bytes] | None:
    """The strings of a key's blob; None where it does not end with one of them."""
    fields: list[bytes] = []
    while blob:
        size = int.from_bytes(blob[:4], "big")
        if len(blob) < 4 + size:
            return None
        fields.append(blob[4 : 4 + size])
        blob = blob[4 + size :]
    return fields


def find_hash_fault(text: str) -> str | None:
    """What is wrong with a crypt(3) hash, or None."""
    method = text.split("$")[1]
    if method.startswith("2"):
        return None if re.fullmatch(_BCRYPT, text) else "bcrypt's salt and hash have 53 characters"
    pattern, length = _HASHES[method]
    if re.fullmatch(pattern, text):
        return None
    return f"behind the salt a hash of ${method}$ has {length} characters: nobody could log in"
