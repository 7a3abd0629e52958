import textwrap
from pathlib import Path

import pytest

from imagebuild.recipe.read import RecipeError, load_recipe
from imagebuild.recipe.yamlnode import FaultsError

HASH = (
    "$6$salt$wZU8LXJfJJqoagopbB7RuK6JEotEMZ0CQDy0phpPAuLMYQFcmf6L6BdAbs/Q7w7o1qsZ9pFqFVY4yuUSWgaYt1"
)
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAikDPnug0aqwW5jD+Niv+IWfMXxPlaLj2iUffBeSjbp me@here"
RECIPES = Path(__file__).parents[3] / "recipes"

MINIMAL = """\
name: amd64
release: bookworm
kernel: {package: linux-image-cloud-amd64}
"""
REPOSITORY = """\
repositories:
  - {name: kubernetes, uri: "https://example.org/deb", suite: /, key: key.gpg}
"""
KUBERNETES = REPOSITORY + "kubernetes: {version: '1.20.2', repository: kubernetes}\n"
MIRRORS = "container_runtime: {name: containerd, mirrors: {%s}}\n"
KUBELET = (
    REPOSITORY
    + "container_runtime: {name: containerd}\n"
    + "kubernetes: {version: '1.37', repository: kubernetes, kubelet: {%s}}\n"
)


def write(directory: Path, text: str, name: str = "recipe.yaml") -> Path:
    path = directory / name
    path.write_text(textwrap.dedent(text))
    return path


def test_the_least_recipe_has_every_default(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, MINIMAL))
    assert recipe.name == "amd64"
    assert recipe.distribution == "debian"
    assert recipe.architecture == "amd64"
    assert recipe.mirrors is None
    assert recipe.components == ("main",)
    assert recipe.kernel_package == "linux-image-cloud-amd64"
    assert not any((recipe.packages, recipe.builds, recipe.files, recipe.cmdline))
    assert recipe.kubernetes is None
    assert recipe.container_runtime is None
    assert recipe.squashfs.level == 15
    assert recipe.verity is False
    assert recipe.console.password_hash == ""
    assert recipe.initramfs.network_drivers == "listed"


def test_a_whole_recipe(tmp_path: Path) -> None:
    (tmp_path / "source.tar").write_bytes(b"")
    (tmp_path / "patches").mkdir()
    (tmp_path / "patches/series").write_text("")
    (tmp_path / "motd").write_text("")
    recipe = load_recipe(
        write(
            tmp_path,
            MINIMAL
            + KUBERNETES
            + """\
mirrors: {archive: http://mirror.example/debian/, security: http://mirror.example/security}
packages: [openssh-server]
builds:
  - dkms: nat-rtsp-dkms
  - name: tool
    file: source.tar
    sha256: "SHA256"
    commands: ["make"]
    outputs: [/usr/bin/tool]
container_runtime: {name: docker, options: [--iptables=false]}
cmdline: [console=ttyS0]
services: {mask: [foo.service]}
files:
  - {path: /etc/motd, source: motd, mode: "0600", owner: "root:adm"}
  - {path: /etc/issue, content: "hi"}
patches: [{series: patches, directory: /usr/share, strip: 2}]
initramfs: {modules: [e1000], network_drivers: all}
lts_defaults: {LTSP_NBD_TO_RAM: "true"}
console: {password_hash: "HASH", ssh_keys: ["KEY"]}
skip_maintainer_scripts: {lvm2: [postinst]}
squashfs: {level: 19}
""".replace("SHA256", "0" * 64)
            .replace("HASH", HASH)
            .replace("KEY", KEY),
        )
    )
    assert recipe.mirrors is not None
    assert recipe.mirrors.archive == "http://mirror.example/debian"
    assert recipe.builds[0].name == "nat-rtsp-dkms"
    assert recipe.builds[0].outputs == ("/usr/lib/modules/*/updates/dkms/*",)
    assert recipe.builds[1].file == tmp_path / "source.tar"
    assert recipe.container_runtime is not None
    assert recipe.container_runtime.packages == ("docker.io",)
    assert recipe.kubernetes is not None
    assert recipe.kubernetes.minor == (1, 20)
    assert recipe.kubernetes.packages == ("kubelet", "kubeadm", "kubectl")
    assert recipe.files[0].mode == 0o600
    assert recipe.files[0].source == str(tmp_path / "motd")
    assert recipe.patches[0].series == tmp_path / "patches"
    assert recipe.skip_maintainer_scripts == {"lvm2": ("postinst",)}
    assert recipe.repositories[0].key == str(tmp_path / "key.gpg")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.name)
def test_our_recipes_are_valid(path: Path) -> None:
    recipe = load_recipe(path)
    is_arm = recipe.architecture == "arm64"  # a preview, without Kubernetes
    assert (recipe.kubernetes is None) is is_arm
    assert (recipe.container_runtime is None) is is_arm
    assert recipe.kernel_package.endswith(f"-{recipe.architecture}")


def test_the_variant_differs_in_its_runtime_only() -> None:
    demo, variant = (load_recipe(RECIPES / f"{n}.yaml") for n in ("demo", "demo-containerd"))
    assert variant.container_runtime is not None
    assert variant.container_runtime.name == "containerd"
    assert variant.container_runtime.options == ()
    assert (variant.packages, variant.builds) == (demo.packages, demo.builds)


BUILD = "builds: [{name: x, commands: [make], outputs: [/usr/bin/x]%s}]\n"

BAD = [
    # (recipe, what the message says after the file, what the hint says)
    ("", "expected a mapping, got nothing", ""),
    ("[]", "expected a mapping, got a list", ""),
    ("name: [", ":1:8: expected the node content", "indentation"),
    ("name: a\nname: b\n", ":2:1: the key 'name' stands twice", ""),
    ("1: a\n", "the key 1 is not text", "quotes"),
    ("release: bookworm\n", "name: missing", "amd64"),
    ("name: amd64\nrelease: bookworm\n", "kernel: missing", "linux-image-amd64"),
    (MINIMAL + "packges: []\n", "packges: unknown key", "did you mean 'packages'"),
    (MINIMAL + "zzz: []\n", "zzz: unknown key", "known keys: architecture"),
    ("name: Amd64\nrelease: x\nkernel: {package: ab}\n", "name: 'Amd64' is no image name", "lower"),
    (MINIMAL + "packages: vim\n", "packages: expected a list, got text", "[vim]"),
    (MINIMAL + "packages: [1]\n", "packages[0]: expected text, got a whole number", "quotes"),
    (MINIMAL + "packages: [vim, 'a b']\n", "packages[1]: 'a b' is not valid here", "package name"),
    (MINIMAL + "packages: [vim=2]\n", "packages[0]: 'vim=2' is not valid", "pin"),
    (MINIMAL + "distribution: debain\n", "distribution: 'debain' is not one of", "'debian'"),
    (MINIMAL + "architecture: riscv64\n", "'riscv64' is not one of amd64, arm64", ""),
    ("name: a\nrelease: x\nkernel: {pakage: ab}\n", "kernel.pakage: unknown", "'package'"),
    (MINIMAL + "mirrors: {archive: 'ftp://x'}\n", "mirrors.archive: 'ftp://x' is not", "http"),
    (MINIMAL + "mirrors: {archive: 'http://x'}\n", "mirrors.security: missing", "security"),
    (MINIMAL + "squashfs: {level: 23}\n", "squashfs.level: 23 is not between 1 and 22", ""),
    (MINIMAL + "squashfs: {level: true}\n", "squashfs.level: expected a whole number", ""),
    (MINIMAL + "cmdline: [root=/dev/sda]\n", "cmdline[0]: root= is set by", "leave it out"),
    (MINIMAL + "cmdline: ['a b']\n", "cmdline[0]: 'a b' is not valid", "one word"),
    (MINIMAL + 'cmdline: ["a\'b"]\n', "cmdline[0]: no quotes here", ""),
    (MINIMAL + "lts_defaults: {IMAGE: ':x'}\n", "lts_defaults.IMAGE: an image", ""),
    (MINIMAL + "lts_defaults: {lower: x}\n", "lts_defaults.lower: the key 'lower'", "capitals"),
    (MINIMAL + "lts_defaults: {A: true}\n", "lts_defaults.A: expected text, got true", "quotes"),
    (MINIMAL + 'lts_defaults: {A: "x\\ny"}\n', "lts_defaults.A: expected one line", ""),
    (MINIMAL + "console: {password_hash: secret}\n", "console.password_hash: 'secret'", "mkpasswd"),
    (MINIMAL + "console: {ssh_keys: [hello]}\n", "console.ssh_keys[0]: 'hello'", "id_*.pub"),
    (MINIMAL + "skip_maintainer_scripts: {lvm2: [posinst]}\n", "lvm2[0]: 'posinst'", "'postinst'"),
    (MINIMAL + "services: {enable: ['a b']}\n", "services.enable[0]", "systemd"),
    (MINIMAL + "initramfs: {modules: ['a/b']}\n", "initramfs.modules[0]", ""),
    (MINIMAL + "initramfs: {network_drivers: some}\n", "initramfs.network_drivers: 'some'", ""),
    (MINIMAL + "builds: [{name: x}]\n", "builds[0].commands: missing", ""),
    (MINIMAL + "builds: [{dkms: a-dkms, url: 'http://x'}]\n", "url: not together with dkms", ""),
    (MINIMAL + BUILD % ", url: 'http://x'", "builds[0].url: needs sha256", ""),
    (MINIMAL + BUILD % ", file: nothing, sha256: '%s'" % ("0" * 64), "builds[0].file: no such", ""),
    (MINIMAL + BUILD % ", sha256: '%s'" % ("0" * 64), "builds[0].sha256: needs url or file", ""),
    (MINIMAL + BUILD % ", sha256: xyz", "builds[0].sha256", ""),
    (MINIMAL + "builds: [{name: x, commands: [], outputs: [usr]}]\n", "outputs[0]: 'usr'", "absol"),
    (
        MINIMAL + "builds: [{name: x, commands: [], outputs: []}]\n",
        "outputs: the list is empty",
        "",
    ),
    (MINIMAL + "builds: [{name: x, commands: [], outputs: [/a/../b]}]\n", "outputs[0]: no ..", ""),
    (MINIMAL + "builds: [{dkms: a-dkms}, {dkms: a-dkms}]\n", "builds[1]: a second build", ""),
    (MINIMAL + "files: [{path: /a}]\n", "files[0]: needs source or content", ""),
    (MINIMAL + "files: [{path: a, content: x}]\n", "files[0].path: 'a' is not valid", "absolute"),
    (MINIMAL + "files: [{path: /a/../b, content: x}]\n", "files[0].path: no . or ..", ""),
    (MINIMAL + "files: [{path: /a, source: none}]\n", "files[0].source: no such file", ""),
    (MINIMAL + "files: [{path: /a, source: '*.x'}]\n", "files[0].path: a pattern as source", ""),
    (MINIMAL + "files: [{path: /a, content: x, mode: 420}]\n", "mode: expected text", "quotes"),
    (MINIMAL + "files: [{path: /a, content: x, mode: '999'}]\n", "mode: '999' is not", "0644"),
    (MINIMAL + "files: [{path: /a, content: x, owner: me}]\n", "owner: 'me'", "user:group"),
    (MINIMAL + "patches: [{series: nowhere}]\n", "patches[0].series: no file", "series file"),
    (MINIMAL + "repositories: [{name: k, uri: ftp://x, suite: /, key: k}]\n", "uri: 'ftp", "http"),
    (
        MINIMAL + "repositories: [{name: k, uri: 'http://x', suite: s, key: k}]\n",
        "components",
        "main",
    ),
    (
        MINIMAL + "repositories: [{name: k, uri: 'http://x', suite: /, key: 'https://x/k'}]\n",
        "repositories[0].key: a key from the network needs key_fingerprint",
        "gpg --show-keys",
    ),
    (
        MINIMAL + "repositories: [{name: k, uri: 'http://x', suite: /, key: 'http://x/k'}]\n",
        "repositories[0].key: 'http://x/k': only a file or an https URL",
        "",
    ),
    (MINIMAL + KUBERNETES, "kubernetes: a kubelet needs a container runtime", "containerd"),
    (
        MINIMAL + KUBERNETES.replace("1.20.2", "1.24") + "container_runtime: {name: docker}\n",
        "container_runtime.name: kubelet 1.24 cannot use docker",
        "cri-dockerd",
    ),
    (
        MINIMAL + KUBERNETES.replace("'1.20.2'", "1.3") + "container_runtime: {name: docker}\n",
        "kubernetes.version: expected text, got a number",
        "quotes",
    ),
    (
        MINIMAL + "kubernetes: {version: '1.20', repository: k8s}\n",
        "kubernetes.repository: no repository named 'k8s'",
        "none yet",
    ),
    (MINIMAL + "container_runtime: {name: dockre}\n", "name: 'dockre' is not one of", "'docker'"),
    (
        MINIMAL + "container_runtime: {name: containerd, options: [--x]}\n",
        "container_runtime.options: containerd takes no",
        "config.toml",
    ),
    (
        MINIMAL + "container_runtime: {name: docker, sandbox_image: x}\n",
        "container_runtime.sandbox_image: only containerd and cri-dockerd",
        "",
    ),
    (
        MINIMAL
        + "container_runtime: {name: docker, options: ['--exec-opt=native.cgroupdriver=x']}\n",
        "container_runtime.options[0]: not here: the cgroup driver",
        "",
    ),
    (
        MINIMAL + KUBELET % "systemReserved: {cpu: 1}",
        "kubernetes.kubelet.systemReserved.cpu: expected text, got a whole number",
        "quotes",
    ),
    (
        MINIMAL + KUBELET % "kind: KubeletConfiguration",
        "kubernetes.kubelet.kind: written for you",
        "leave it out",
    ),
    (MINIMAL + KUBELET % "a: [1.5]", "kubernetes.kubelet.a[0]: expected text, a whole", ""),
    (MINIMAL + MIRRORS % "docker..io/x: 'https://m'", "'docker..io/x' is no registry", "docker.io"),
    (MINIMAL + MIRRORS % "quay.io: mirror", "mirrors.quay.io: 'mirror' is not valid", "http://"),
    (MINIMAL + MIRRORS % "quay.io: ['ftp://m']", "mirrors.quay.io[0]: 'ftp://m'", "http://"),
    (MINIMAL + MIRRORS % "quay.io: {url: 'https://m', ca: no.crt}", "quay.io.ca: no such file", ""),
    (
        MINIMAL + MIRRORS % "quay.io: {url: 'http://m', ca: recipe.yaml}",
        "quay.io.ca: plain http has no CA",
        "",
    ),
    (
        MINIMAL + "container_runtime: {name: docker, mirrors: {quay.io: 'http://m:5000'}}\n",
        "container_runtime.mirrors.quay.io: Docker mirrors docker.io only, not quay.io",
        "name images as m:5000/",
    ),
    (MINIMAL + "verity: 1\n", "verity: expected true or false", ""),
    (MINIMAL + "cmdline: [bootfarm.verity=x]\n", "cmdline[0]: bootfarm.verity= is set by", "leave"),
    (MINIMAL + "extends: other.yaml\n", "extends: no such file", ""),
    (MINIMAL + "extends: recipe.yaml\n", "extends itself", ""),
]


@pytest.mark.parametrize(("text", "message", "hint"), BAD, ids=[case[1][:40] for case in BAD])
def test_an_error_names_file_key_path_and_remedy(
    tmp_path: Path, text: str, message: str, hint: str
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.message.startswith(str(path))
    assert message in caught.value.message
    assert hint in caught.value.hint
    assert "\n" not in caught.value.message


def test_all_faults_are_told_at_once_with_file_and_line(tmp_path: Path) -> None:
    write(tmp_path, MINIMAL + "packages: [vim, A]\nsquashfs: {level: 99}\n", "base.yaml")
    text = """\
    extends: base.yaml
    packages+:
    - mc
    - B C
    cmdline: [root=/dev/sda]
    builds:
    - name: tool
      comands: [make]
      commands: [make]
      outputs: [usr]
    - dkms: a-dkms
      url: http://x
    repositories:
    - name: k
      uri: ftp://x
      suite: /
    files:
    - {path: a, content: x, mode: "999"}
    lts_defaults: {IMAGE: x, lower: y}
    services:
      mask: [a b]
    """
    path = write(tmp_path, text)
    with pytest.raises(FaultsError) as caught:
        load_recipe(path)
    base = tmp_path / "base.yaml"
    assert [fault.message.split(": ")[:2] for fault in caught.value.faults] == [
        [f"{path}:4", "packages+[1]"],
        [f"{path}:5", "cmdline[0]"],
        [f"{path}:8", "builds[0].comands"],
        [f"{path}:10", "builds[0].outputs[0]"],
        [f"{path}:12", "builds[1].url"],
        [f"{path}:14", "repositories[0].key"],
        [f"{path}:15", "repositories[0].uri"],
        [f"{path}:18", "files[0].path"],
        [f"{path}:18", "files[0].mode"],
        [f"{path}:19", "lts_defaults.lower"],
        [f"{path}:19", "lts_defaults.IMAGE"],
        [f"{path}:21", "services.mask[0]"],
        [f"{base}:4", "packages[1]"],
        [f"{base}:5", "squashfs.level"],
    ]
    shown = caught.value.format_message()
    assert shown.startswith("14 faults\n")
    assert "hint: leave it out" in shown


def test_docker_from_1_24_on_with_cri_dockerd(tmp_path: Path) -> None:
    text = MINIMAL + KUBERNETES.replace("1.20.2", "1.30")
    runtime = "container_runtime: {name: docker, packages: [docker.io, cri-dockerd]}\n"
    assert load_recipe(write(tmp_path, text + runtime)).kubernetes is not None


def test_registry_mirrors(tmp_path: Path) -> None:
    (tmp_path / "site.crt").write_text("PEM")
    text = """\
    container_runtime:
      name: containerd
      mirrors:
        docker.io: https://mirror.example/
        quay.io: [{url: "https://a.example", ca: site.crt}, "http://b.example:5000"]
        "*": https://c.example/v2/all
    """
    recipe = load_recipe(write(tmp_path, MINIMAL + textwrap.dedent(text)))
    assert recipe.container_runtime is not None
    assert [(m.registry, m.url, m.ca) for m in recipe.container_runtime.mirrors] == [
        ("docker.io", "https://mirror.example", ""),
        ("quay.io", "https://a.example", str(tmp_path / "site.crt")),
        ("quay.io", "http://b.example:5000", ""),
        ("*", "https://c.example/v2/all", ""),
    ]


def test_docker_mirrors_docker_io_and_has_registries_of_its_own(tmp_path: Path) -> None:
    mirrors = "{docker.io: 'https://m', '10.9.0.1:5000': 'http://10.9.0.1:5000'}"
    text = f"container_runtime: {{name: docker, mirrors: {mirrors}}}\n"
    recipe = load_recipe(write(tmp_path, MINIMAL + text))
    assert recipe.container_runtime is not None
    assert len(recipe.container_runtime.mirrors) == 2


def test_extends_merges_replaces_appends_and_removes(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base-motd").write_text("")
    write(
        tmp_path,
        MINIMAL
        + "packages: [vim]\ncmdline: [quiet]\nservices: {mask: [a.service]}\n"
        + "lts_defaults: {A: '1', B: '2'}\nfiles: [{path: /etc/motd, source: base-motd}]\n",
        "base.yaml",
    )
    child = """\
    extends: ../base.yaml
    name: child
    packages+: [mc]
    cmdline: [console=ttyS0]
    services: {enable: [b.service]}
    lts_defaults: {B: '3', A: null}
    """
    recipe = load_recipe(write(tmp_path / "sub", child))
    assert recipe.name == "child"
    assert recipe.packages == ("vim", "mc")
    assert recipe.cmdline == ("console=ttyS0",)
    assert recipe.services.mask == ("a.service",)
    assert recipe.services.enable == ("b.service",)
    assert recipe.lts_defaults == {"B": "3"}
    # Relative to the file that it is written in.
    assert recipe.files[0].source == str(tmp_path / "base-motd")


def test_an_error_in_the_extended_file_names_that_file(tmp_path: Path) -> None:
    base = write(tmp_path, MINIMAL + "packages: [vim, A]\n", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\ncmdline: [a]\n")
    with pytest.raises(RecipeError, match=r"packages\[1\]") as caught:
        load_recipe(child)
    assert caught.value.message.startswith(str(base))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")


def test_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match=r"x\.yaml:1: not YAML: the character #xff"):
        load_recipe(tmp_path / "x.yaml")


@pytest.mark.parametrize("text", ["a: !!python/object:os.system {}", "a: &a [*a]", "a: 2020-01-01"])
def test_yaml_that_means_mischief_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(write(tmp_path, text))
