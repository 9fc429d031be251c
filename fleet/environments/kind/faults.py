"""What is run inside node containers to hurt and to heal a cluster: shell scripts as values.

Pure; ``KindCluster`` runs them with ``docker exec``. Each may be run twice. The packet filter's ``raw`` table comes
before everything else in the node, so that no connection that stands already is spared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

HOLE: Final = "BLACKSTART"
MANIFEST: Final = "/etc/kubernetes/manifests/kube-apiserver.yaml"
AWAY: Final = "/etc/kubernetes/kube-apiserver.yaml.away"

RECONNECT: Final = f"""
for way in "PREROUTING {HOLE}-IN" "OUTPUT {HOLE}-OUT"; do
  set -- $way
  while iptables -w -t raw -D $1 -j $2 2>/dev/null; do :; done
  iptables -w -t raw -F $2 2>/dev/null || true
  iptables -w -t raw -X $2 2>/dev/null || true
done
"""
SHOW: Final = "iptables -w -t raw -S"
END_API: Final = "pkill -9 -x kube-apiserver || true"
CUT_API: Final = f"if [ -e {MANIFEST} ]; then mv {MANIFEST} {AWAY}; fi; {END_API}"
MEND_API: Final = f"if [ -e {AWAY} ]; then mv {AWAY} {MANIFEST}; echo mended; fi"


def cut_off(friends: Iterable[str]) -> str:
    """A black hole both ways for all but ``friends`` (addresses or networks) and the node itself."""
    lines = [RECONNECT, f"iptables -w -t raw -N {HOLE}-IN", f"iptables -w -t raw -N {HOLE}-OUT"]
    for friend in friends:
        lines.append(f"iptables -w -t raw -A {HOLE}-IN -s {friend} -j RETURN")
        lines.append(f"iptables -w -t raw -A {HOLE}-OUT -d {friend} -j RETURN")
    lines.append(f"iptables -w -t raw -A {HOLE}-IN -m addrtype ! --src-type LOCAL -j DROP")
    lines.append(f"iptables -w -t raw -A {HOLE}-OUT -m addrtype ! --dst-type LOCAL -j DROP")
    lines.append(f"iptables -w -t raw -I PREROUTING -j {HOLE}-IN")
    lines.append(f"iptables -w -t raw -I OUTPUT -j {HOLE}-OUT")
    return "\n".join(lines)
