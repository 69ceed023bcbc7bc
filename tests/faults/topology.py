"""Redis with more than one server: a real Sentinel set and a real Cluster."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from redis.exceptions import AuthenticationError, RedisError

from service.store.connect import open_client
from service.store.embedded import _launcher_command, find_server

SENTINEL_SERVICE = "test-service"
_SLOTS = 16384
_TIMEOUT_S = 30.0
_NODE_TIMEOUT_MS = 1000
# Sentinel reconnects once a second. A shorter time would declare the new master dead at once.
_DOWN_AFTER_MS = 1500


class RedisNode:
    """One Redis server on a TCP port, with its data on disk; a test may kill and restart it."""

    def __init__(self, folder: Path, *options: str, sentinel: str = "") -> None:
        self.port = 0
        self._folder = folder
        self._options = options
        self._start_options: tuple[str, ...] = ()
        self._sentinel = sentinel
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of this node alone."""
        return f"redis://127.0.0.1:{self.port}"

    async def start(self, *options: str) -> None:
        """Start the server on its previous port or on a free one, and wait until it answers.

        Without ``options`` it starts with those of its last start, such as its cluster port.
        """
        self._start_options = options = options or self._start_options
        self._folder.mkdir(exist_ok=True)
        while True:
            port = self.port or find_free_port()
            self._launch(port, *options)
            if await self._wait_until_answering(port):
                self.port = port
                return
            assert not self.port, (self._folder / "log").read_text()  # else the port was taken

    def _launch(self, port: int, *options: str) -> None:
        server = find_server()
        assert server is not None
        arguments: list[str] = ["--port", str(port), "--dir", str(self._folder), *self._options]
        if self._sentinel:
            config = self._folder / "sentinel.conf"
            config.write_text(f"port {port}\ndir {self._folder}\n{self._sentinel}")
            arguments = [str(config), "--sentinel"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*_launcher_command(), str(server.program), *arguments, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def _wait_until_answering(self, port: int) -> bool:
        """Wait until this process answers on the port; return False when it has ended."""
        assert self._process is not None
        url = f"redis://127.0.0.1:{port}"
        while self._process.poll() is None:
            try:
                await execute(url, "PING")  # raises while the server loads its data
                if (await execute(url, "INFO", "server"))["process_id"] == self._process.pid:
                    return True
            except AuthenticationError:
                return True
            except (RedisError, OSError):
                pass
            await asyncio.sleep(0.01)
        return False

    async def execute(self, *arguments: str | int) -> Any:
        """Send one command to this node."""
        return await execute(self.url, *arguments)

    def signal(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self._process is not None
        os.kill(self._process.pid, signal_number)

    def kill(self) -> None:
        """Kill the process and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()


class SentinelSet:
    """A master, a replica and the sentinels that watch them."""

    def __init__(self, folder: Path, *, sentinels: int = 1) -> None:
        self._folder = folder
        self._count = sentinels
        durable = ("--appendonly", "yes", "--appendfsync", "always", "--save", "")
        quick = ("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1")
        self.servers = [RedisNode(folder / name, *durable, *quick) for name in ("first", "second")]
        self.sentinels: list[RedisNode] = []

    @property
    def url(self) -> str:
        """The URL of the service behind the sentinels."""
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{hosts}/{SENTINEL_SERVICE}"

    async def start(self) -> None:
        """Start all servers and wait until they know each other."""
        first, second = self.servers
        await first.start()
        await second.start("--replicaof", "127.0.0.1", str(first.port))
        await wait_until_replicated(first)
        sentinel_config = (
            f"sentinel monitor {SENTINEL_SERVICE} 127.0.0.1 {first.port} {self._count // 2 + 1}\n"
        )
        sentinel_config += f"sentinel down-after-milliseconds {SENTINEL_SERVICE} {_DOWN_AFTER_MS}\n"
        sentinel_config += f"sentinel failover-timeout {SENTINEL_SERVICE} 3000\n"
        for number in range(self._count):
            self.sentinels.append(
                RedisNode(self._folder / f"sentinel{number}", sentinel=sentinel_config)
            )
            await self.sentinels[-1].start()
        async with asyncio.timeout(_TIMEOUT_S):
            while not all([await self._knows_all_nodes(sentinel) for sentinel in self.sentinels]):
                await asyncio.sleep(0.05)

    async def _knows_all_nodes(self, sentinel: RedisNode) -> bool:
        fields = parse_pairs(await sentinel.execute("SENTINEL", "MASTER", SENTINEL_SERVICE))
        known = (int(fields["num-slaves"]), int(fields["num-other-sentinels"]))
        return known == (1, self._count - 1)

    async def wait_until_master(self, node: RedisNode) -> None:
        """Wait until every sentinel and the node itself say that it is the master."""
        command = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SENTINEL_SERVICE)
        async with asyncio.timeout(_TIMEOUT_S):
            while True:
                replies = [await sentinel.execute(*command) for sentinel in self.sentinels]
                ports = {int(reply[1]) for reply in replies}
                if ports == {node.port} and (await node.execute("ROLE"))[0] == b"master":
                    return
                await asyncio.sleep(0.02)

    def kill(self) -> None:
        """Kill all servers."""
        for node in (*self.sentinels, *self.servers):
            node.kill()


class ClusterSet:
    """Three masters with a third of the slots each, and a replica.

    The replica belongs to the master with the slot of the namespace.
    """

    def __init__(self, folder: Path, *, namespace: str) -> None:
        options = (
            *("--cluster-enabled", "yes", "--cluster-node-timeout", str(_NODE_TIMEOUT_MS)),
            *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
            *("--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"),
        )
        self.slot = key_slot(f"{{{namespace}}}".encode())
        self.nodes = [RedisNode(folder / str(number), *options) for number in range(4)]
        self.replica = self.nodes[3]

    @property
    def url(self) -> str:
        """The URL of the cluster. It names the two masters without the slot of the namespace."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.others)
        return f"redis+cluster://{hosts}"

    @property
    def owner(self) -> RedisNode:
        """The master that has the slot of the namespace at first."""
        return self.nodes[self.slot * 3 // _SLOTS]

    @property
    def others(self) -> list[RedisNode]:
        """The other masters."""
        return [node for node in self.nodes[:3] if node is not self.owner]

    async def start(self) -> None:
        """Start all nodes, assign the slots and wait until the cluster is ready."""
        for node in self.nodes:
            await node.start("--cluster-port", str(find_free_port()))
        first, *rest = self.nodes
        for number, node in enumerate(self.nodes[:3]):
            slot_range = (
                number * _SLOTS // 3 + (number > 0),
                (number + 1) * _SLOTS // 3 - (number == 2),
            )
            await node.execute("CLUSTER", "ADDSLOTSRANGE", *slot_range)
        for number, node in enumerate(self.nodes):
            await node.execute("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node in rest:
            _, bus = await node.execute("CONFIG", "GET", "cluster-port")
            await first.execute("CLUSTER", "MEET", "127.0.0.1", node.port, int(bus))
        await self.wait_for_cluster_info(b"cluster_known_nodes:4", b"cluster_state:ok")
        await self.replica.execute("CLUSTER", "REPLICATE", await self.node_id(self.owner))
        await wait_until_replicated(self.owner)

    async def node_id(self, node: RedisNode) -> str:
        """Return the cluster id of a node."""
        return _text(await node.execute("CLUSTER", "MYID"))

    async def wait_for_cluster_info(self, *lines: bytes) -> None:
        """Wait until CLUSTER INFO of every node has these lines."""
        async with asyncio.timeout(_TIMEOUT_S):
            for node in self.nodes:
                while not set(lines) <= set((await node.execute("CLUSTER", "INFO")).split()):
                    await asyncio.sleep(0.02)

    async def wait_until_master(self, node: RedisNode) -> None:
        """Wait until the node says that it is a master."""
        async with asyncio.timeout(_TIMEOUT_S):
            while (await node.execute("ROLE"))[0] != b"master":
                await asyncio.sleep(0.02)

    async def move_slot(
        self, source: RedisNode, target: RedisNode, *, pause_s: float = 0.0
    ) -> None:
        """Move the slot of the namespace key by key, as redis-cli does, with a pause per step."""
        source_id, target_id = await self.node_id(source), await self.node_id(target)
        await target.execute("CLUSTER", "SETSLOT", self.slot, "IMPORTING", source_id)
        await source.execute("CLUSTER", "SETSLOT", self.slot, "MIGRATING", target_id)
        while keys := await source.execute("CLUSTER", "GETKEYSINSLOT", self.slot, 5):
            await source.execute("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
            await asyncio.sleep(pause_s)
        for node in (target, source, *self.others):
            await node.execute("CLUSTER", "SETSLOT", self.slot, "NODE", target_id)

    def kill(self) -> None:
        """Kill all nodes."""
        for node in self.nodes:
            node.kill()


def find_free_port() -> int:
    """Return a free port below the range that the kernel gives to outgoing connections."""
    while True:
        port = random.randrange(12_000, 30_000)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


async def execute(url: str, *arguments: str | int) -> Any:
    """Send one command to one server."""
    async with open_client(url) as client:
        return await client.execute_command(*arguments)  # type: ignore[no-untyped-call] # redis-py


async def wait_until_replicated(node: RedisNode) -> None:
    """Wait until a replica of the node is in sync."""
    async with asyncio.timeout(_TIMEOUT_S):
        while (await node.execute("INFO", "replication")).get("slave0", {}).get(
            "state"
        ) != "online":
            await asyncio.sleep(0.02)


def parse_pairs(reply: Any) -> dict[str, str]:
    """Return the names and values of a reply, whether it is a mapping or a flat list."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {_text(name): _text(value) for name, value in pairs}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
