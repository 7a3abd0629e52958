"""basesystem: bootstrap, updates, base packages, kernel, patches."""

from imagebuild.apt import KEYRING_PACKAGES, AptView
from imagebuild.architecture import ARCHITECTURES
from imagebuild.chroot import apt as chrootapt
from imagebuild.chroot import patches
from imagebuild.recipe.ingredients import Recipe
from imagebuild.run import NAMESPACES
from imagebuild.run import run as run_command
from imagebuild.stage import ARCHIVES, GROUND, Inputs, StageContext, code_files, tree_files

NAME = "basesystem"
LOADERS = "loaders"
"""In its product: boot loaders that come from the archive, below the paths of their packages."""
TOOLS = {"mmdebstrap": "mmdebstrap", "apt-get": "apt", "chroot": "coreutils", "patch": "patch"}
CODE = (
    *GROUND,
    "imagebuild/chroot/__init__.py",
    "imagebuild/chroot/apt.py",
    "imagebuild/chroot/patches.py",
    "imagebuild/dpkg.py",
    "imagebuild/stages/basesystem.py",
)

BASE_PACKAGES = (
    "systemd-sysv",
    "systemd-timesyncd",
    "dbus",
    "udev",
    "kmod",
    "initramfs-tools",
    "busybox",
    "zstd",
    "ca-certificates",
    "iproute2",
    "iputils-ping",
    "netbase",
    "procps",
    "login",
    "passwd",
    "less",
    "tzdata",
)
"""What the node's own files (`imagebuild/rootfs`) and a person at its console need."""


def inputs(recipe: Recipe, apt: AptView) -> Inputs:
    """The packages at the versions that apt would install, sources, patches, skipped scripts."""
    loaders = ARCHITECTURES[recipe.architecture].loader_packages
    versions = apt.resolve(loaders, "architecture") if loaders else {}
    return Inputs(
        {
            **({"loaders": {name: versions[name] for name in loaders}} if loaders else {}),
            "packages": apt.resolve(packages(recipe), "packages, kernel.package"),
            "sources": apt.identity(),
            "architecture": recipe.architecture,
            "skip": {name: list(value) for name, value in recipe.skip_maintainer_scripts.items()},
            "patches": [
                {"directory": series.directory, "strip": series.strip} for series in recipe.patches
            ],
            "conf": chrootapt.IMAGE_CONF,
        },
        [
            *code_files(CODE),
            *(
                item
                for index, series in enumerate(recipe.patches)
                for item in tree_files(series.series, f"patches/{index}")
            ),
        ],
    )


def packages(recipe: Recipe) -> list[str]:
    """Every package that the recipe wants in this stage, the kernel last."""
    keyring = KEYRING_PACKAGES[recipe.distribution]
    return [*BASE_PACKAGES, keyring, *recipe.packages, recipe.kernel_package]


def run(context: StageContext) -> None:
    """Make the base system in `context.root`."""
    recipe = context.recipe
    context.say("bootstrap")
    bootstrap(context)
    chrootapt.write_image_conf(context.root)
    chrootapt.prepare(context)
    context.say("updates")
    chrootapt.update(context)
    chrootapt.upgrade(context)
    # Packages first: some of them cannot configure themselves once a kernel is there.
    context.say("packages")
    chrootapt.install(context, packages(recipe)[:-1], "packages")
    context.say("kernel")
    chrootapt.install(context, [recipe.kernel_package], "kernel.package")
    for series in recipe.patches:
        context.say(f"patches {series.series.name}")
        patches.apply_series(series, context.root, context.log)
    if loaders := ARCHITECTURES[recipe.architecture].loader_packages:
        context.say("boot loaders")
        chrootapt.unpack(context, loaders, context.product / LOADERS)


def bootstrap(context: StageContext) -> None:
    """mmdebstrap into the root: essential packages and apt."""
    context.archives.mkdir(parents=True, exist_ok=True)
    run_command(
        bootstrap_argv(context),
        stdin=context.apt.outside(),
        log=context.log,
        what="bootstrapping the base system failed",
        hint="check mirrors: of the recipe and the network",
    )
    # Its settings name this machine's proxies; ours follow.
    for path in ("etc/apt/apt.conf.d/99mmdebstrap", "etc/dpkg/dpkg.cfg.d/99mmdebstrap"):
        (context.root / path).unlink(missing_ok=True)


def bootstrap_argv(context: StageContext) -> list[str]:
    """mmdebstrap's command line; the sources come on its standard input."""
    argv = [
        "mmdebstrap",
        "--mode=root",
        "--variant=apt",
        f"--architectures={context.recipe.architecture}",
        "--format=directory",
        '--aptopt=Acquire::Languages "none"',
        '--aptopt=APT::Sandbox::User "root"',
        *(f"--aptopt={line.removesuffix(';')}" for line in context.apt.proxies),
        "--dpkgopt=force-unsafe-io",
    ]
    if context.isolate:
        # The cache of .deb files is mounted over apt's for as long as mmdebstrap downloads.
        argv += [
            "--skip=essential/unlink",
            f'--setup-hook=mkdir -p "$1{ARCHIVES}" && mount --bind "{context.archives}" '
            f'"$1{ARCHIVES}" && mkdir -p "$1{ARCHIVES}/partial"',
            f'--customize-hook=umount "$1{ARCHIVES}"',
        ]
    argv += ["", str(context.root), "-"]
    return [*NAMESPACES, *argv] if context.isolate else argv
