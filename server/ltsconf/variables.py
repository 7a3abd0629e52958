"""The variables of lts.conf: one table for the linter, `lts explain`, docs/lts.conf.md and tests.

A name that ends in `*` is a family: RCFILE_* is each key that begins with
RCFILE_. Families are run in the order of `sort -V` (server.ltsconf.order).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True)
class Variable:
    """`step` is a phase of the boot (docs/contracts.md) or "server"; `actor` the file that acts.

    `kind` is what the value is: text, words, command, boolean, size, seconds, fstab,
    crontab, hosts, registries, labels, taints, or one of `choices`.
    """

    name: str
    meaning: str
    step: str
    actor: str
    example: str
    difference: str
    kind: str = "text"
    default: str = ""
    choices: tuple[str, ...] = ()

    @property
    def is_family(self) -> bool:
        """Whether it stands for every key with its prefix, as RCFILE_*."""
        return self.name.endswith("*")

    @property
    def prefix(self) -> str:
        """The name without its final *."""
        return self.name.rstrip("*")


TRUE_WORDS = frozenset({"true", "t", "yes", "y", "on", "1"})
FALSE_WORDS = frozenset({"false", "f", "no", "n", "off", "0"})

SERVER = "server/boot/plan.py"
INITRAMFS = "usr/lib/bootfarm/boot/ram.sh"
_MEMORY = "usr/lib/bootfarm/lib/memory.sh"
_INIT = "usr/lib/bootfarm/init.d/"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "LIKE",
        "Includes another section: what the including section does not set comes from there."
        " Several LIKE lines are several includes, the earlier wins.",
        "server",
        "server/ltsconf/lookup.py",
        "LIKE = worker",
        "The same. A cycle, which crashes LTSP 5, is an error with its line; never a variable.",
        kind="section",
    ),
    Variable(
        "IMAGE",
        "The image that the node boots: name:tag, name, name@digest or :tag.",
        "menu",
        SERVER,
        'IMAGE = "amd64:canary"',
        "New: in LTSP 5 DHCP's file name decides.",
    ),
    Variable(
        "KERNEL_CMDLINE",
        "Words added to the kernel command line, behind those of the image.",
        "menu",
        SERVER,
        'KERNEL_CMDLINE = "mitigations=auto bootfarm.on_error=reboot"',
        "New: LTSP 5 has CMDLINE_LINUX_DEFAULT in update-kernels.conf, the same for all nodes.",
        kind="words",
    ),
    Variable(
        "LTSP_NBD_TO_RAM",
        "Copy the whole image into memory before the system starts; the server may go away then."
        " Stays on live NBD, and says so, when the image does not fit.",
        "root",
        INITRAMFS,
        "LTSP_NBD_TO_RAM = true",
        "Works from the server's lts.conf and from the image's defaults; LTSP 5 needed a patch,"
        " and did not check that it fits.",
        kind="boolean",
        default="false",
    ),
    Variable(
        "MEMORY_RESERVE",
        "Memory that no file system in memory may take: for the system and the pods. 512M, 2G or"
        " 30%. What is left besides it, the image in memory, /run and /dev/shm is shared by overlay"
        " and containers (docs/boot.md).",
        "root",
        _MEMORY,
        "MEMORY_RESERVE = 40%",
        "New: LTSP 5 does not limit what the overlay takes.",
        kind="size",
        default="a quarter of the memory, at least 256M",
    ),
    Variable(
        "OVERLAY_SIZE",
        "How much of the memory the root's files may take; then their writer gets ENOSPC.",
        "root",
        _MEMORY,
        "OVERLAY_SIZE = 1G",
        "New.",
        kind="size",
        default="two fifths of what is left",
    ),
    Variable(
        "CONTAINERS_SIZE",
        "How much of the memory containers' images and layers may take, where no volume is mounted"
        " for them.",
        "root",
        _MEMORY,
        "CONTAINERS_SIZE = 4G",
        "New.",
        kind="size",
        default="three fifths of what is left",
    ),
    Variable(
        "JOURNAL_SIZE",
        "How much of the memory the journal may take, where no volume is mounted on"
        " /var/log/journal.",
        "preinit",
        _MEMORY,
        "JOURNAL_SIZE = 128M",
        "New.",
        kind="size",
        default="64M",
    ),
    Variable(
        "SHM_SIZE",
        "The size of the machine's own /dev/shm; pods have their own.",
        "preinit",
        _MEMORY,
        "SHM_SIZE = 1G",
        "New.",
        kind="size",
        default="a sixteenth of the memory",
    ),
    Variable(
        "DISK_SECONDS",
        "How long the boot waits for disks of FSTAB_* lines to show up. One that comes later is"
        " mounted when it comes, except below containers.",
        "systemd",
        "usr/lib/bootfarm/volumes",
        "DISK_SECONDS = 90",
        "New.",
        kind="seconds",
        default="10 where there is a storage controller, else 0",
    ),
    Variable(
        "HOSTNAME",
        "The node's host name.",
        "preinit",
        _INIT + "hostname.sh",
        "HOSTNAME = worker-03",
        "Cleaned to what RFC 1123 allows. LTSP 5 takes it as it is.",
    ),
    Variable(
        "HOSTNAME_BASE",
        "Where HOSTNAME is not set: the host name is this and HOSTNAME_EXTRA.",
        "preinit",
        _INIT + "hostname.sh",
        "HOSTNAME_BASE = node",
        "Without both DHCP's host name comes first, then one from the MAC.",
        default="ltsp",
    ),
    Variable(
        "HOSTNAME_EXTRA",
        "What is added to HOSTNAME_BASE: ip (the last number of the address) or mac.",
        "preinit",
        _INIT + "hostname.sh",
        "HOSTNAME_EXTRA = mac",
        "LTSP 5 counts ip from the start of the network, and writes mac with dashes.",
        default="ip",
        choices=("ip", "mac"),
    ),
    Variable(
        "HOSTS_*",
        "Lines added to /etc/hosts.",
        "preinit",
        _INIT + "hosts.sh",
        'HOSTS_01 = "10.9.0.20 api.cluster.example.org"',
        "The same.",
        kind="hosts",
    ),
    Variable(
        "DNS_SERVER",
        "Name servers, with blanks between; else DHCP's.",
        "preinit",
        _INIT + "dns.sh",
        'DNS_SERVER = "10.9.0.1 10.9.0.2"',
        "Several, also with commas; written for systemd-resolved where that owns resolv.conf.",
        kind="words",
    ),
    Variable(
        "SEARCH_DOMAIN",
        "Domains searched for short names, with blanks between; else DHCP's.",
        "preinit",
        _INIT + "dns.sh",
        "SEARCH_DOMAIN = example.org",
        "Works without DNS_SERVER, too.",
        kind="words",
    ),
    Variable(
        "TIMEZONE",
        "The time zone, a name below /usr/share/zoneinfo.",
        "preinit",
        _INIT + "timezone.sh",
        "TIMEZONE = Europe/Prague",
        "A zone that the image has not is told; UTC stays.",
    ),
    Variable(
        "TIMESERVER",
        "NTP servers, with blanks between; else DHCP's.",
        "preinit",
        _INIT + "timeserver.sh",
        "TIMESERVER = ntp.example.org",
        "For chrony or systemd-timesyncd. LTSP 5 runs ntpdate once, and knows the word auto.",
        kind="words",
    ),
    Variable(
        "SYSLOG_HOST",
        "A host that gets the node's log as well, by UDP port 514.",
        "preinit",
        _INIT + "syslog.sh",
        "SYSLOG_HOST = 10.9.0.15",
        "One host; works without rsyslog, too. LTSP 5 takes several, and needs rsyslog.",
    ),
    Variable(
        "ROLLOUT_AGENT",
        "Whether the node reboots when a rollout orders it (docs/rollouts.md): every 20 seconds it"
        " looks at its own Node, with kubelet's certificate. A preview.",
        "systemd",
        "usr/lib/bootfarm/obey-rollout",
        "ROLLOUT_AGENT = true",
        "New.",
        kind="boolean",
    ),
    Variable(
        "NODE_LABELS",
        "Labels of the own Node, KEY=VALUE with blanks between. kubelet registers with them, and"
        " each boot brings a Node that was kept up to date: what lts.conf has no more is removed"
        " from it, as far as bootfarm had set it. Below kubernetes.io and k8s.io a node may set"
        " only the labels of hostname, os, arch, zone, region and instance type, and any below"
        " node.kubernetes.io/ and kubelet.kubernetes.io/ (NodeRestriction); others, as"
        " node-role.kubernetes.io/…, an administrator sets. `lts check` tells, and the node leaves"
        " a wrong one out, since kubelet would not start with it. Values may come from the"
        " inventory: rack={{ node.labels.rack }}. A preview.",
        "preinit",
        _INIT + "kubernetes.sh",
        'NODE_LABELS = "rack=r1 example.org/pool=gpu"',
        "New.",
        kind="labels",
    ),
    Variable(
        "NODE_TAINTS",
        "Taints with which the own Node is made: KEY=VALUE:EFFECT or KEY:EFFECT, with blanks"
        " between; effects are NoSchedule, PreferNoSchedule and NoExecute. Only when its Node is"
        " made: no node may change its taints later (NodeRestriction), and a Node is kept over"
        " reboots. One that is missing then is told on the machine's page, with the command for an"
        " administrator; one that lts.conf has no more stays. A preview.",
        "preinit",
        _INIT + "kubernetes.sh",
        'NODE_TAINTS = "dedicated=gpu:NoSchedule"',
        "New.",
        kind="taints",
    ),
    Variable(
        "MODULE_*",
        "Kernel modules to load, each with its parameters.",
        "preinit",
        _INIT + "modules.sh",
        'MODULE_01 = "bonding mode=802.3ad"',
        "The same; a module that does not load is told.",
        kind="words",
    ),
    Variable(
        "KEEP_SYSTEM_SERVICES",
        "Services that stay although a diskless node usually does without, with blanks between.",
        "preinit",
        _INIT + "services.sh",
        'KEEP_SYSTEM_SERVICES = "ssh rpcbind"',
        "Knows systemd's units; docs/boot.md has the default list.",
        kind="words",
    ),
    Variable(
        "RM_SYSTEM_SERVICES",
        "More services that are not started, with blanks between.",
        "preinit",
        _INIT + "services.sh",
        'RM_SYSTEM_SERVICES = "apt-daily.timer"',
        "Adds to the default list, and knows systemd's units.",
        kind="words",
    ),
    Variable(
        "REGISTRY_MIRRORS",
        "Where container images are asked for first: REGISTRY=URL with blanks between, in this"
        " order; * is every registry without a line of its own. http:// is for a plain one,"
        " `,ca=/FILE` (a file of the image) names its CA; a registry that is its own mirror"
        " (10.9.0.1:5000=http://10.9.0.1:5000) is one that needs either. Docker mirrors docker.io"
        " only, and says so of others.",
        "preinit",
        _INIT + "registries.sh",
        'REGISTRY_MIRRORS = "docker.io=https://mirror.example.org *=http://10.9.0.1:5000"',
        "New. It replaces the recipe's container_runtime.mirrors; empty, the node has none.",
        kind="registries",
    ),
    Variable(
        "CONFIGURE_FSTAB",
        "Whether /etc/fstab is written at all.",
        "preinit",
        _INIT + "fstab.sh",
        "CONFIGURE_FSTAB = False",
        "The same.",
        kind="boolean",
        default="true",
    ),
    Variable(
        "FSTAB_*",
        "Lines of /etc/fstab. Mount points are made; network file systems wait for the network.",
        "preinit",
        _INIT + "fstab.sh",
        'FSTAB_03_DOCKER = "/dev/data/docker /var/lib/docker ext4 nofail,noatime 0 0"',
        "LTSP 5 takes only FSTAB_0 to FSTAB_9…, in the environment's order; here all, in order.",
        kind="fstab",
    ),
    Variable(
        "CRONTAB_*",
        "Lines of a crontab of root's: minute, hour, day, month, weekday, command.",
        "preinit",
        _INIT + "crontab.sh",
        'CRONTAB_01 = "0 4 * * 0 docker image prune -f"',
        "Root's own crontab, so without the user's name that LTSP 5's /etc/cron.d/ltsp wants.",
        kind="crontab",
    ),
    Variable(
        "INIT_COMMAND_*",
        "Commands run before PREINIT_*, each by a shell of its own.",
        "preinit",
        _INIT + "init_command.sh",
        'INIT_COMMAND_01 = "mkdir -p /srv/data"',
        "Each has its own log and exit status, and a name may follow its number. LTSP 5 takes"
        " digits only and sources the lines into its own shell.",
        kind="command",
    ),
    Variable(
        "PREINIT_*",
        "Commands run last before systemd starts; the boot's environment and all values are in"
        " their environment.",
        "preinit",
        _INIT + "preinit.sh",
        'PREINIT_00_TIME = "ln -sf /usr/share/zoneinfo/Europe/Prague /etc/localtime"',
        "The article's patch; each has its own log and exit status here.",
        kind="command",
    ),
    Variable(
        "RCFILE_*",
        "Commands run when the system is up, in order, stopping at the first that fails.",
        "rcfile",
        "usr/lib/bootfarm/rcfile",
        'RCFILE_06_MODULES = "modprobe br_netfilter"',
        "Each in a shell of its own with its own log and exit status, told to the server. LTSP 5"
        " writes one rc.local: what a line sets (cd, variables) lasts to the next line there.",
        kind="command",
    ),
    Variable(
        "RCFILE_ON_ERROR",
        "What happens when an RCFILE_* line fails: stop or continue.",
        "rcfile",
        "usr/lib/bootfarm/rcfile",
        "RCFILE_ON_ERROR = continue",
        "New.",
        default="stop",
        choices=("stop", "continue"),
    ),
)

# Variables of LTSP 5 that a Kubernetes node cannot use (no screen, no users) or must not
# (kubelet refuses to start with swap on). Families by prefix.
SWAP = (
    "NBD_SWAP",
    "NBD_SWAP_SERVER",
    "SWAP_SERVER",
    "USE_LOCAL_SWAP",
    "ENCRYPT_SWAP",
    "NFS_SWAP",
    "NFS_SWAPDIR",
    "SWAPFILE_SIZE",
    "USE_NFS_SWAP",
)
DESKTOP = (
    "ALLOW_GUEST",
    "CONFIGURE_X",
    "CONSOLE_KEYMAP",
    "CD_VOLUME",
    "FRONT_VOLUME",
    "GDM_SERVER",
    "HEADPHONE_VOLUME",
    "LANG",
    "LANGUAGE",
    "LDM_*",
    "LOCALDEV",
    "LOCALDEV_*",
    "LOCAL_APPS",
    "LOCAL_APPS_*",
    "LOGIN_TIME",
    "LOGOUT_TIME",
    "LPR",
    "LTSP_FATCLIENT",
    "MIC_VOLUME",
    "MOUSE_*",
    "MY_SESSION",
    "PCM_VOLUME",
    "PRINTER_*",
    "PULSE_SERVER",
    "RDP_*",
    "REBOOT_TIME",
    "SCANNER",
    "SCREEN_*",
    "SHUTDOWN_TIME",
    "SOUND",
    "SOUND_DAEMON",
    "SPLASH",
    "TELNET_HOST",
    "USE_TOUCH",
    "USE_XFS",
    "VOLUME",
    "XDM_SERVER",
    "XKB*",
    "XRANDR_*",
    "XSERVER",
    "XFS_SERVER",
    "X_*",
)
# Variables of LTSP 5 whose work is done by something else here, and by what.
REPLACED = {
    "SERVER": "the server is the one that the node booted from",
    "NBD_SERVER": "the server is the one that the node booted from",
    "NBD_PORT": "farm.yaml has the port",
    "TFTP_SERVER": "the server is the one that the node booted from",
    "DEFAULT_DISPLAY_MANAGER": "no display manager is installed",
    "UPDATE_MANAGER": "an image is replaced, never updated in place",
    "NFS_HOME": "write an FSTAB_* line",
    "NFS_HOME_OPTIONS": "write an FSTAB_* line",
    "RCFILE": "number the lines: RCFILE_01_NAME",
    "PREINIT": "number the lines: PREINIT_01_NAME",
    "CACHE_RESOLVED": "write DNS_SERVER",
}


@cache
def _by_name() -> dict[str, Variable]:
    return {variable.name: variable for variable in VARIABLES if not variable.is_family}


@cache
def _families() -> tuple[Variable, ...]:
    return tuple(variable for variable in VARIABLES if variable.is_family)


def find_variable(key: str) -> Variable | None:
    """The table's row for a key (upper case); exact names before families."""
    exact = _by_name().get(key)
    if exact is not None:
        return exact
    for family in _families():
        if key.startswith(family.prefix):
            return family
    return None


def is_listed(key: str, names: tuple[str, ...]) -> bool:
    """Whether `key` is one of `names` or of its families."""
    return any(key.startswith(name[:-1]) if name.endswith("*") else key == name for name in names)
