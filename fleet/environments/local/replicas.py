"""``Kubelet``: makes true what the scheduler decided: starts and ends model servers through the node-inits.

Used by the control plane, in its event loop. It waits for agents, restarts what crashed at most ``MAX_STARTS`` times,
and then says Failed with the last lines of the log. It never chooses a node.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Final

import aiohttp

from fleet.environments.local.addresses import Ports
from fleet.environments.local.node import Ended, Message, Started, StartProcess, StopProcess, frame, read_message
from fleet.environments.local.processes import tail
from fleet.environments.local.scheduler import ReplicaState, Scheduler
from fleet.serving.config import ServerConfig
from fleet.serving.events import EventLog
from fleet.serving.serve import Tasks
from history.op import REPLICA_FAILED, REPLICA_GONE, REPLICA_PENDING, REPLICA_SCHEDULED, REPLICA_STARTED

if TYPE_CHECKING:
    from fleet.environments.local.control import ControlConfig, NodeConfig

MAX_STARTS: Final = 3
BACKOFF_S: Final = 0.1
"""Before the second start; doubled before each further one."""

_AGENT: Final = "agent"
_AGENT_POLL_S: Final = 0.02


class Kubelet:
    """See the module docstring. ``streams``: a connected socket to each node-init, by node name."""

    def __init__(
        self,
        config: ControlConfig,
        scheduler: Scheduler,
        events: EventLog,
        streams: dict[str, socket.socket],
        log: logging.Logger,
    ) -> None:
        self._config = config
        self._nodes = {node.name: node for node in config.nodes}
        self._models = {model.name: model for model in config.models}
        self._scheduler = scheduler
        self._events = events
        self._sockets = streams
        self._log = log
        self._writers: dict[str, asyncio.StreamWriter] = {}
        self._tasks = Tasks(log)
        self._ports = Ports()
        self._agent_crashes: dict[str, int] = {}

    async def open(self) -> None:
        """Connects to the node-inits, starts every agent, and watches."""
        for number, (name, stream) in enumerate(self._sockets.items(), 1):
            reader, self._writers[name] = await asyncio.open_connection(sock=stream)
            self._tasks.spawn(self._follow(name, reader))
            self._tasks.spawn(self._provision(self._nodes[name], number * self._config.provision_node_s))

    async def close(self) -> None:
        """Stops watching; the node-inits see their sockets close and kill what they forked."""
        await self._tasks.close()
        for writer in self._writers.values():
            writer.close()

    def schedule(self) -> None:
        """Binds what fits and starts it; says why the rest does not."""
        bound, waiting = self._scheduler.bind_pending()
        for replica in bound:
            self._event(REPLICA_SCHEDULED, replica, gpus=replica.gpus)
            self._start(replica)
        for replica in waiting:
            self._event(REPLICA_PENDING, replica, reason=replica.reason)

    def remove(self, replica: ReplicaState) -> None:
        """Gone for everybody at once; its process drains, and then its GPUs are free."""
        replica.leaving = True
        self._event(REPLICA_GONE, replica)
        if replica.holds and replica.phase in ("Started", "Loading", "Ready", "Scheduled"):
            self._send(replica.node, StopProcess(replica.name))
        else:
            self._forget(replica)

    def end_failed(self, replica: ReplicaState) -> None:
        """Ends a model server that said itself that it failed; its end counts as a crash."""
        self._send(replica.node, StopProcess(replica.name))

    # -- model servers --------------------------------------------------------------------------------------------

    def _start(self, replica: ReplicaState) -> None:
        node, model = self._nodes[replica.node], self._models[replica.model]
        port = self._ports.take(node.host)
        replica.url = f"http://{node.host}:{port if self._config.ingress else self._ports.take(node.host)}"
        config = ServerConfig(
            cluster=self._config.cluster,
            node=node.name,
            replica=replica.name,
            model=model,
            host=node.host,
            port=port,
            agent_url=f"http://{node.agent.host}:{node.agent.port}",
            control_url=self._config.url,
            access_log=self._config.logs / f"access-{replica.name}.jsonl",
            log_dir=self._config.logs,
            token=self._config.token,
        )
        self._send(node.name, StartProcess(replica.name, config, self._server_log(replica)))

    def _started(self, message: Started) -> None:
        replica = self._scheduler.replicas.get(message.name)
        if replica is not None and replica.phase == "Scheduled":
            replica.phase = "Started"
            detail = {"pid": message.pid, "start": replica.crashes + 1}
            self._event(REPLICA_STARTED, replica, t_emitted=message.t_emitted, **detail)

    def _ended(self, node: str, message: Ended) -> None:
        if message.name == _AGENT:
            self._agent_ended(self._nodes[node], message.code)
            return
        replica = self._scheduler.replicas.get(message.name)
        if replica is None:
            return
        if replica.leaving:
            self._forget(replica)
            return
        replica.crashes += 1
        how = f"exit code {message.code}" if message.code >= 0 else f"signal {-message.code}"
        said = replica.reason or tail(self._server_log(replica))
        replica.url = ""
        final = replica.crashes >= MAX_STARTS
        reason = f"{replica.name} on {node} ended with {how}, start {replica.crashes} of {MAX_STARTS}; it said: {said}"
        self._log.error("%s", reason)
        self._event(REPLICA_FAILED, replica, reason=reason, final=final)
        if final:
            replica.phase, replica.reason = "Failed", reason
            self._scheduler.release(replica)
            self.schedule()
        else:
            replica.phase, replica.reason = "Scheduled", ""
            self._tasks.spawn(self._start_later(replica, BACKOFF_S * 2 ** (replica.crashes - 1)))

    async def _start_later(self, replica: ReplicaState, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._scheduler.replicas.get(replica.name) is not replica:
            return
        if replica.leaving:
            self._forget(replica)
        else:
            self._start(replica)

    def _forget(self, replica: ReplicaState) -> None:
        self._scheduler.release(replica)
        if self._scheduler.replicas.get(replica.name) is replica:
            del self._scheduler.replicas[replica.name]
        self.schedule()

    # -- nodes ----------------------------------------------------------------------------------------------------

    async def _provision(self, node: NodeConfig, wait_s: float) -> None:
        """A node exists from the moment the provider hands it out."""
        await asyncio.sleep(wait_s)
        self._start_agent(node)
        await self._register(node)

    def _start_agent(self, node: NodeConfig) -> None:
        self._send(node.name, StartProcess(_AGENT, node.agent, self._config.logs / f"agent-{node.name}.out"))

    async def _register(self, node: NodeConfig) -> None:
        """The node counts from the moment its agent answers."""
        url = f"http://{node.agent.host}:{node.agent.port}/healthz"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.0)) as session:
            while True:
                with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            break
                await asyncio.sleep(_AGENT_POLL_S)
        self._scheduler.nodes[node.name].ready = True
        self.schedule()

    def _agent_ended(self, node: NodeConfig, code: int) -> None:
        self._scheduler.nodes[node.name].ready = False
        crashes = self._agent_crashes[node.name] = self._agent_crashes.get(node.name, 0) + 1
        said = tail(self._config.logs / f"agent-{node.name}.out")
        self._log.error("agent of %s ended with %d, start %d of %d: %s", node.name, code, crashes, MAX_STARTS, said)
        if crashes < MAX_STARTS:
            self._start_agent(node)
            self._tasks.spawn(self._register(node))

    async def _follow(self, node: str, reader: asyncio.StreamReader) -> None:
        """Hears a node-init; when it is gone, so is its node (its children die with it)."""
        try:
            while True:
                message = await read_message(reader)
                if isinstance(message, Started):
                    self._started(message)
                elif isinstance(message, Ended):
                    self._ended(node, message)
        except (asyncio.IncompleteReadError, ConnectionError):
            self._log.error("node-init of %s is gone", node)
            self._scheduler.nodes[node].ready = False
            for replica in [r for r in self._scheduler.replicas.values() if r.holds and r.node == node]:
                self._scheduler.release(replica)
                replica.phase, replica.reason, replica.url = "Failed", f"node {node} is gone", ""
                self._event(REPLICA_FAILED, replica, reason=replica.reason, final=True)

    def _send(self, node: str, message: Message) -> None:
        self._writers[node].write(frame(message))

    def _server_log(self, replica: ReplicaState) -> Path:
        return self._config.logs / f"server-{replica.name}.out"

    def _event(self, kind: str, replica: ReplicaState, *, t_emitted: int | None = None, **detail: object) -> None:
        self._events.append(
            kind,
            t_emitted=t_emitted,
            model=replica.model,
            cluster=self._config.cluster,
            node=replica.node,
            replica=replica.name,
            detail=detail,
        )
