"""A recipe's packages as its lock has them, and the lock of what its mirrors have now.

A locked build sees one archive and nothing else: the lock's own (archive.py). So what the
mirrors have today, and where they are, changes no byte of the image.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from imagebuild.apt import AptView, NoPackageError
from imagebuild.errors import BuildError
from imagebuild.lock import archive
from imagebuild.lock.lockfile import ARCHIVE, SECURITY, Lock, LockedPackage
from imagebuild.recipe.ingredients import Recipe, Repository
from imagebuild.run import Log, ask

INSIDE = "/var/lib/bootfarm/repositories/locked"
"""Where the archive is mounted in the image's root; the build removes what is there at its end."""
MACHINE = ("grub-pc-bin", "grub-efi-amd64-bin", "ipxe", "squashfs-tools", "mmdebstrap")
"""Packages of the building machine whose files, or whose work, are in an image."""
_URI = re.compile(r"'([^']+)' (\S+)_([^_ ]+)_([a-z0-9]+)\.deb (\d+) SHA256:([0-9a-f]{64})")


class LockedView(AptView):
    """AptView of a lock's archive. `lay_out` first, then as AptView."""

    def __init__(self, recipe: Recipe, cache: Path, lock: Lock, log: Log | None = None) -> None:
        self.lock = lock
        self._place = cache / "locks" / lock.digest()
        self.binds = ((self._place, INSIDE),)
        super().__init__(recipe, cache, log)

    def lay_out(self, say: Callable[[str], None]) -> None:
        """Bring all that is locked onto this machine; BuildError names what cannot be had."""
        self.write_configuration()
        archive.fetch(self.lock, self._cache, bases_of(self), self.environment(), say)
        archive.lay_out(self.lock, self._cache, self.log)

    def identity(self) -> str:
        """The packages that are locked, wherever this machine has them from."""
        return f"lock {self.lock.digest()}\n"

    def outside(self) -> str:
        """The archive."""
        return _render(self._place)

    def inside(self) -> str:
        """The archive at the place where it is mounted."""
        return _render(Path(INSIDE))

    def repositories(self) -> tuple[Repository, ...]:
        """None: the lock has their packages."""
        return ()

    def fetch_key(self, repository: Repository) -> None:
        """The key that was locked, from the cache; else as AptView, and it must be that one."""
        wanted = self.lock.keys.get(repository.name, "")
        for path in (self._cache / "apt" / "keys").glob(f"{wanted}.*" if wanted else ""):
            self._keys[repository.name] = path
            return
        super().fetch_key(repository)
        if self.key(repository).stem != wanted:
            raise BuildError(
                f"--lock: {self.lock.file}: the key of {repository.name} is another than the one"
                " that was locked",
                hint=f"look whether it changed for a good reason; then remove {self.lock.file} to"
                " lock anew",
            )

    def versions(self, package: str, repository: Repository | None = None) -> list[str]:
        """The one that is locked, from whichever repository it came."""
        return super().versions(package)

    def resolve(self, packages: Sequence[str], where: str) -> dict[str, str]:
        """As AptView; a package that is not locked is told as that."""
        try:
            return super().resolve(packages, where)
        except NoPackageError as error:
            hint = f"remove {self.lock.file}, or name another file, to lock anew"
            raise NoPackageError(
                f"{self.recipe.file}: {where}: not in {self.lock.file}",
                dict.fromkeys(error.packages, hint),
            ) from None


def _render(place: Path) -> str:
    # copy: leaves .deb files where apt leaves them from any mirror; file: would leave links.
    # Trusted: each .deb was checked by its digest, and the indexes are our own.
    return f"Types: deb\nURIs: copy:{place}\nSuites: ./\nTrusted: yes\n"


def bases_of(view: AptView) -> dict[str, str]:
    """A package's `source` to the URI that its path counts from, on this machine."""
    bases = {ARCHIVE: view.mirrors.archive, SECURITY: view.mirrors.security}
    bases |= {item.name: item.uri for item in view.recipe.repositories}
    return {name: uri.rstrip("/") for name, uri in bases.items()}


def make_lock(view: AptView, file: Path) -> Lock:
    """The lock of everything that `view` has resolved."""
    recipe = view.recipe
    bases = bases_of(view)
    packages = []
    words = [f"{name}={version}" for name, version in sorted(view.resolved.items())]
    argv = ["apt-get", "-o", "Acquire::ForceHash=SHA256", "download", "--print-uris", *words]
    answer = ask(argv, env=view.environment())
    for line in answer.output.splitlines():
        if (match := _URI.match(line)) is None:
            continue
        uri, name, _, architecture, size, sha256 = match.groups()
        found = [(len(base), key) for key, base in bases.items() if uri.startswith(f"{base}/")]
        if not found:
            raise BuildError(f"--lock: {uri} is of no repository of {recipe.file}")
        length, source = max(found)
        version, path = view.resolved[name], uri[length + 1 :]
        packages.append(LockedPackage(name, version, architecture, int(size), sha256, source, path))
    lost = sorted(set(view.resolved) - {one.name for one in packages})
    if lost:
        raise BuildError(
            f"--lock: {recipe.file}: apt names no file with a SHA-256 for {', '.join(lost[:5])}",
            hint=f"it said: {answer.errors.strip()[-300:]}" if answer.errors.strip() else "",
        )
    return Lock(
        file,
        recipe.distribution,
        recipe.release,
        recipe.architecture,
        {item.name: view.key(item).stem for item in recipe.repositories},
        machine_versions(),
        tuple(packages),
    )


def machine_versions() -> dict[str, str]:
    """MACHINE's packages and their versions on this machine; none where dpkg knows none."""
    answer = ask(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *MACHINE])
    rows = [line.split() for line in answer.output.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def other_machine(lock: Lock) -> str:
    """One line about what this machine has in other versions than the lock's; empty if nothing."""
    here = machine_versions()
    changed = [
        f"{name} {here.get(name, 'missing')} (locked with {version})"
        for name, version in lock.machine.items()
        if here.get(name) != version
    ]
    if not changed:
        return ""
    return (
        f"{lock.file}: this machine has {', '.join(changed)}: boot loaders or the squashfs may"
        " differ in bytes, the packages do not"
    )
