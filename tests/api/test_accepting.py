"""Taking connections: whose turn it is, and what an error costs."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.api import accepting
from app.api.accepting import Acceptor, Occupancy

pytestmark = pytest.mark.anyio


@pytest.fixture
def occupancy(tmp_path: Path) -> Occupancy:
    """Of three processes."""
    Occupancy.create(tmp_path / "occupancy", 3)
    return Occupancy(tmp_path / "occupancy")


def test_process_with_the_fewest_connections_is_known_to_all(tmp_path: Path, occupancy: Occupancy) -> None:
    """What one writes the others read; one that leaves counts no longer."""
    occupancy.write(0, 7, now=100)
    occupancy.write(2, 5, now=100)
    other = Occupancy(tmp_path / "occupancy")
    assert other.fewest(100) == 5
    occupancy.leave(2)
    assert other.fewest(100) == 7


def test_process_that_says_nothing_is_passed_over(occupancy: Occupancy) -> None:
    """One that hangs takes no connection, however few it holds."""
    occupancy.write(0, 7, now=100)
    occupancy.write(1, 0, now=99)
    assert occupancy.fewest(100) == 7


class Troubled(socket.socket):
    """A listener whose next connection fails."""

    trouble = 0

    def accept(self) -> tuple[socket.socket, object]:
        if self.trouble:
            number, self.trouble = self.trouble, 0
            raise OSError(number, "trouble")
        return super().accept()


@pytest.fixture
def listener() -> Iterator[Troubled]:
    """It listens on a free port of this machine."""
    with Troubled() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        yield listener


@pytest.mark.parametrize(("trouble", "pauses"), [(errno.EMFILE, True), (errno.EPERM, False), (errno.ENETDOWN, False)])
async def test_error_of_one_connection_does_not_keep_others_waiting(
    listener: Troubled, monkeypatch: pytest.MonkeyPatch, trouble: int, pauses: bool
) -> None:
    """Only where no more can be opened is there a pause."""
    monkeypatch.setattr(accepting, "_TROUBLE_SECONDS", 3600)
    taken = asyncio.Event()

    class Taken(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            taken.set()
            transport.close()

    listener.trouble = trouble
    acceptor = Acceptor(listener, [], Taken)
    with socket.create_connection(listener.getsockname()):
        if pauses:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(taken.wait(), 0.2)
        else:
            await asyncio.wait_for(taken.wait(), 20)
        await acceptor.stop()
        await asyncio.wait_for(taken.wait(), 20)
