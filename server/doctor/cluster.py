"""The API server that nodes are to join, its clock, and whether the join token still works."""

import email.utils
import http.client
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from server.doctor.findings import found
from server.doctor.join import (
    ClusterInfo,
    JoinLine,
    find_join_line,
    parse_cluster_info,
    read_expiration,
)
from server.doctor.path import describe_offset
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict, good
from server.quantities import name_span

CLUSTER_INFO: Final = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
TIMEOUT: Final = 10.0
"""Seconds for an answer of the API server."""
CLOCKS_DIFFER: Final = 5.0
"""Seconds from which on the clocks are said to differ."""
BACKDATED: Final = 300.0
"""Certificates of the cluster count from five minutes before they are made."""
SOON: Final = 12 * 3600.0
"""Seconds; a token that ends within half a day ends before the next rack is switched on."""
_MOST: Final = 1024 * 1024
"""Bytes of an answer that are read."""


@dataclass(frozen=True)
class _Answer:
    status: int
    body: bytes
    offset: float | None
    """Seconds that its clock is ahead of ours, to about a second; None when it does not say."""


def check_api(target: Target, survey: Survey) -> Iterator[Verdict]:
    """What `kubeadm join` does first, without a credential: fetch and check cluster-info.

    Every valid token signs it; so one that has expired is known by its missing
    signature, and a mistyped one by a signature of another.
    """
    line = find_join_line(survey.values)
    address = _parse_address(target.api or (line.api if line else survey.api))
    if address is None:
        words = f"{target.api!r} is no address" if target.api else "no address is known"
        yield found("api.none", "API server", words)
        return
    host, port = address
    where = f"https://{host}:{port}"
    target.progress(f"asking {where}")
    try:
        answer = _ask(host, port)
    except (OSError, http.client.HTTPException) as error:
        yield found("api.down", where, str(error) or type(error).__name__)
        return
    yield from _judge_clock(where, answer, survey.server_offset)
    info = None
    try:
        if answer.status == 200:
            info = parse_cluster_info(answer.body)
            words = "cluster-info can be read"
        else:
            words = f"{answer.status} {answer.body.decode('utf-8', 'replace')[:200]}"
    except ValueError as error:
        words = f"cluster-info: {error}"
    if info is None:
        yield found("api.cluster-info", where, " ".join(words.split()))
    else:
        yield from _judge_ca(where, info, line)
    yield from _judge_token(target, info, line)


def _parse_address(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    try:
        url = urlsplit(text if "://" in text else f"https://{text}")
        return (url.hostname, url.port or 6443) if url.hostname else None
    except ValueError:
        return None


def _ask(host: str, port: int) -> _Answer:
    """GET cluster-info as kubeadm does at first: without knowing the CA. Raises OSError."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", CLUSTER_INFO)
        answer = connection.getresponse()
        now = time.time()
        body = answer.read(_MOST)
        date = email.utils.parsedate_to_datetime(answer.headers.get("Date", "")).timestamp()
        # A Date is cut to the second: on average it is half a second behind.
        return _Answer(answer.status, body, date + 0.5 - now)
    except ValueError:
        return _Answer(answer.status, body, None)
    finally:
        connection.close()


def _judge_clock(where: str, answer: _Answer, server: float | None) -> Iterator[Verdict]:
    if answer.offset is None:
        return
    offset = answer.offset - (server or 0.0)
    words = describe_offset("the API server's clock", offset)
    words += " of the server's" if server is not None else " of this machine's"
    if abs(offset) >= BACKDATED:
        yield found("clock.join", where, words)
    elif abs(offset) > CLOCKS_DIFFER:
        yield found("clock.api", where, words)
    else:
        yield good("clock", where, words)


def _judge_ca(where: str, info: ClusterInfo, line: JoinLine | None) -> Iterator[Verdict]:
    try:
        hashes = info.ca_hashes()
    except (ValueError, KeyError, TypeError, IndexError) as error:
        yield found("api.cluster-info", where, f"its CA cannot be read: {error}")
        return
    if line is None or not line.ca_hashes:
        yield good("api", where, "it answers; lts.conf has no hash of its CA to compare with")
    elif set(hashes) & set(line.ca_hashes):
        yield good("api", where, "it answers, and its CA is the one of the join line")
    else:
        words = f"{', '.join(hashes)[:26]}…, the line says {', '.join(line.ca_hashes)[:26]}…"
        yield found("api.ca", where, words)


def _judge_token(
    target: Target, info: ClusterInfo | None, line: JoinLine | None
) -> Iterator[Verdict]:
    if line is None or not line.token_id:
        words = "the join line has none" if line and not line.token else "lts.conf has none"
        if line and line.token:
            words = "the join line's is not of the form abcdef.0123456789abcdef"
        yield found("token.none", "join token", words)
        return
    subject = f"token {line.token_id}"
    if info is not None:
        if line.token_id not in info.signatures:
            yield found("token.refused", subject, "cluster-info is not signed with it")
            return
        if not info.is_signed_by(line.token):
            yield found("token.secret", subject, "the signature is another's")
            return
    if target.kubeconfig:
        yield _judge_age(target, subject, line.token_id)
    elif info is not None:
        words = "the cluster signs with it, so it is valid now; --kubeconfig tells until when"
        yield good("token", subject, words)


def _judge_age(target: Target, subject: str, token_id: str) -> Verdict:
    argv = ["kubectl", f"--kubeconfig={target.kubeconfig}", "--request-timeout=10s"]
    argv += ["--namespace=kube-system", "get", "secret", f"bootstrap-token-{token_id}"]
    try:
        done = subprocess.run([*argv, "--output=json"], capture_output=True, timeout=30)
        if done.returncode:
            words = done.stderr.decode("utf-8", "replace").strip()[-200:]
            if "NotFound" in words:
                return found("token.refused", subject, words)
            return found("token.no-kubectl", subject, words)
        ends = read_expiration(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return found("token.no-kubectl", subject, str(error))
    if ends is None:
        return good("token", subject, "it never expires")
    left = ends - target.clock()
    if left <= 0:
        return found("token.expired", subject, f"{name_span(-left)} ago")
    words = f"it expires in {name_span(left)}"
    return found("token.soon", subject, words) if left < SOON else good("token", subject, words)
