"""Whether machines can join without a token: the server's account is asked what it may do.

Nothing is signed, and nothing changed.
"""

from collections.abc import Iterator, Mapping

from server.doctor.findings import found
from server.doctor.target import Survey, Target
from server.doctor.verdict import Verdict, good
from server.errors import ServerError
from server.join.account import open_account
from server.join.cluster import Cluster, NotIssuedError
from server.join.rights import DANGEROUS, NEEDED, list_allowed
from server.kubernetes.api import Api, ApiError
from server.ltsconf.joinline import has_bare_join


def check_join(target: Target, survey: Survey) -> Iterator[Verdict]:
    """The account, its rights, and the address that machines are told."""
    join = target.join
    if join is None:
        return
    if not join.certificates:
        if _has_bare_line(survey.values):
            yield found("join.off", "join", "lts.conf has a `kubeadm join` line without a token")
        return
    try:
        api = open_account(join)
    except ServerError as error:
        yield found("join.account", "join", error.message)
        return
    where = f"https://{api.address}"
    target.progress(f"asking {where} what the server's account may do")
    try:
        yield from _judge_rights(api, where)
    except ApiError as error:
        yield found("join.down", where, error.message)
        return
    address = f"https://{join.api}" if join.api is not None else ""
    try:
        address = address or Cluster(api).find_address()
    except NotIssuedError as error:
        yield found("join.address", where, error.refusal.words)
        return
    survey.api = address


def _has_bare_line(values: Mapping[str, str]) -> bool:
    return any(has_bare_join(value) for value in values.values())


def _judge_rights(api: Api, where: str) -> Iterator[Verdict]:
    allowed = list_allowed(api, NEEDED)
    if missing := [str(right) for right in NEEDED if right not in allowed]:
        yield found("join.rights", where, f"it may not {', '.join(missing)}")
    else:
        yield good("join", where, "the server's account may have kubelets' certificates signed")
    if beyond := [str(right) for right in list_allowed(api, DANGEROUS)]:
        yield found("join.too-much", where, f"it may {', '.join(beyond)}")
