import asyncio
from collections.abc import Mapping

from server.services.nbd import NbdService
from server.services.running import Running, find_owner


class Port:
    """A service as far as its port."""

    def __init__(self, port: int) -> None:
        self.port = port

    def bind(self) -> None: ...
    def start(self) -> None: ...
    async def stop(self) -> None: ...


class Nbd(NbdService):
    """One with a client."""

    def __init__(self) -> None: ...

    @property
    def port(self) -> int:
        return 10809

    def connections(self) -> Mapping[str, list[str]]:
        return {"a" * 64: ["10.9.0.11"]}


def test_what_was_added_is_seen_by_whoever_has_it() -> None:
    running = Running()
    assert running.attached() == {}
    assert running.ports() == {}
    running.add("tftp", Port(69))
    running.add("nbd", Nbd())
    assert list(running.services) == ["tftp", "nbd"]
    assert running.ports() == {"tftp": (69,), "nbd": (10809,)}
    assert running.attached() == {"a" * 64: ["10.9.0.11"]}


def test_a_fault_of_a_task_is_its_services() -> None:
    class Service:
        owner = "dns"

        async def answer(self) -> None:
            await asyncio.sleep(0)
            raise ValueError("odd")

    async def run() -> BaseException | None:
        task = asyncio.create_task(Service().answer())
        await asyncio.wait([task])
        return task.exception()

    error = asyncio.run(run())
    assert error is not None
    assert find_owner(error) == "dns"
