"""The recipe: what is in an image. YAML -> Recipe; docs/recipes.md has every key.

Every error names the file, the line, the key path and a remedy, and all of a
recipe are told at once. Nothing is looked up outside of the recipe's own files
here: whether a package exists is for `imagebuild.apt` to say. What keys there are,
and what their values look like, stands in keys.py.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from imagebuild.architecture import ARCHITECTURES, DEFAULT
from imagebuild.recipe import compatibility, keys
from imagebuild.recipe.conflicts import find_conflicts
from imagebuild.recipe.credentials import find_hash_fault, find_key_fault
from imagebuild.recipe.ingredients import (
    AddedFile,
    Build,
    Console,
    ContainerRuntime,
    Initramfs,
    Kubernetes,
    PatchSeries,
    Recipe,
    RegistryMirror,
    Repository,
    Services,
    Squashfs,
)
from imagebuild.recipe.repositories import read_mirrors, read_repositories
from imagebuild.recipe.yamlnode import Faults, Node, RecipeError, Section, load_node
from imagebuild.store.manifest import is_image_name

__all__ = ["Recipe", "RecipeError", "load_recipe"]

LTS_CHECKS: list[Callable[[str, str], tuple[str, str] | None]] = []
"""What says of a variable and its value in lts_defaults what is wrong, and the remedy.

The language of lts.conf is the server's, which this half of the house does not import:
the front door, bootfarm.py, knows both and puts the linter here.
"""


def load_recipe(path: Path) -> Recipe:
    """Read a recipe and what it extends; RecipeError says what is wrong with it.

    FaultsError, where that is more than one thing.
    """
    return read_recipe(load_merged(path), path)


def read_recipe(node: Node, path: Path) -> Recipe:
    """The recipe of a document that `load_merged` gave; raises as `load_recipe`."""
    faults = node.faults or Faults()
    with node.gathering():
        recipe = _read_recipe(node, path)
        faults.check()
        for conflict in find_conflicts(node, recipe):
            faults.add(conflict)
        with node.gathering():
            _check_together(node, recipe)
        faults.check()
        return recipe
    faults.check()
    raise AssertionError("the faults were raised above")


def load_merged(path: Path) -> Node:
    """A recipe's document, laid on those that it extends; its faults are gathered."""
    return _load_merged(path, (), Faults())


def _load_merged(path: Path, seen: tuple[Path, ...], faults: Faults) -> Node:
    here = path.resolve()
    node = load_node(path, faults)
    if here in seen:
        raise node.error("extends itself", "take the extends: line out of one of the files")
    children = node.mapping()
    if "extends" not in children:
        return node
    base = _path(children["extends"])
    if not base.is_file():
        raise children["extends"].error(f"no such file: {base}")
    rest = node.without("extends")
    return _load_merged(base, (*seen, here), faults).merged(rest)


def _read_recipe(node: Node, path: Path) -> Recipe:
    top = Section(node, keys.MERGED)
    distribution = top.get("distribution", lambda n: n.choice(keys.DISTRIBUTIONS), "debian")
    repositories = top.get("repositories", read_repositories, ())
    runtime = top.get("container_runtime", _read_runtime, None)
    kubernetes = top.get("kubernetes", _read_kubernetes, None)
    if kubernetes is not None:
        with node.gathering():
            _check_kubernetes(top, kubernetes, repositories)
    architecture = top.get("architecture", keys.ARCHITECTURE.read, DEFAULT)
    hint = f"kernel: {{package: {ARCHITECTURES[architecture].kernel}}}"
    return Recipe(
        file=path,
        name=top.need("name", _image_name, "the image's name, e.g. amd64", otherwise=""),
        distribution=distribution,
        release=top.need("release", keys.RELEASE.read, otherwise=""),
        architecture=architecture,
        mirrors=top.get("mirrors", lambda n: read_mirrors(n, distribution), None),
        components=top.get("components", keys.ARCHIVE_COMPONENTS.read, ("main",)),
        packages=top.get("packages", keys.PACKAGES.read, ()),
        repositories=repositories,
        kernel_package=top.need("kernel", _read_kernel, hint, otherwise=""),
        builds=top.get("builds", _read_builds, ()),
        container_runtime=runtime,
        kubernetes=kubernetes,
        cmdline=top.get("cmdline", _read_cmdline, ()),
        services=top.get("services", _read_services, Services()),
        files=top.get("files", lambda n: n.each(_read_file), ()),
        patches=top.get("patches", lambda n: n.each(_read_patch), ()),
        initramfs=top.get("initramfs", _read_initramfs, Initramfs()),
        lts_defaults=top.get("lts_defaults", _read_lts_defaults, {}),
        console=top.get("console", _read_console, Console()),
        skip_maintainer_scripts=top.get("skip_maintainer_scripts", keys.SKIPS.read, {}),
        squashfs=top.get("squashfs", _read_squashfs, Squashfs()),
        verity=top.get("verity", keys.VERITY.read, False),
    )


def _check_together(top: Node, recipe: Recipe) -> None:
    """Check what each key allows and other keys do not."""
    if recipe.kubernetes is not None and recipe.container_runtime is None:
        raise top.below("kubernetes").error(
            "a kubelet needs a container runtime", "add container_runtime: {name: containerd}"
        )
    refusal = compatibility.find_refusal(recipe, compatibility.expected_versions(recipe))
    if refusal is not None:
        raise top.below(refusal.key).error(refusal.what, refusal.hint)
    runtime = recipe.container_runtime
    if (
        runtime is not None
        and runtime.name == "docker"
        and runtime.sandbox_image
        and not compatibility.uses_cri_dockerd(recipe)
    ):
        raise top.below("container_runtime.sandbox_image").error(
            "only containerd and cri-dockerd have a sandbox image",
            "with docker alone it is kubelet's --pod-infra-container-image",
        )


def _path(node: Node) -> Path:
    """A path of this machine, relative to the file that it is written in."""
    return (node.file.parent / node.line()).resolve()


def _image_name(node: Node) -> str:
    name = node.line()
    if not is_image_name(name):
        raise node.error(f"{name!r} is no image name", "lower-case letters, digits, . _ -")
    return name


def _read_kernel(node: Node) -> str:
    section = Section(node, keys.KERNEL)
    return section.need("package", keys.PACKAGE.read)


def _read_builds(node: Node) -> tuple[Build, ...]:
    return node.each_named(_read_build, "build")


def _read_build(node: Node) -> Build:
    section = Section(node, keys.BUILD)
    packages = section.get("packages", keys.PACKAGES.read, ())
    if section.has("dkms"):
        for key in ("url", "file", "sha256", "commands"):
            if section.has(key):
                raise section.children[key].error("not together with dkms")
        dkms = section.need("dkms", keys.PACKAGE.read)
        outputs = section.get("outputs", _outputs, ("/usr/lib/modules/*/updates/dkms/*",))
        name = section.get("name", keys.BUILD_NAME.read, dkms)
        return Build(name=name, dkms=dkms, packages=packages, outputs=outputs)
    if section.has("url") and section.has("file"):
        raise section.children["file"].error("url or file, not both")
    source_key = next((key for key in ("url", "file") if section.has(key)), None)
    if source_key and not section.has("sha256"):
        raise section.children[source_key].error("needs sha256 beside it")
    if section.has("sha256") and not source_key:
        raise section.children["sha256"].error("needs url or file beside it")
    return Build(
        file=section.get("file", _existing, None),
        url=section.get("url", keys.DOWNLOAD.read, ""),
        sha256=section.get("sha256", keys.SHA256.read, ""),
        packages=packages,
        name=section.need("name", keys.BUILD_NAME.read, otherwise=""),
        commands=section.need("commands", keys.COMMANDS.read, otherwise=()),
        outputs=section.need("outputs", _outputs, "the paths that leave the builder", otherwise=()),
    )


def _outputs(node: Node) -> tuple[str, ...]:
    def read(item: Node) -> str:
        output = keys.OUTPUT.read(item)
        if ".." in output.split("/"):
            raise item.error("no .. here", "an absolute path")
        return output

    if not node.items():
        raise node.error("the list is empty", "nothing would leave the builder")
    return node.each(read)


def _existing(node: Node) -> Path:
    path = _path(node)
    if not path.is_file():
        raise node.error(f"no such file: {path}")
    return path


def _read_runtime(node: Node) -> ContainerRuntime:
    section = Section(node, keys.RUNTIME)
    name = section.need("name", lambda n: n.choice(keys.RUNTIMES), "docker or containerd")
    options = section.get("options", lambda n: n.each(_read_option), ())
    if name == "containerd" and options:
        with node.gathering():
            raise section.children["options"].error(
                "containerd takes no command line options here",
                "write /etc/containerd/config.toml with files:",
            )
    return ContainerRuntime(
        name=name,
        packages=_read_runtime_packages(section, keys.RUNTIMES[name]),
        options=options,
        sandbox_image=section.get("sandbox_image", keys.SANDBOX.read, ""),
        mirrors=section.get("mirrors", lambda n: _read_registry_mirrors(n, name), ()),
    )


def _read_option(node: Node) -> str:
    option = keys.OPTION.read(node)
    if "native.cgroupdriver" in option:
        raise node.error("not here: the cgroup driver stands in /etc/docker/daemon.json")
    if "%" in option:
        raise node.error("systemd would expand the %")
    return option


def _read_registry_mirrors(node: Node, runtime: str) -> tuple[RegistryMirror, ...]:
    """`registry: URL`, or a list of URLs and of {url:, ca:}, asked in this order."""
    found: list[RegistryMirror] = []
    for registry, child in node.mapping().items():
        with node.gathering():
            if re.fullmatch(keys.REGISTRY, registry) is None:
                raise child.error(f"{registry!r} is no registry", "e.g. docker.io, or * for all")
            for item in child.items() if isinstance(child.value, list) else [child]:
                with node.gathering():
                    found.append(_read_registry_mirror(registry, item, runtime))
    return tuple(found)


def _read_registry_mirror(registry: str, node: Node, runtime: str) -> RegistryMirror:
    ca = ""
    if isinstance(node.value, dict):
        section = Section(node, keys.REGISTRY_MIRROR)
        url = section.need("url", keys.REGISTRY_URL.read, keys.REGISTRY_HINT)
        ca = section.get("ca", lambda n: str(_existing(n)), "")
        if ca and url.startswith("http://"):
            raise section.children["ca"].error("plain http has no CA", "an https URL, or no ca")
    else:
        url = keys.REGISTRY_URL.read(node)
    host = url.split("://")[1].partition("/")[0]
    if runtime == "docker" and registry not in ("docker.io", host):
        raise node.error(
            f"Docker mirrors docker.io only, not {registry}",
            f"name images as {host}/…, or take containerd",
        )
    return RegistryMirror(registry, url.rstrip("/"), ca)


def _read_runtime_packages(section: Section, usual: str) -> tuple[str, ...]:
    """`package` brings the runtime, `packages` what else it needs; `packages` alone are all."""
    packages = section.get("packages", keys.PACKAGES.read, ())
    if section.has("packages") and not section.has("package"):
        return packages
    package = section.get("package", keys.PACKAGE.read, usual)
    return tuple(dict.fromkeys((package, *packages)))


def _read_kubernetes(node: Node) -> Kubernetes:
    section = Section(node, keys.KUBERNETES)
    default = ("kubelet", "kubeadm", "kubectl")
    packages = section.get("packages", keys.PACKAGES.read, default)
    cni = section.get("cni", keys.CNI.read, "bridge")
    kubelet = section.get("kubelet", _read_kubelet, {})
    return Kubernetes(
        version=section.need("version", keys.VERSION.read, otherwise="1.0"),
        repository=section.need("repository", keys.PATH.read, "the name of a repository"),
        packages=packages,
        cni=cni,
        kubelet=kubelet,
    )


# Maps of KubeletConfiguration whose values are text: kubelet refuses `cpu: 1`.
_TEXT_MAPS = (
    *(
        "systemReserved",
        "kubeReserved",
        "qosReserved",
    ),
    *("evictionHard", "evictionSoft", "evictionSoftGracePeriod", "evictionMinimumReclaim"),
    *("memorySwap",),
)


def _read_kubelet(node: Node) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, child in node.mapping().items():
        with node.gathering():
            if re.fullmatch(keys.KUBELET_KEY, key) is None:
                raise child.error("not a key of KubeletConfiguration", "e.g. containerLogMaxSize")
            if key in ("apiVersion", "kind"):
                raise child.error("written for you", "leave it out")
            if key in _TEXT_MAPS:
                result[key] = {name: item.text() for name, item in child.mapping().items()}
            else:
                result[key] = _plain(child)
    return result


def _plain(node: Node) -> Any:
    """The value as JSON has it. Raises RecipeError for a value that JSON cannot hold."""
    if isinstance(node.value, dict):
        return {key: _plain(child) for key, child in node.mapping().items()}
    if isinstance(node.value, list):
        return [_plain(item) for item in node.items()]
    if type(node.value) not in (str, int, bool):
        raise node.error("expected text, a whole number, true or false, or lists and maps of them")
    return node.value


def _check_kubernetes(
    top: Section, kubernetes: Kubernetes, repositories: tuple[Repository, ...]
) -> None:
    names = [repository.name for repository in repositories]
    if kubernetes.repository not in names:
        raise (
            top.children["kubernetes"]
            .mapping()["repository"]
            .error(
                f"no repository named {kubernetes.repository!r}",
                f"repositories: {', '.join(names) or 'none yet'}",
            )
        )


def _read_cmdline(node: Node) -> tuple[str, ...]:
    return node.each(_read_word)


def _read_word(node: Node) -> str:
    word = keys.WORD.read(node)
    key = word.split("=", 1)[0]
    if key in {"root", "nbdroot", "nbdport", "init", "BOOTIF", "boot", "ip", "bootfarm.verity"}:
        raise node.error(f"{key}= is set by the server's boot menu", "leave it out")
    if '"' in word or "'" in word:
        raise node.error("no quotes here", "one word for each parameter")
    return word


def _read_services(node: Node) -> Services:
    section = Section(node, keys.SERVICES)
    return Services(
        enable=section.get("enable", keys.UNITS.read, ()),
        disable=section.get("disable", keys.UNITS.read, ()),
        mask=section.get("mask", keys.UNITS.read, ()),
    )


def _read_file(node: Node) -> AddedFile:
    section = Section(node, keys.FILE)
    if section.has("source") == section.has("content"):
        raise node.error("needs source or content, one of them")
    path = section.need("path", keys.FILE_PATH.read, otherwise="")
    source = section.get("source", lambda n: str(n.file.parent.resolve() / n.line()), "")
    optional = section.get("optional", keys.FILE_OPTIONAL.read, False)
    with node.gathering():
        if not path.isprintable() or any(part != part.strip() for part in path.split("/")):
            raise section.children["path"].error(
                f"{path!r} has a part that begins or ends with a blank, or a character that no"
                " eye sees",
                "type it anew",
            )
        if {"..", "."} & set(path.split("/")):
            raise section.children["path"].error("no . or .. here", "an absolute path in the image")
        if source and not is_glob(source) and not optional and not Path(source).is_file():
            raise section.children["source"].error(f"no such file: {source}")
        if is_glob(source) != path.endswith("/"):
            raise section.children["path"].error(
                "a pattern as source needs a path that ends in /, a single file one that does not"
            )
    return AddedFile(
        path=path,
        content=section.get("content", lambda n: n.text(), None),
        source=source,
        mode=int(section.get("mode", keys.MODE.read, "0644"), 8),
        owner=section.get("owner", keys.OWNER.read, "root:root"),
        optional=optional,
    )


def is_glob(source: str) -> bool:
    """Whether the last part of a path is a pattern."""
    return any(character in source.rsplit("/", 1)[-1] for character in "*?[")


def _read_patch(node: Node) -> PatchSeries:
    section = Section(node, keys.PATCH)
    series = section.need("series", _path)
    if not (series / "series").is_file():
        raise section.children["series"].error(
            f"no file {series / 'series'}", "a directory with a series file and its patches"
        )
    return PatchSeries(
        series=series,
        directory=section.get("directory", keys.FILE_PATH.read, "/"),
        strip=section.get("strip", keys.STRIP.read, 1),
    )


def _read_initramfs(node: Node) -> Initramfs:
    section = Section(node, keys.INITRAMFS)
    return Initramfs(
        modules=section.get("modules", keys.MODULES.read, ()),
        network_drivers=section.get("network_drivers", keys.DRIVERS.read, "listed"),
    )


def _read_lts_defaults(node: Node) -> dict[str, str]:
    found = keys.LTS_DEFAULTS.read(node)
    children = node.mapping()
    for key, value in found.items():
        with node.gathering():
            if key == "IMAGE":
                raise children[key].error(
                    "an image cannot name the image to boot", "IMAGE stands in lts.conf"
                )
            for check in LTS_CHECKS:
                wrong = check(key, value)
                if wrong is not None:
                    raise children[key].error(*wrong)
    return found


def _read_console(node: Node) -> Console:
    section = Section(node, keys.CONSOLE)
    return Console(
        password_hash=section.get("password_hash", _read_hash, ""),
        ssh_keys=section.get("ssh_keys", lambda n: n.each(_read_ssh_key), ()),
    )


def _read_hash(node: Node) -> str:
    text = keys.HASH.read(node)
    if (fault := find_hash_fault(text)) is not None:
        raise node.error(fault, "make one with `mkpasswd`, and copy all of it")
    return text


def _read_ssh_key(node: Node) -> str:
    line = keys.SSH_KEY.read(node)
    if (fault := find_key_fault(line)) is not None:
        raise node.error(fault, "copy the whole line of the id_*.pub file")
    return line


def _read_squashfs(node: Node) -> Squashfs:
    section = Section(node, keys.SQUASHFS)
    return Squashfs(level=section.get("level", keys.LEVEL.read, 15))
