"""The client that runs a notebook's cells in a kernel: nbclient's, without its waits for ever.

An Output widget of nbclient answers the kernel with a send on the shell channel while the client waits on that channel
for the cell's reply. jupyter_client sends past the asynchronous socket, through a plain one on the same handle. ZeroMQ
signals an arrival once, and any send takes the signals that are there: a reply that comes at that moment lies unread in
the socket, and nobody is woken. So our channel looks for arrivals after each send.
"""

from __future__ import annotations

import asyncio

import zmq
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionComplete, CellTimeoutError
from traitlets import Type

REPLY = 60  # seconds that a kernel which is done with a cell has for the reply, and one that replied for its outputs


class Channel(AsyncZMQSocketChannel):
    """A channel on which nothing that arrived stays unseen because something was sent."""

    def send(self, msg: dict) -> None:
        super().send(msg)
        self.socket.get(zmq.EVENTS)  # wakes who waits for what is there already


class Client(AsyncKernelClient):
    shell_channel_class = Type(Channel)
    control_channel_class = Type(Channel)


class Manager(AsyncKernelManager):
    client_factory = Type(klass=AsyncKernelClient, default_value=Client)


class Runner(NotebookClient):
    """Runs the cells of a notebook; one that is done and has no reply is an error after REPLY seconds, not a wait."""

    def __init__(self, notebook, **options):
        super().__init__(notebook, kernel_manager_class=Manager, iopub_timeout=REPLY, **options)

    async def async_execute_cell(self, cell, cell_index, *args, **options):
        self.idle = asyncio.Event()
        running = asyncio.ensure_future(super().async_execute_cell(cell, cell_index, *args, **options))
        overdue = asyncio.ensure_future(self._overdue())
        try:
            await asyncio.wait((running, overdue), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                raise CellTimeoutError(f"the kernel is done with cell {cell_index}, but no reply came in {REPLY} s")
            return running.result()
        finally:
            running.cancel()
            overdue.cancel()
            await asyncio.gather(running, overdue, return_exceptions=True)

    async def _overdue(self) -> None:
        """Returns when the kernel has been done with the cell for REPLY seconds."""
        await self.idle.wait()
        await asyncio.sleep(REPLY)

    def process_message(self, msg, cell, cell_index):
        try:
            return super().process_message(msg, cell, cell_index)
        except CellExecutionComplete:
            self.idle.set()
            raise
