"""What apt would install, asked on the machine before the first minute is spent.

A view is a private apt directory with the recipe's sources and no installed
package. It tells a package that does not exist, the versions that pins stand
for, and the versions that a stage would install, which are inputs of the
stage's id: an archive that moves on rebuilds what it changes, and nothing else.
"""

import hashlib
import os
import re
import tempfile
import urllib.error
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagebuild.errors import BuildError
from imagebuild.recipe.ingredients import Mirrors, Recipe, Repository
from imagebuild.run import Log, ask, run
from imagebuild.yamlloader import did_you_mean

CANONICAL = {
    "debian": Mirrors("http://deb.debian.org/debian", "http://deb.debian.org/debian-security"),
    "ubuntu": Mirrors("http://archive.ubuntu.com/ubuntu", "http://security.ubuntu.com/ubuntu"),
}
KEYRINGS = {
    "debian": "/usr/share/keyrings/debian-archive-keyring.gpg",
    "ubuntu": "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
}
KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}
_VIEW_DIRECTORIES = (
    "etc/apt.conf.d",
    "etc/sources.list.d",
    "etc/preferences.d",
    "state/lists/partial",
    "cache",
)
_VERSIONED = ("kubelet", "kubeadm", "kubectl")
_PROXY = re.compile(r'Acquire::https?::Proxy(::[\w.-]+)? "[^"]*";')
_INSTALLED = re.compile(r"Inst (\S+) (?:\[\S+\] )?\((\S+) ")
_MISSING = re.compile(r"Unable to locate package (\S+)|Package '(\S+)' has no installation cand")


def parse_simulated(said: str) -> dict[str, str]:
    """Package to version, from what `apt-get install --simulate` says that it would install."""
    found = (_INSTALLED.match(line) for line in said.splitlines())
    return {match[1]: match[2] for match in found if match}


class NoPackageError(BuildError):
    """Packages that no source has. where: recipe and key path. packages: name to remedy."""

    def __init__(self, where: str, packages: Mapping[str, str]) -> None:
        words = f"{where}: no such package: {', '.join(packages)}"
        super().__init__(words, hint=next(iter(packages.values())))
        self.packages = packages


@dataclass(frozen=True)
class Pin:
    """A package held at exactly one version."""

    package: str
    version: str


def machine_mirrors(distribution: str) -> Mirrors:
    """The mirrors of this machine's own apt, where it has some for `distribution`.

    They are recognised by the archive's usual last path element (`debian`,
    `debian-security`, `ubuntu`); anything else falls back to CANONICAL.
    """
    default = CANONICAL[distribution]
    try:
        argv = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        output = ask(argv).output
    except BuildError:
        return default
    uris = [line.rstrip("/") for line in output.splitlines() if line.startswith("http")]
    found: list[str] = []
    for uri in (default.archive, default.security):
        last = uri.rsplit("/", 1)[-1]
        found.append(next((item for item in uris if item.rsplit("/", 1)[-1] == last), uri))
    return Mirrors(*found)


def machine_proxies() -> tuple[str, ...]:
    """apt.conf lines with this machine's proxies; needed while building, never in the image."""
    try:
        output = ask(["apt-config", "dump"]).output
    except BuildError:
        return ()
    return tuple(line for line in output.splitlines() if _PROXY.fullmatch(line))


def render_distribution(recipe: Recipe, mirrors: Mirrors) -> str:
    """deb822 sources of the distribution, with -updates and -security."""
    release, components = recipe.release, " ".join(recipe.components)
    suites = release if release == "sid" else f"{release} {release}-updates"
    stanzas = [(mirrors.archive, suites)]
    if release != "sid":
        stanzas.append((mirrors.security, f"{release}-security"))
    return "\n".join(
        f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {components}\n"
        f"Signed-By: {KEYRINGS[recipe.distribution]}\n"
        for uri, suite in stanzas
    )


def render_repository(repository: Repository, uri: str, key: str) -> str:
    """deb822 source of a further repository at `uri`, with its key's path."""
    components = f"Components: {' '.join(repository.components)}\n" if repository.components else ""
    uri = f"{uri}/" if uri.startswith("file:") else uri
    return f"Types: deb\nURIs: {uri}\nSuites: {repository.suite}\n{components}Signed-By: {key}\n"


def render_pins(pins: Collection[Pin]) -> str:
    """An apt preferences file."""
    return "\n".join(
        f"Package: {pin.package}\nPin: version {pin.version}\nPin-Priority: 1001\n"
        for pin in sorted(pins, key=lambda pin: pin.package)
    )


def matches_version(version: str, prefix: str) -> bool:
    """Whether a Debian version begins with `prefix` and no digit follows (1.2 is not 1.20)."""
    bare = version.split(":", 1)[-1] if ":" not in prefix else version
    return bare.startswith(prefix) and not (
        prefix[-1].isalnum() and bare[len(prefix) : len(prefix) + 1].isdigit()
    )


class AptView:
    """A recipe's package universe: `update` first, then ask.

    `directory` is a cache of this view's own; `mirrors` come from the recipe
    or the machine. `resolved`: every package that was asked for, and what it brings.
    """

    binds: tuple[tuple[Path, str], ...] = ()
    """Directories of this machine that `inside` needs, and their places in the image's root."""

    def __init__(self, recipe: Recipe, cache: Path, log: Log | None = None) -> None:
        self.recipe = recipe
        self.mirrors = recipe.mirrors or machine_mirrors(recipe.distribution)
        self.proxies = machine_proxies()
        self.log = log or Log()
        self._cache = cache
        self._keys: dict[str, Path] = {}
        sources = self.identity() + "".join(
            render_repository(item, item.uri, item.key) for item in recipe.repositories
        )
        name = hashlib.sha256((sources + recipe.architecture).encode()).hexdigest()[:24]
        self.directory = cache / "apt" / "views" / name
        self.pins: tuple[Pin, ...] = ()
        self.resolved: dict[str, str] = {}

    def identity(self) -> str:
        """What the distribution's packages come from, as stages' ids hold it."""
        return self.outside()

    def outside(self) -> str:
        """deb822 sources of the distribution for apt on this machine, and for the bootstrap."""
        return render_distribution(self.recipe, self.mirrors)

    def inside(self) -> str:
        """The same for apt in the image's root while the image is built."""
        return self.outside()

    def repositories(self) -> tuple[Repository, ...]:
        """The recipe's further repositories that packages are taken from."""
        return self.recipe.repositories

    def update(self) -> None:
        """Fetch keys and indexes, and resolve pins; BuildError names what cannot be had."""
        for repository in self.recipe.repositories:
            self.fetch_key(repository)
        self.write_configuration()
        run(
            ["apt-get", "update", "-q", "-o", "APT::Update::Error-Mode=any"],
            env=self.environment(),
            log=self.log,
            what=f"{self.recipe.file}: cannot read the package indexes",
            hint="check mirrors: and repositories: of the recipe, and the network",
        )
        self.pins = tuple(self._resolve_pins())
        self.write_configuration()

    def fetch_key(self, repository: Repository) -> None:
        """Fetch the repository's key if it is not here yet.

        BuildError if it cannot be had, or is not the right one.
        """
        if repository.name not in self._keys:
            self._check_repository(repository)
            self._keys[repository.name] = self._key_file(repository)

    def key(self, repository: Repository) -> Path:
        """The file of the repository's key, on this machine."""
        return self._keys[repository.name]

    def resolve(self, packages: Sequence[str], where: str) -> dict[str, str]:
        """Every package (name to version) that installing these into nothing brings.

        `where` is the key path that an error names.
        """
        argv = ["apt-get", "install", "-s", "-qq", "?essential", "apt", *packages]
        answer = ask(argv, env=self.environment())
        if answer.status != 0:
            raise self._not_installable(answer.errors, where)
        found = parse_simulated(answer.output)
        self.resolved |= found
        return found

    def versions(self, package: str, repository: Repository | None = None) -> list[str]:
        """The package's versions, highest first; of one repository when it is given."""
        output = self._ask("apt-cache", "madison", package)
        versions: list[str] = []
        for line in output.splitlines():
            _, version, source = (part.strip() for part in line.split("|", 2))
            if repository is None or source.startswith(repository.uri):
                versions.append(version)
        return versions

    def write_configuration(self) -> None:
        """Write the view's apt.conf, sources and pins."""
        etc = self.directory / "etc"
        for path in _VIEW_DIRECTORIES:
            (self.directory / path).mkdir(parents=True, exist_ok=True)
        (self.directory / "status").write_text("")
        sources = [self.outside()]
        for repository in self.repositories():
            key = str(self._keys[repository.name])
            sources.append(render_repository(repository, repository.uri, key))
        (etc / "sources.list.d" / "recipe.sources").write_text("\n".join(sources))
        (etc / "preferences.d" / "recipe").write_text(render_pins(self.pins))
        architecture = self.recipe.architecture
        lines = [
            f'Dir "{self.directory}";',
            f'Dir::Etc "{etc}";',
            f'Dir::State "{self.directory}/state";',
            f'Dir::State::status "{self.directory}/status";',
            f'Dir::Cache "{self.directory}/cache";',
            f'APT::Architecture "{architecture}";',
            f'APT::Architectures {{ "{architecture}"; }};',
            'APT::Sandbox::User "root";',
            'APT::Install-Recommends "false";',
            'Acquire::Languages "none";',
            'Acquire::Retries "3";',
            *self.proxies,
        ]
        (self.directory / "apt.conf").write_text("\n".join(lines) + "\n")

    def environment(self) -> dict[str, str]:
        """For apt's programs, so that they see this view and not the machine's own packages."""
        keep = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        return {**keep, "LC_ALL": "C.UTF-8", "APT_CONFIG": str(self.directory / "apt.conf")}

    # Inside

    def _check_repository(self, repository: Repository) -> None:
        directory = repository.directory
        if directory is not None and not directory.is_dir():
            raise BuildError(
                f"{self.recipe.file}: repositories.{repository.name}: no directory {directory}",
                hint=repository.missing_hint or "make the repository first, or correct the uri",
            )

    def _key_file(self, repository: Repository) -> Path:
        where = f"{self.recipe.file}: repositories.{repository.name}.key"
        data = self._key_bytes(repository, where)
        if repository.key_sha256:
            _check_sha256(data, repository.key_sha256, where)
        path = self._stored_key(data)
        if repository.key_fingerprint:
            _check_fingerprint(path, repository.key_fingerprint, where)
        return path

    def _key_bytes(self, repository: Repository, where: str) -> bytes:
        if not repository.key.startswith("https://"):
            path = Path(repository.key)
            try:
                return path.read_bytes()
            except OSError as error:
                raise BuildError(
                    f"{where}: cannot read {path}: {error.strerror}", hint=repository.missing_hint
                ) from None
        try:
            with urllib.request.urlopen(repository.key, timeout=60) as response:
                data: bytes = response.read(1 << 20)
        except (urllib.error.URLError, OSError) as error:
            raise BuildError(
                f"{where}: cannot fetch {repository.key}: {error}",
                hint="check the network, or keep the key as a file beside the recipe",
            ) from None
        return data

    def _stored_key(self, data: bytes) -> Path:
        """A copy that apt can read, named by content; the suffix tells apt the form."""
        suffix = "asc" if data.lstrip().startswith(b"-----BEGIN PGP") else "gpg"
        path = self._cache / "apt" / "keys" / f"{hashlib.sha256(data).hexdigest()}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def _ask(self, *argv: str) -> str:
        answer = ask(argv, env=self.environment())
        if answer.status != 0:
            raise BuildError(f"{' '.join(argv)} failed: {answer.errors.strip()}")
        return answer.output

    def _resolve_pins(self) -> list[Pin]:
        recipe = self.recipe
        wanted: list[tuple[str, str, Repository, str]] = []
        for repository in recipe.repositories:
            for package, prefix in repository.pin.items():
                where = f"repositories.{repository.name}.pin.{package}"
                wanted.append((package, prefix, repository, where))
        if recipe.kubernetes is not None:
            kubernetes = recipe.kubernetes
            source = recipe.repository(kubernetes.repository)
            assert source is not None
            pinned = {package for package, *_ in wanted}
            wanted += [
                (package, kubernetes.version, source, "kubernetes.version")
                for package in kubernetes.packages
                if package in _VERSIONED and package not in pinned
            ]
        pins: list[Pin] = []
        for package, prefix, repository, where in wanted:
            versions = self.versions(package, repository)
            match = next((v for v in versions if matches_version(v, prefix)), None)
            if match is None:
                raise BuildError(
                    f"{recipe.file}: {where}: {repository.name} has no {package} {prefix}",
                    hint=f"it has: {', '.join(versions[:8])}"
                    if versions
                    else f"it has no {package} at all: {repository.uri}",
                )
            pins.append(Pin(package, match))
        return pins

    def _not_installable(self, stderr: str, where: str) -> BuildError:
        missing = [a or b for a, b in _MISSING.findall(stderr)]
        place = f"{self.recipe.file}: {where}"
        if missing:
            names = self._ask("apt-cache", "pkgnames").split()
            otherwise = "check the name and the recipe's components and repositories"
            return NoPackageError(
                place, {name: did_you_mean(name, names, otherwise) for name in missing}
            )
        lines = [line for line in stderr.splitlines() if line.strip()][-8:]
        return BuildError(f"{place}: cannot be installed together:\n    " + "\n    ".join(lines))


def _check_sha256(data: bytes, expected: str, where: str) -> None:
    actual = hashlib.sha256(data).hexdigest()
    if actual != expected:
        raise BuildError(
            f"{where}: its SHA-256 is {actual}, not {expected}",
            hint="look whether the key changed for a good reason, then correct key_sha256",
        )


def _check_fingerprint(path: Path, expected: str, where: str) -> None:
    """Every primary key in the file must be the expected one: apt would trust any of them."""
    what = f"{where}: not an OpenPGP key"
    with tempfile.TemporaryDirectory() as home:
        argv = ["gpg", "--homedir", home, "--batch", "--with-colons", "--show-keys", str(path)]
        output = run(argv, what=what)
    found: list[str] = []
    primary = False
    for fields in (line.split(":") for line in output.splitlines()):
        if fields[0] in ("pub", "sub"):
            primary = fields[0] == "pub"
        elif fields[0] == "fpr" and primary:
            found.append(fields[9])
    if found != [expected]:
        raise BuildError(
            f"{where}: its fingerprint is {', '.join(found) or 'missing'}, not {expected}",
            hint="look whether the key changed for a good reason, then correct key_fingerprint",
        )
