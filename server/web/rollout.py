"""What the API and the page say of a rollout, and the orders that people give."""

from collections.abc import Mapping
from typing import Any

from server.conduct.conductor import Conductor
from server.errors import ServerError
from server.protocols.http import Request, Response
from server.rollout.spec import SpecError
from server.rollout.words import describe_machine
from server.web.replies import pack, refuse

ORDERS = ("pause", "resume", "undo")
OFF: Mapping[str, Any] = {
    "enabled": False,
    "leads": False,
    "leader": "",
    "problem": "",
    "rollout": None,
}
_HINT = "`rollout: {enabled: true}` in farm.yaml, and a state directory (docs/rollouts.md)"


def answer_rollout(conductor: Conductor | None) -> Response:
    """`GET /api/rollout`."""
    return pack(200, conductor.describe() if conductor is not None else OFF)


def answer_start(conductor: Conductor | None, request: Request) -> Response:
    """`PUT /api/rollout`."""
    if conductor is None:
        return refuse("rollout_refused", "this server rolls out nothing", _HINT)
    if request.doubled:
        words = f"{sorted(request.doubled)[0]} stands twice in the query"
        return refuse("bad_query", words)
    try:
        conductor.start(request.query)
    except SpecError as error:
        return refuse("bad_query", error.message, error.hint)
    except ServerError as error:
        return refuse("rollout_refused", error.message, error.hint)
    return answer_rollout(conductor)


def answer_order(conductor: Conductor | None, request: Request) -> Response:
    """`PUT /api/rollout/order`."""
    do = request.query.get("do", "")
    if do not in ORDERS:
        return refuse("bad_query", f"say do={' or '.join(ORDERS)}")
    if conductor is None:
        return refuse("rollout_refused", "this server rolls out nothing", _HINT)
    try:
        conductor.order(do)
    except ServerError as error:
        return refuse("rollout_refused", error.message, error.hint)
    return answer_rollout(conductor)


def view_rollout(conductor: Conductor | None) -> Mapping[str, Any] | None:
    """What the page shows; None where there is nothing."""
    if conductor is None:
        return None
    found = conductor.describe()
    return found if found["rollout"] is not None or found["problem"] else None


def describe_place(conductor: Conductor | None, key: str) -> str:
    """A machine's place in the rollout that is under way, in a sentence, or ""."""
    if conductor is None or conductor.rollout is None:
        return ""
    return describe_machine(conductor.rollout, key)
