"""Every key of a recipe, its shape and what it means: read.py reads by it, schema.py tells it.

docs/recipes.md says more of each.
"""

from typing import Any

from imagebuild.architecture import ARCHITECTURES
from imagebuild.recipe.shapes import (
    AnyOf,
    Anything,
    Choice,
    Flag,
    Key,
    Keys,
    Line,
    ListOf,
    MapOf,
    Text,
    Whole,
)

DISTRIBUTIONS = ("debian", "ubuntu")
SCRIPTS = ("preinst", "postinst", "prerm", "postrm")
RUNTIMES = {"docker": "docker.io", "containerd": "containerd"}
"""Container runtimes, and the package that brings each."""
KEY_KEYS = ("key", "key_sha256", "key_fingerprint")

PACKAGE_HINT = "a Debian package name; a version goes to repositories[].pin"
SUITE_HINT = "e.g. stable, or ./ for a flat one"
URI_HINT = "http:, https: or file:"

NAME = Text(r"[a-z0-9][a-z0-9._-]*", "lower-case letters, digits, . _ -")
RELEASE = Text(r"[a-z][a-z0-9.-]*", "a code name such as bookworm")
PACKAGE = Text(r"[a-z0-9][a-z0-9+.-]+", PACKAGE_HINT)
PACKAGES = ListOf(PACKAGE)
PATH = Text()
SHA256 = Text(r"[0-9a-f]{64}", "64 lower-case hex digits, as sha256sum prints them")
FINGERPRINT = Text(r"[0-9A-F]{40}", "40 capital hex digits, no spaces")
MIRROR = Text(r"https?://\S+", "an http or https URI")
DOWNLOAD = Text(r"https?://\S+", "an http or https URL")

ARCHIVE_COMPONENTS = ListOf(Text(r"[a-z-]+"))
MIRRORS = Keys(
    {
        "archive": Key(MIRROR, "Base URI of the distribution's archive.", needed=True),
        "security": Key(MIRROR, "Base URI of its security archive; Debian has one of its own."),
    }
)

REPOSITORY_NAME = Text(r"[a-z0-9][a-z0-9.-]*")
URI = Text(r"(file:|https?://)\S+", URI_HINT)
SUITE = Text(r"\S+", SUITE_HINT)
COMPONENTS = ListOf(Text(r"\S+"))
PIN = MapOf(Line(), PACKAGE.pattern, PACKAGE_HINT)
REPOSITORY = Keys(
    {
        "name": Key(REPOSITORY_NAME, "What kubernetes.repository calls it.", needed=True),
        "uri": Key(URI, "Where it is; a file: path counts from the recipe.", needed=True),
        "suite": Key(SUITE, "Its suite, or a path that ends in / for a flat one.", needed=True),
        "components": Key(COMPONENTS, "Its components; a flat repository has none."),
        "key": Key(PATH, "The file that signs it, or its https URL.", needed=True),
        "key_sha256": Key(SHA256, "SHA-256 of the key's bytes."),
        "key_fingerprint": Key(FINGERPRINT, "Fingerprint of its primary key."),
        "pin": Key(PIN, "Package to the version, or the beginning of one, that is wanted."),
        "missing_hint": Key(PATH, "What to do where a file: repository is not there."),
    },
    {
        "allOf": [
            {
                "if": {"properties": {"suite": {"pattern": "/$"}}},
                "then": {"properties": {"components": {"maxItems": 0}}},
                "else": {"required": ["components"]},
            },
            {
                "if": {"properties": {"key": {"pattern": "^https://"}}},
                "then": {
                    "anyOf": [{"required": ["key_sha256"]}, {"required": ["key_fingerprint"]}]
                },
                "else": {"properties": {"key": {"not": {"pattern": "^[a-z]+://"}}}},
            },
        ]
    },
)

KERNEL = Keys({"package": Key(PACKAGE, "The kernel, as linux-image-amd64.", needed=True)})
ARCHITECTURE = Choice(tuple(ARCHITECTURES))

BUILD_NAME = Text(r"[a-z0-9][a-z0-9.+_-]*", "lower-case letters, digits, . + _ -")
OUTPUT = Text(r"/[^\n]*[^/\n]", "an absolute path; * ? and [] match as in a shell")
COMMANDS = ListOf(Text(lines=True))
BUILD = Keys(
    {
        "name": Key(BUILD_NAME, "What it is called in logs; a dkms package names itself."),
        "dkms": Key(PACKAGE, "A -dkms package, built for the image's kernel."),
        "url": Key(DOWNLOAD, "The source, downloaded; wants sha256."),
        "file": Key(PATH, "The source, a file beside the recipe; wants sha256."),
        "sha256": Key(SHA256, "SHA-256 of the source."),
        "packages": Key(PACKAGES, "What building it needs."),
        "commands": Key(COMMANDS, "Shell commands, run where the source is unpacked."),
        "outputs": Key(ListOf(OUTPUT, least=1), "Patterns of what leaves the builder."),
    },
    {
        "anyOf": [
            {
                "required": ["dkms"],
                "not": {
                    "anyOf": [{"required": [k]} for k in ("url", "file", "sha256", "commands")]
                },
            },
            {
                "required": ["name", "commands", "outputs"],
                "not": {"anyOf": [{"required": ["dkms"]}, {"required": ["url", "file"]}]},
                "dependentRequired": {"url": ["sha256"], "file": ["sha256"]},
            },
        ]
    },
)

OPTION = Text(r"-\S+", "an option, e.g. --bip=...")
SANDBOX = Text(r"\S+")
REGISTRY_HINT = "https://HOST[:PORT], or http:// for one that speaks plain http"
REGISTRY_URL = Text(
    r"https?://[A-Za-z0-9.-]+(:[0-9]+)?(/[A-Za-z0-9._~/%-]*)?",
    REGISTRY_HINT,
)
REGISTRY_MIRROR = Keys(
    {
        "url": Key(REGISTRY_URL, "https:// or, said so, http://.", needed=True),
        "ca": Key(PATH, "A file with the CA that signs it."),
    }
)
REGISTRY = r"\*|[A-Za-z0-9.-]+(:[0-9]+)?"
_ONE_MIRROR = AnyOf((REGISTRY_URL, REGISTRY_MIRROR))
REGISTRIES = MapOf(AnyOf((_ONE_MIRROR, ListOf(_ONE_MIRROR))), REGISTRY)
RUNTIME = Keys(
    {
        "name": Key(Choice(tuple(RUNTIMES)), "docker or containerd.", needed=True),
        "package": Key(PACKAGE, "The package that brings it."),
        "packages": Key(PACKAGES, "What else it needs; without package: all of it."),
        "options": Key(ListOf(OPTION), "Options of dockerd's command line."),
        "sandbox_image": Key(SANDBOX, "The pause image of containerd or cri-dockerd."),
        "mirrors": Key(REGISTRIES, "Where a registry's images are asked for first."),
    }
)

VERSION = Text(r"1\.\d+(\.\d+)?(-\S+)?", 'in quotes, e.g. "1.20.2" or "1.31"')
CNI = Choice(("bridge", "none"))
KUBELET_KEY = r"[a-z][A-Za-z0-9]*"
_KUBERNETES: dict[str, Key] = {
    "version": Key(VERSION, "The version, or the beginning of one, in quotes.", needed=True),
    "repository": Key(Text(), "The name of one of the repositories.", needed=True),
    "packages": Key(PACKAGES, "What is installed of it: kubelet, kubeadm, kubectl."),
    "cni": Key(CNI, "A bridge for a single node, or none: the cluster brings its own."),
    "kubelet": Key(MapOf(Anything(), KUBELET_KEY), "Fields of KubeletConfiguration, besides kind."),
}
KUBERNETES = Keys(_KUBERNETES)

WORD = Text(r"[!-~]+", "one word without spaces or quotes for each parameter")

UNITS = ListOf(Text(r"[A-Za-z0-9@:_.\\-]+", "a systemd unit's name"))
SERVICES = Keys(
    {
        "enable": Key(UNITS, "Units that start."),
        "disable": Key(UNITS, "Units that do not start by themselves."),
        "mask": Key(UNITS, "Units that cannot be started."),
    }
)

FILE_PATH = Text(r"/[^\n]*", "an absolute path in the image")
MODE = Text(r"0?[0-7]{3,4}", 'in quotes: "0644"')
OWNER = Text(r"[a-z_][a-z0-9_-]*:[a-z_][a-z0-9_-]*", "user:group")
FILE_OPTIONAL = Flag()
FILE = Keys(
    {
        "path": Key(FILE_PATH, "Where it is in the image; ends in / for a pattern.", needed=True),
        "source": Key(PATH, "A file beside the recipe, or a pattern of several."),
        "content": Key(Text(lines=True), "Its text."),
        "mode": Key(MODE, 'Its mode, in quotes: "0644".'),
        "owner": Key(OWNER, "user:group of the image."),
        "optional": Key(FILE_OPTIONAL, "Whether the source may be missing."),
    },
    {"oneOf": [{"required": ["source"]}, {"required": ["content"]}]},
)

STRIP = Whole(0, 9)
PATCH = Keys(
    {
        "series": Key(PATH, "A directory with a `series` file and its patches.", needed=True),
        "directory": Key(FILE_PATH, "Where in the image they are applied."),
        "strip": Key(STRIP, "Leading parts of the patches' paths that are left out."),
    }
)

MODULES = ListOf(Text(r"[A-Za-z0-9_-]+"))
DRIVERS = Choice(("listed", "all"))
INITRAMFS = Keys(
    {
        "modules": Key(MODULES, "Modules to add."),
        "network_drivers": Key(DRIVERS, "Drivers of network cards: those of modules, or all."),
    }
)

LTS_KEY = r"[A-Z_][A-Z0-9_]*"
LTS_DEFAULTS = MapOf(Line(), LTS_KEY, "capitals, digits and underscores")

HASH = Text(r"\$(y|gy|6|5|2[aby]|7)\$[!-~]+", "a crypt(3) hash: make one with `mkpasswd`")
SSH_KEY = Text(r"(ssh|ecdsa|sk)-\S+ [A-Za-z0-9+/=]+( .*)?", "a line of an id_*.pub file")
SSH_KEYS = ListOf(SSH_KEY)
CONSOLE = Keys(
    {
        "password_hash": Key(HASH, "root's password as a crypt(3) hash; none: locked."),
        "ssh_keys": Key(SSH_KEYS, "Public keys that may log in as root."),
    }
)
SKIPS = MapOf(ListOf(Choice(SCRIPTS)), PACKAGE.pattern)
LEVEL = Whole(1, 22)
VERITY = Flag()
SQUASHFS = Keys({"level": Key(LEVEL, "zstd's level: 3 is quick, 15 small, 19 smaller and slow.")})

_RECIPE: dict[str, Key] = {
    "extends": Key(PATH, "A recipe on which this one is laid, key by key."),
    "name": Key(NAME, "The image's name.", needed=True),
    "distribution": Key(Choice(DISTRIBUTIONS), "What it is made of: debian."),
    "release": Key(RELEASE, "The release's code name.", needed=True),
    "architecture": Key(ARCHITECTURE, "amd64, or arm64."),
    "mirrors": Key(MIRRORS, "Where packages come from; else where this machine's do."),
    "components": Key(ARCHIVE_COMPONENTS, "Components of the archive: main."),
    "packages": Key(PACKAGES, "Packages of the base system."),
    "repositories": Key(ListOf(REPOSITORY), "Further apt repositories."),
    "kernel": Key(KERNEL, "The kernel.", needed=True),
    "builds": Key(ListOf(BUILD), "What is built from source, in a copy that is thrown away."),
    "container_runtime": Key(RUNTIME, "docker or containerd."),
    "kubernetes": Key(KUBERNETES, "Kubernetes: version and repository."),
    "cmdline": Key(ListOf(WORD), "Words of the kernel's command line."),
    "services": Key(SERVICES, "systemd units to enable, disable and mask."),
    "files": Key(ListOf(FILE), "Files of your own."),
    "patches": Key(ListOf(PATCH), "Patches of the image's files."),
    "initramfs": Key(INITRAMFS, "What the initramfs has besides."),
    "lts_defaults": Key(LTS_DEFAULTS, "Values below whatever lts.conf says."),
    "console": Key(CONSOLE, "root's way in; none: locked."),
    "skip_maintainer_scripts": Key(SKIPS, "Package to scripts of it that are not run."),
    "squashfs": Key(SQUASHFS, "How the root file system is packed."),
    "verity": Key(VERITY, "A preview: nodes check each block of the root that they read."),
}
RECIPE = Keys(_RECIPE)
MERGED = Keys({name: key for name, key in _RECIPE.items() if name != "extends"})
"""What is left once a recipe was laid on those that it extends."""


def describe() -> dict[str, Any]:
    """JSON Schema of a recipe (draft 2020-12).

    In a recipe that extends another, no key of its own has to be there, `key+` appends
    to a list, and null takes a key away.
    """
    whole = RECIPE.schema()
    loose = _loosen(whole)
    loose["properties"] |= {
        f"{name}+": schema
        for name, schema in whole["properties"].items()
        if schema.get("type") == "array"
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bootfarm recipe",
        "description": "What is in a node image: docs/recipes.md.",
        "if": {"required": ["extends"]},
        "then": loose,
        "else": whole,
    }


def _loosen(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a mapping that may leave keys to the recipe that it extends."""
    found = {key: value for key, value in schema.items() if key != "required"}
    found["properties"] = {
        name: {
            "anyOf": [_loosen(below) if "properties" in below else below, {"type": "null"}],
            "description": below["description"],
        }
        for name, below in schema["properties"].items()
    }
    return found
