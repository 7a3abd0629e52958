"""A ConfigMap mounted as kubelet does: files are links through `..data`, which is swapped."""

import itertools
import shutil
from collections.abc import Mapping
from pathlib import Path

_number = itertools.count(1)


class Mount:
    """The directory that a container sees; `swap` replaces all of its files in one step."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)

    def swap(self, files: Mapping[str, str | bytes]) -> None:
        """As kubelet's AtomicWriter: a new directory, the link replaced, the old directory gone."""
        link = self.path / "..data"
        old = link.resolve() if link.is_symlink() else None
        fresh = self.path / f"..2026_11_21_08_00_00.{next(_number):09d}"
        fresh.mkdir()
        for name, text in files.items():
            (fresh / name).write_bytes(text.encode() if isinstance(text, str) else text)
        beside = self.path / "..data_tmp"
        beside.symlink_to(fresh.name)
        beside.rename(link)
        for name in files:
            if not (self.path / name).is_symlink():
                (self.path / name).symlink_to(f"..data/{name}")
        for user in self.path.iterdir():
            if user.is_symlink() and not user.exists():
                user.unlink()  # of a file that is no more
        if old is not None:
            shutil.rmtree(old)
