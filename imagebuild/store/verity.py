"""The hash tree behind an image's root file system, as dm-verity reads it.

The format is that of version 1 (kernel: Documentation/admin-guide/device-mapper/verity.rst;
superblock: cryptsetup's lib/verity/verity.c): blocks of 4096 bytes, SHA-256 of salt and block,
128 hashes in a block of hashes, the level with the root's block first. The bytes are those that
`veritysetup format --hash-offset` writes. Salt and UUID come from the data, so the same data
has the same tree.
"""

import hashlib
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

BLOCK = 4096
"""Bytes of a block, of data and of hashes alike."""
ALGORITHM = "sha256"
_HASH = 32
_PER_BLOCK = BLOCK // _HASH
_SALT_SPACE = b"bootfarm verity salt\0"
_UUID_SPACE = b"bootfarm verity uuid\0"
_SUPERBLOCK = struct.Struct("<8sII16s32sIIQH6x256s168x")
_READ = 256 * BLOCK
"""Bytes that are read at once."""


@dataclass(frozen=True)
class Verity:
    """What tells whether a block of the root file system is the right one.

    data_blocks: of the file system; the superblock of the tree follows, then, from block
    `hash_start` of the file on, the tree. root, salt: 32 bytes in hex.
    """

    data_blocks: int
    hash_start: int
    root: str
    salt: str

    def argument(self) -> str:
        """The word of the kernel command line: dm-verity's table without the two devices, which
        the node knows, and with commas for its blanks."""
        numbers = f"1,{BLOCK},{BLOCK},{self.data_blocks},{self.hash_start}"
        return f"bootfarm.verity={numbers},{ALGORITHM},{self.root},{self.salt}"


def append_tree(path: Path) -> Verity:
    """Write the superblock and the tree behind the data of `path`; what it takes to check them.

    The data is padded with zeros to whole blocks before. Raises ValueError for an empty file.
    """
    with path.open("r+b") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise ValueError(f"{path} is empty: there is nothing to hash")
        file.write(bytes(-size % BLOCK))
        data_blocks = file.tell() // BLOCK
        whole = _digest(file)
        salt = hashlib.sha256(_SALT_SPACE + whole).digest()
        levels, root = make_levels(_read_blocks(file), salt)
        file.seek(data_blocks * BLOCK)
        file.write(pack_superblock(data_blocks, salt, _make_uuid(whole)))
        for level in reversed(levels):
            file.write(level)
    return Verity(data_blocks, data_blocks + 1, root.hex(), salt.hex())


def make_levels(blocks: Iterator[bytes], salt: bytes) -> tuple[list[bytes], bytes]:
    """The levels of the tree over blocks of 4096 bytes, that of the data first, and the root hash.

    Each level is whole blocks. One block of data has no level: its hash is the root hash.
    """
    hashes, count = _hash_blocks(blocks, salt)
    levels: list[bytes] = []
    while count > 1:
        level = hashes + bytes(-len(hashes) % BLOCK)
        levels.append(level)
        pieces = (level[at : at + BLOCK] for at in range(0, len(level), BLOCK))
        hashes, count = _hash_blocks(pieces, salt)
    return levels, hashes


def pack_superblock(data_blocks: int, salt: bytes, identity: uuid.UUID) -> bytes:
    """The block before the tree. The node does not read it; `veritysetup` and people do."""
    packed = _SUPERBLOCK.pack(
        *(b"verity\0\0", 1, 1, identity.bytes, ALGORITHM.encode(), BLOCK, BLOCK),
        *(data_blocks, len(salt), salt),
    )
    return packed + bytes(BLOCK - len(packed))


def _hash_blocks(blocks: Iterator[bytes], salt: bytes) -> tuple[bytes, int]:
    """The hashes of blocks in a row, and how many there are."""
    salted = hashlib.sha256(salt)
    hashes = bytearray()
    for block in blocks:
        digest = salted.copy()
        digest.update(block)
        hashes += digest.digest()
    return bytes(hashes), len(hashes) // _HASH


def _read_blocks(file: BufferedRandom) -> Iterator[bytes]:
    """All blocks of a file that holds whole ones."""
    file.seek(0)
    while chunk := file.read(_READ):
        for at in range(0, len(chunk), BLOCK):
            yield chunk[at : at + BLOCK]


def _digest(file: BufferedRandom) -> bytes:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").digest()


def _make_uuid(whole: bytes) -> uuid.UUID:
    """Of version 4 by its looks, as tools expect one."""
    return uuid.UUID(bytes=hashlib.sha256(_UUID_SPACE + whole).digest()[:16], version=4)
