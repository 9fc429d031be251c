"""Manifests against a cluster: which of them ask for something that it does not serve. Pure; called by a restore.

A manifest is Kubernetes YAML; only ``apiVersion`` and ``kind`` of each document are read, at the left margin, where
every valid one has them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

_KEY = re.compile(r"^(apiVersion|kind):\s*['\"]?([^\s'\"#]+)", re.MULTILINE)
_BREAK = re.compile(r"^---.*$", re.MULTILINE)


def kinds_of(text: str) -> tuple[str, ...]:
    """``apiVersion/kind`` of each document, for example ``networking.k8s.io/v1/Ingress``; "?" for what is missing."""
    found = []
    for document in _BREAK.split(text):
        keys = dict(_KEY.findall(document))
        if keys:
            found.append(f"{keys.get('apiVersion', '?')}/{keys.get('kind', '?')}")
    return tuple(found)


def not_served(text: str, served: Collection[str]) -> tuple[str, ...]:
    """Those of ``text`` that a cluster which serves ``served`` would refuse."""
    return tuple(kind for kind in dict.fromkeys(kinds_of(text)) if kind not in served)
