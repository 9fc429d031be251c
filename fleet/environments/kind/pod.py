"""What runs in a pod: a node agent or a model server, told by its environment (``manifests``) and its node.

    python3 -m fleet.environments.kind.pod agent | server

It fills in what only the scheduler could know: the node and its address; and where on the node an agent's files are.
"""

from __future__ import annotations

import gc
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from fleet.environments.kind.manifests import CONFIG_VARIABLE, HOST_VARIABLE, NODE_VARIABLE, TOKEN_VARIABLE
from fleet.environments.kind.topology import AGENT_PORT
from fleet.serving.config import AgentConfig, ServerConfig

TIMER_SLACK_NS: Final = "50000"
"""What Linux gives a process unless told otherwise (prctl(2), PR_SET_TIMERSLACK)."""


def agent_config(env: Mapping[str, str]) -> AgentConfig:
    """The agent's configuration on the node where this pod is."""
    told = msgspec.json.decode(env[CONFIG_VARIABLE])[env[NODE_VARIABLE]]
    config = msgspec.convert(told, AgentConfig, dec_hook=_path)
    return replace(config, token=env.get(TOKEN_VARIABLE, ""), seen_at=f"/proc/{os.getpid()}/root")


def server_config(env: Mapping[str, str]) -> ServerConfig:
    """The model server's configuration on the node where this pod is."""
    told = msgspec.json.decode(env[CONFIG_VARIABLE])
    host = env[HOST_VARIABLE]
    return replace(
        msgspec.convert(told["config"], ServerConfig, dec_hook=_path),
        node=told["nodes"].get(env[NODE_VARIABLE], env[NODE_VARIABLE]),
        host=host,
        agent_url=f"http://{host}:{AGENT_PORT}",
        token=env.get(TOKEN_VARIABLE, ""),
    )


def _path(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


def main(role: str) -> None:
    """Serves until SIGTERM, its timers as punctual as on any host whatever the node's are. A server takes connections
    before it imports what it needs: the kubelet's first question waits for its answer, where a refusal would be asked
    again only a second later."""
    Path("/proc/self/timerslack_ns").write_text(TIMER_SLACK_NS)
    gc.disable()  # a tenth of the time that imports take; they leave nothing to collect
    if role == "agent":
        from fleet.serving import agent

        gc.enable()
        agent.run(agent_config(os.environ))
    else:
        config = server_config(os.environ)
        listening = socket.create_server((config.host, config.port), backlog=1024)
        from fleet.serving import server

        gc.enable()
        server.run(config, listening)


if __name__ == "__main__":
    main(sys.argv[1])
