"""The recipe: what is in an image. YAML -> Recipe; docs/recipes.md has every key.

Every error names the file, the key path and a remedy. Nothing is looked up
outside of the recipe's own files here: whether a package exists is for
`imagebuild.apt` to say.
"""

import re
from pathlib import Path

from imagebuild.ingredients import (
    AddedFile,
    Build,
    Console,
    ContainerRuntime,
    Initramfs,
    Kubernetes,
    Mirrors,
    PatchSeries,
    Recipe,
    Repository,
    Services,
    Squashfs,
)
from imagebuild.manifest import is_image_name
from imagebuild.yamlnode import Node, RecipeError, Section, load_yaml

__all__ = ["Recipe", "RecipeError", "load_recipe"]

SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
LTS_KEY = r"[A-Z_][A-Z0-9_]*"
_PACKAGE = r"[a-z0-9][a-z0-9+.-]+"
_ABSOLUTE = r"/[^\n]*[^/\n]"
_UNIT = r"[A-Za-z0-9@:_.\\-]+"
_RELEASES = {"debian": ("bookworm", "trixie", "sid"), "ubuntu": ("jammy", "noble")}
_DOCKERSHIM_END = (1, 24)
_RELEASE_HINT = "a code name such as bookworm"
_PACKAGE_HINT = "a Debian package name; a version goes to repositories[].pin"


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and what it extends; RecipeError says what is wrong with it."""
    return _read_recipe(_load_merged(path, ()), path)


def _load_merged(path: Path, seen: tuple[Path, ...]) -> Node:
    here = path.resolve()
    node = Node(load_yaml(path), path)
    if here in seen:
        raise node.error("extends itself", "take the extends: line out of one of the files")
    children = node.mapping()
    if "extends" not in children:
        return node
    base = _path(children["extends"])
    if not base.is_file():
        raise children["extends"].error(f"no such file: {base}")
    rest = Node({k: v for k, v in node.value.items() if k != "extends"}, path)
    return _load_merged(base, (*seen, here)).merged(rest)


_KEYS = [
    "name",
    "distribution",
    "release",
    "architecture",
    "mirrors",
    "components",
    "packages",
    "repositories",
    "kernel",
    "builds",
    "container_runtime",
    "kubernetes",
    "cmdline",
    "services",
    "files",
    "patches",
    "initramfs",
    "lts_defaults",
    "console",
    "skip_maintainer_scripts",
    "squashfs",
]


def _read_recipe(node: Node, path: Path) -> Recipe:
    top = Section(node, _KEYS)
    distribution = top.get("distribution", lambda n: n.choice(_RELEASES), "debian")
    repositories = top.get("repositories", _read_repositories, ())
    runtime = top.get("container_runtime", _read_runtime, None)
    kubernetes = top.get("kubernetes", _read_kubernetes, None)
    if kubernetes is not None:
        _check_kubernetes(top, kubernetes, runtime, repositories)
    return Recipe(
        file=path,
        name=top.need("name", _image_name, "the image's name, e.g. amd64"),
        distribution=distribution,
        release=top.need("release", lambda n: n.line(r"[a-z][a-z0-9.-]*", _RELEASE_HINT)),
        architecture=top.get("architecture", lambda n: n.choice(["amd64"]), "amd64"),
        mirrors=top.get("mirrors", lambda n: _read_mirrors(n, distribution), None),
        components=top.get("components", lambda n: n.lines(r"[a-z-]+"), ("main",)),
        packages=top.get("packages", _packages, ()),
        repositories=repositories,
        kernel_package=top.need("kernel", _read_kernel, "kernel: {package: linux-image-amd64}"),
        builds=top.get("builds", _read_builds, ()),
        container_runtime=runtime,
        kubernetes=kubernetes,
        cmdline=top.get("cmdline", _read_cmdline, ()),
        services=top.get("services", _read_services, Services()),
        files=top.get("files", lambda n: tuple(_read_file(item) for item in n.items()), ()),
        patches=top.get("patches", lambda n: tuple(_read_patch(item) for item in n.items()), ()),
        initramfs=top.get("initramfs", _read_initramfs, Initramfs()),
        lts_defaults=top.get("lts_defaults", _read_lts_defaults, {}),
        console=top.get("console", _read_console, Console()),
        skip_maintainer_scripts=top.get("skip_maintainer_scripts", _read_skips, {}),
        squashfs=top.get("squashfs", _read_squashfs, Squashfs()),
    )


def _path(node: Node) -> Path:
    """A path of the machine, relative to the file that it is written in."""
    return (node.file.parent / node.line()).resolve()


def _image_name(node: Node) -> str:
    name = node.line()
    if not is_image_name(name):
        raise node.error(f"{name!r} is no image name", "lower-case letters, digits, . _ -")
    return name


def _packages(node: Node) -> tuple[str, ...]:
    return node.lines(_PACKAGE, _PACKAGE_HINT)


def _read_kernel(node: Node) -> str:
    section = Section(node, ["package"])
    return section.need("package", lambda n: n.line(_PACKAGE, _PACKAGE_HINT))


def _read_mirrors(node: Node, distribution: str) -> Mirrors:
    section = Section(node, ["archive", "security"])

    def uri(child: Node) -> str:
        return child.line(r"https?://\S+", "an http or https URI").rstrip("/")

    archive = section.need("archive", uri)
    security = "" if distribution == "debian" else archive
    if not security or section.has("security"):
        security = section.need("security", uri, "the security archive's URI")
    return Mirrors(archive, security)


def _read_repositories(node: Node) -> tuple[Repository, ...]:
    result: list[Repository] = []
    for item in node.items():
        repository = _read_repository(item)
        if any(other.name == repository.name for other in result):
            raise item.error(f"a second repository named {repository.name}")
        result.append(repository)
    return tuple(result)


def _read_repository(node: Node) -> Repository:
    key_keys = ["key", "key_sha256", "key_fingerprint"]
    keys = ["name", "uri", "suite", "components", *key_keys, "pin", "missing_hint"]
    section = Section(node, keys)
    uri = section.need("uri", lambda n: n.line(r"(file:|https?://)\S+", "http:, https: or file:"))
    if uri.startswith("file:"):
        directory = (node.file.parent / uri.removeprefix("file:")).resolve()
        uri = f"file:{directory}"
    suite = section.need("suite", lambda n: n.line(r"\S+"), "e.g. stable, or ./ for a flat one")
    components = section.get("components", lambda n: n.lines(r"\S+"), ())
    if not components and not suite.endswith("/"):
        raise section.node.error("components: missing", "e.g. components: [main]")
    if components and suite.endswith("/"):
        raise section.children["components"].error("a flat repository has no components")
    key = section.need("key", lambda n: n.line(), "the file that signs it, or its https URL")
    sha256 = section.get("key_sha256", _sha256, "")
    fingerprint = section.get(
        "key_fingerprint", lambda n: n.line(r"[0-9A-F]{40}", "40 capital hex digits, no spaces"), ""
    )
    if key.startswith("https://"):
        if not sha256 and not fingerprint:
            raise section.children["key"].error(
                "a key from the network needs key_fingerprint or key_sha256",
                f"curl -s {key} | gpg --show-keys",
            )
    elif re.match(r"[a-z]+://", key):
        raise section.children["key"].error(f"{key!r}: only a file or an https URL")
    else:
        key = str((section.children["key"].file.parent / key).resolve())
    return Repository(
        name=section.need("name", lambda n: n.line(r"[a-z0-9][a-z0-9.-]*")),
        uri=uri.rstrip("/"),
        suite=suite,
        components=components,
        key=key,
        key_sha256=sha256,
        key_fingerprint=fingerprint,
        pin=section.get("pin", lambda n: n.texts_by_key(_PACKAGE, _PACKAGE_HINT), {}),
        missing_hint=section.get("missing_hint", lambda n: n.line(), ""),
    )


def _sha256(node: Node) -> str:
    return node.line(r"[0-9a-f]{64}", "64 lower-case hex digits, as sha256sum prints them")


def _read_builds(node: Node) -> tuple[Build, ...]:
    result: list[Build] = []
    for item in node.items():
        build = _read_build(item)
        if any(other.name == build.name for other in result):
            raise item.error(f"a second build named {build.name}")
        result.append(build)
    return tuple(result)


def _read_build(node: Node) -> Build:
    section = Section(
        node, ["name", "dkms", "url", "file", "sha256", "packages", "commands", "outputs"]
    )
    packages = section.get("packages", _packages, ())
    if section.has("dkms"):
        for key in ("url", "file", "sha256", "commands"):
            if section.has(key):
                raise section.children[key].error("not together with dkms")
        dkms = section.need("dkms", lambda n: n.line(_PACKAGE, _PACKAGE_HINT))
        outputs = section.get("outputs", _outputs, ("/usr/lib/modules/*/updates/dkms/*",))
        name = section.get("name", _build_name, dkms)
        return Build(name=name, dkms=dkms, packages=packages, outputs=outputs)
    if section.has("url") and section.has("file"):
        raise section.children["file"].error("url or file, not both")
    source_key = next((key for key in ("url", "file") if section.has(key)), None)
    if source_key and not section.has("sha256"):
        raise section.children[source_key].error("needs sha256 beside it")
    if section.has("sha256") and not source_key:
        raise section.children["sha256"].error("needs url or file beside it")
    file = section.get("file", lambda n: _existing(n), None)
    return Build(
        name=section.need("name", _build_name),
        url=section.get("url", lambda n: n.line(r"https?://\S+", "an http or https URL"), ""),
        file=file,
        sha256=section.get("sha256", _sha256, ""),
        packages=packages,
        commands=section.need("commands", lambda n: tuple(i.text() for i in n.items())),
        outputs=section.need("outputs", _outputs, "the paths that leave the builder"),
    )


def _build_name(node: Node) -> str:
    return node.line(r"[a-z0-9][a-z0-9.+_-]*", "lower-case letters, digits, . + _ -")


def _outputs(node: Node) -> tuple[str, ...]:
    outputs = node.lines(_ABSOLUTE, "an absolute path; * ? and [] match as in a shell")
    for item in node.items():
        if ".." in item.value.split("/"):
            raise item.error("no .. here", "an absolute path")
    if not outputs:
        raise node.error("the list is empty", "nothing would leave the builder")
    return outputs


def _existing(node: Node) -> Path:
    path = _path(node)
    if not path.is_file():
        raise node.error(f"no such file: {path}")
    return path


_RUNTIME_PACKAGES = {"docker": ("docker.io",), "containerd": ("containerd",)}


def _read_runtime(node: Node) -> ContainerRuntime:
    section = Section(node, ["name", "options", "sandbox_image", "packages"])
    name = section.need("name", lambda n: n.choice(_RUNTIME_PACKAGES), "docker or containerd")
    options = section.get("options", lambda n: n.lines(r"-\S+", "an option, e.g. --bip=..."), ())
    if name == "containerd" and options:
        raise section.children["options"].error(
            "containerd takes no command line options here",
            "write /etc/containerd/config.toml with files:",
        )
    option_nodes = section.children["options"].items() if options else []
    for option in option_nodes:
        if "native.cgroupdriver" in option.value or "%" in option.value:
            raise option.error(
                "not here: the cgroup driver stands in /etc/docker/daemon.json"
                if "native" in option.value
                else "systemd would expand the %"
            )
    if name == "docker" and section.has("sandbox_image"):
        raise section.children["sandbox_image"].error(
            "only containerd has a sandbox image", "with docker it is kubelet's --pod-infra-..."
        )
    return ContainerRuntime(
        name=name,
        packages=section.get("packages", _packages, _RUNTIME_PACKAGES[name]),
        options=options,
        sandbox_image=section.get("sandbox_image", lambda n: n.line(r"\S+"), ""),
    )


def _read_kubernetes(node: Node) -> Kubernetes:
    section = Section(node, ["version", "repository", "packages", "cni", "kubelet"])
    default = ("kubelet", "kubeadm", "kubectl")
    return Kubernetes(
        version=section.need(
            "version",
            lambda n: n.line(r"1\.\d+(\.\d+)?(-\S+)?", 'in quotes, e.g. "1.20.2" or "1.31"'),
        ),
        repository=section.need("repository", lambda n: n.line(), "the name of a repository"),
        packages=section.get("packages", _packages, default),
        cni=section.get("cni", lambda n: n.choice(["bridge", "none"]), "bridge"),
        kubelet=section.get("kubelet", _read_kubelet, {}),
    )


def _read_kubelet(node: Node) -> dict[str, str | int | bool]:
    result: dict[str, str | int | bool] = {}
    for key, child in node.mapping().items():
        if re.fullmatch(r"[a-z][A-Za-z0-9]*", key) is None:
            raise child.error("not a key of KubeletConfiguration", "e.g. containerLogMaxSize")
        if type(child.value) not in (str, int, bool):
            raise child.error("expected text, a whole number, or true or false")
        result[key] = child.value
    return result


def _check_kubernetes(
    top: Section,
    kubernetes: Kubernetes,
    runtime: ContainerRuntime | None,
    repositories: tuple[Repository, ...],
) -> None:
    section = top.children["kubernetes"]
    names = [repository.name for repository in repositories]
    if kubernetes.repository not in names:
        raise section.mapping()["repository"].error(
            f"no repository named {kubernetes.repository!r}",
            f"repositories: {', '.join(names) or 'none yet'}",
        )
    if runtime is None:
        raise section.error(
            "a kubelet needs a container runtime", "add container_runtime: {name: containerd}"
        )
    has_shim = any(package == "cri-dockerd" for package in _all_packages(top, runtime))
    if runtime.name == "docker" and kubernetes.minor >= _DOCKERSHIM_END and not has_shim:
        raise (
            top.children["container_runtime"]
            .mapping()["name"]
            .error(
                f"kubelet {kubernetes.version} cannot use docker (that ended with 1.24)",
                "container_runtime: {name: containerd}, or add the package cri-dockerd",
            )
        )


def _all_packages(top: Section, runtime: ContainerRuntime) -> tuple[str, ...]:
    return (*runtime.packages, *top.get("packages", _packages, ()))


def _read_cmdline(node: Node) -> tuple[str, ...]:
    words = node.lines(r"[!#-~]+", "one word without spaces or quotes for each parameter")
    reserved = {"root", "nbdroot", "nbdport", "init", "BOOTIF", "boot", "ip"}
    for item in node.items():
        key = item.value.split("=", 1)[0]
        if key in reserved:
            raise item.error(f"{key}= is set by the server's boot menu", "leave it out")
        if '"' in item.value or "'" in item.value:
            raise item.error("no quotes here", "one word for each parameter")
    return words


def _read_services(node: Node) -> Services:
    section = Section(node, ["enable", "disable", "mask"])

    def units(child: Node) -> tuple[str, ...]:
        return child.lines(_UNIT, "a systemd unit's name")

    return Services(
        enable=section.get("enable", units, ()),
        disable=section.get("disable", units, ()),
        mask=section.get("mask", units, ()),
    )


def _read_file(node: Node) -> AddedFile:
    section = Section(node, ["path", "source", "content", "mode", "owner", "optional"])
    if section.has("source") == section.has("content"):
        raise node.error("needs source or content, one of them")
    path = section.need("path", lambda n: n.line(r"/[^\n]*", "an absolute path in the image"))
    if {"..", "."} & set(path.split("/")):
        raise section.children["path"].error("no . or .. here", "an absolute path in the image")
    source = section.get("source", lambda n: str(n.file.parent.resolve() / n.line()), "")
    optional = section.get("optional", lambda n: n.flag(), False)
    if source and not is_glob(source) and not optional and not Path(source).is_file():
        raise section.children["source"].error(f"no such file: {source}")
    if is_glob(source) != path.endswith("/"):
        raise section.children["path"].error(
            "a pattern as source needs a path that ends in /, a single file one that does not"
        )
    mode = section.get("mode", lambda n: n.text(r"0?[0-7]{3,4}", 'in quotes: "0644"'), "0644")
    owner = r"[a-z_][a-z0-9_-]*:[a-z_][a-z0-9_-]*"
    return AddedFile(
        path=path,
        content=section.get("content", lambda n: n.text(), None),
        source=source,
        mode=int(mode, 8),
        owner=section.get("owner", lambda n: n.line(owner, "user:group"), "root:root"),
        optional=optional,
    )


def is_glob(source: str) -> bool:
    """Whether the last part of a path is a pattern."""
    return any(character in source.rsplit("/", 1)[-1] for character in "*?[")


def _read_patch(node: Node) -> PatchSeries:
    section = Section(node, ["series", "directory", "strip"])
    series = section.need("series", _path)
    if not (series / "series").is_file():
        raise section.children["series"].error(
            f"no file {series / 'series'}", "a directory with a series file and its patches"
        )
    return PatchSeries(
        series=series,
        directory=section.get("directory", lambda n: n.line(r"/[^\n]*"), "/"),
        strip=section.get("strip", lambda n: n.number(0, 9), 1),
    )


def _read_initramfs(node: Node) -> Initramfs:
    section = Section(node, ["modules", "network_drivers"])
    return Initramfs(
        modules=section.get("modules", lambda n: n.lines(r"[A-Za-z0-9_-]+"), ()),
        network_drivers=section.get("network_drivers", lambda n: n.choice(_DRIVERS), "listed"),
    )


_DRIVERS = ("listed", "all")


def _read_lts_defaults(node: Node) -> dict[str, str]:
    return node.texts_by_key(LTS_KEY, "capitals, digits and underscores")


def _read_console(node: Node) -> Console:
    section = Section(node, ["password_hash", "ssh_keys"])
    crypt = r"\$(y|gy|6|5|2[aby]|7)\$[!-~]+"
    return Console(
        password_hash=section.get(
            "password_hash",
            lambda n: n.line(crypt, "a crypt(3) hash: make one with `mkpasswd`"),
            "",
        ),
        ssh_keys=section.get(
            "ssh_keys",
            lambda n: n.lines(
                r"(ssh|ecdsa|sk)-\S+ [A-Za-z0-9+/=]+( .*)?", "a line of an id_*.pub file"
            ),
            (),
        ),
    )


def _read_skips(node: Node) -> dict[str, tuple[str, ...]]:
    result: dict[str, tuple[str, ...]] = {}
    for package, child in node.mapping().items():
        if re.fullmatch(_PACKAGE, package) is None:
            raise child.error(f"{package!r} is not a package name")
        result[package] = tuple(item.choice(SCRIPTS) for item in child.items())
    return result


def _read_squashfs(node: Node) -> Squashfs:
    section = Section(node, ["level"])
    return Squashfs(level=section.get("level", lambda n: n.number(1, 22), 15))
