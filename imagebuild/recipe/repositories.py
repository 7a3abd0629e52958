"""Where packages come from: a recipe's mirrors and repositories, read from YAML."""

import re

from imagebuild.recipe import keys
from imagebuild.recipe.ingredients import Mirrors, Repository
from imagebuild.recipe.yamlnode import Node, Section


def read_mirrors(node: Node, distribution: str) -> Mirrors:
    """The base URIs of the distribution's archive and its security archive."""
    section = Section(node, keys.MIRRORS)

    def uri(child: Node) -> str:
        return keys.MIRROR.read(child).rstrip("/")

    archive = section.need("archive", uri)
    security = "" if distribution == "debian" else archive
    if not security or section.has("security"):
        security = section.need("security", uri, "the security archive's URI")
    return Mirrors(archive, security)


def read_repositories(node: Node) -> tuple[Repository, ...]:
    """The recipe's further repositories, each with a name of its own."""
    return node.each_named(_read_repository, "repository")


def _read_repository(node: Node) -> Repository:
    section = Section(node, keys.REPOSITORY)
    uri = section.need("uri", read_uri, keys.URI_HINT, otherwise="")
    suite = section.need("suite", keys.SUITE.read, keys.SUITE_HINT, otherwise="")
    components = section.get("components", keys.COMPONENTS.read, ())
    with node.gathering():
        if suite and not section.has("components") and not suite.endswith("/"):
            raise node.error("components: missing", "e.g. components: [main]")
        if components and suite.endswith("/"):
            raise section.children["components"].error("a flat repository has no components")
    hint = "the file that signs it, or its https URL"
    section.need("key", keys.PATH.read, hint, otherwise="")
    key, sha256, fingerprint = read_key(section)
    return Repository(
        name=section.need("name", keys.REPOSITORY_NAME.read, otherwise=""),
        uri=uri,
        suite=suite,
        components=components,
        key=key,
        key_sha256=sha256,
        key_fingerprint=fingerprint,
        pin=section.get("pin", keys.PIN.read, {}),
        missing_hint=section.get("missing_hint", keys.PATH.read, ""),
    )


def read_uri(node: Node) -> str:
    """A repository's URI; a `file:` path becomes absolute, from the file that it is written in."""
    uri = keys.URI.read(node)
    if uri.startswith("file:"):
        directory = (node.file.parent / uri.removeprefix("file:")).resolve()
        uri = f"file:{directory}"
    return uri.rstrip("/")


def read_key(section: Section) -> tuple[str, str, str]:
    """key (an absolute path or an https URL), key_sha256 and key_fingerprint, empty if absent."""
    key = section.get("key", keys.PATH.read, "")
    sha256 = section.get("key_sha256", keys.SHA256.read, "")
    fingerprint = section.get("key_fingerprint", keys.FINGERPRINT.read, "")
    if key.startswith("https://"):
        if not section.has("key_sha256") and not section.has("key_fingerprint"):
            raise section.children["key"].error(
                "a key from the network needs key_fingerprint or key_sha256",
                f"curl -s {key} | gpg --show-keys",
            )
    elif re.match(r"[a-z]+://", key):
        raise section.children["key"].error(f"{key!r}: only a file or an https URL")
    elif key:
        key = str((section.children["key"].file.parent / key).resolve())
    return key, sha256, fingerprint
