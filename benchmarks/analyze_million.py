"""Reads and judges a run of 1,000,000 ops: seconds and peak memory, against the bar of 5 s and 1 GiB.

    python benchmarks/analyze_million.py [OPS]

Makes a synthetic run directory in a temporary place once (its time is not measured), then runs the analysis in a
process of its own. Exit 1 when the bar is missed.
"""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from history import op as kinds
from history.op import Op, encode
from history.records import FaultMark, ObjectiveSpec, RunHeader
from history.rundir import RunDirectory, Schedule

sys.path.append(str(Path(__file__).parents[1]))
from tests import headers

S, MS = 1_000_000_000, 1_000_000
RATE_RPS, BASELINE_S, FAULT_S = 1_000, 20, 120
BAR_S, BAR_MIB = 5.0, 1_024.0
MODELS = tuple(f"model-{i:02d}" for i in range(10))

ANALYSIS = """
import json, resource, sys, time
start = time.perf_counter()
from pathlib import Path
from assertions import analyze, encode_result
from history.reader import read_run
imported = time.perf_counter()
run = read_run(Path(sys.argv[1]))
read = time.perf_counter()
result = analyze(run)
data = encode_result(result)
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import_s": imported - start, "read_s": read - imported, "judge_s": done - read,
    "peak_mib": peak, "ops": len(run.load), "verdict": result.verdict,
    "headline": result.headline, "bytes": len(data)}))
"""


def main() -> int:
    """Generates, measures, prints, compares with the bar."""
    ops = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="blackstart-bench-") as temporary:
        started = time.perf_counter()
        generate(Path(temporary), ops)
        print(f"generated {ops:,} ops in {time.perf_counter() - started:.1f} s (not measured)")
        done = subprocess.run(
            [sys.executable, "-c", ANALYSIS, temporary], capture_output=True, text=True, timeout=300, check=False
        )
    if done.returncode != 0:
        print(done.stderr)
        return 1
    found = json.loads(done.stdout)
    total_s = found["read_s"] + found["judge_s"]
    print(f"verdict {found['verdict']}: {found['headline']}")
    print(f"import {found['import_s']:.2f} s, read {found['read_s']:.2f} s, judge {found['judge_s']:.2f} s")
    print(f"{found['ops']:,} ops read and judged in {total_s:.2f} s (bar {BAR_S:.0f} s)")
    print(f"peak memory {found['peak_mib']:.0f} MiB (bar {BAR_MIB:.0f} MiB)")
    return 0 if total_s <= BAR_S and found["peak_mib"] <= BAR_MIB else 1


def generate(path: Path, ops: int) -> None:
    """A run of ``ops`` sends at 1,000 rps; ``cobalt`` is lost at 20 s, its models serve again 4 to 9 s later."""
    directory, chance = RunDirectory(path), random.Random(7)
    directory.write_header(_header(ops))
    offsets = np.arange(ops, dtype=np.int64) * (S // RATE_RPS)
    directory.write_schedule(Schedule(offsets, (np.arange(ops) % len(MODELS)).astype(np.int16)))
    zero = 1_000 * S
    with gzip.open(directory.history, "wb", compresslevel=1) as file:
        for op in _events(zero, ops):
            file.write(encode(op) + b"\n")
        lines = []
        for seq in range(ops):
            lines.append(encode(_load_op(zero + seq * (S // RATE_RPS), seq, zero, chance)))
            if len(lines) == 10_000:
                file.write(b"\n".join(lines) + b"\n")
                lines = []
        file.write(b"".join(line + b"\n" for line in lines))


def _load_op(t: int, seq: int, zero: int, chance: random.Random) -> Op:
    number = seq % len(MODELS)
    since_s = (t - zero) / S - BASELINE_S
    took = int((10 + chance.expovariate(0.1)) * MS)
    down = number < 4 and 0 <= since_s < 4 + number * 1.7
    if down or chance.random() < 0.0005:
        outcome: dict[str, object] = {"outcome": "fail", "error": "http-503", "status": 503, "t_done": t + 2 * MS}
    else:
        cluster = headers.CLUSTERS[(number + seq // len(MODELS)) % 2 * 2]
        if since_s < 0 and number < 4:
            cluster = "cobalt"
        outcome = {"outcome": "ok", "status": 200, "cluster": cluster, "node": f"{cluster}-n1", "tokens": 8}
        outcome |= {"replica": f"{MODELS[number]}-{cluster}", "weights": "resident", "tokens_expected": 8}
        outcome |= {"t_first_byte": t + took // 2, "t_done": t + took}
    fields = {"source": kinds.LOAD, "process": "load-0", "kind": "chat", "model": MODELS[number], "seq": seq}
    return Op(**fields, t_intended=t, t_sent=t + 50_000 + seq % 1_000, **outcome)  # type: ignore[arg-type]


def _events(zero: int, ops: int) -> list[Op]:
    def event(kind: str, at_s: float, **fields: object) -> Op:
        t = zero + round(at_s * S)
        made = {"source": kinds.RUNNER, "process": "runner", "t_intended": t, "t_sent": t, "t_done": t, "outcome": "ok"}
        return Op(**{**made, "kind": kind, **fields})  # type: ignore[arg-type]

    heal, stop = BASELINE_S + FAULT_S, ops / RATE_RPS
    probes = [
        event(
            kinds.PROBE_DATA,
            i,
            source=kinds.CLUSTER_PROBER,
            cluster="cobalt",
            outcome="ok" if i < BASELINE_S else "fail",
        )
        for i in range(round(heal))
    ]
    probes += [
        event(kinds.PROBE_ENTRY, i / 20, source=kinds.CANARY, model=MODELS[i % 10], outcome="fail" if down else "ok")
        for i in range(round(stop * 20))
        for down in (i % 10 < 4 and 0 <= i / 20 - BASELINE_S < 4 + i % 10 * 1.7,)
    ]
    probes += [
        event(kind, at_s, source=kinds.OBSERVER, model=name, cluster=cluster, replica=replica)
        for i, name in enumerate(MODELS[:4])
        for kind, at_s, cluster, replica in (
            (kinds.REPLICA_READY, BASELINE_S + 4 + i, "jade", f"{name}-new"),
            (kinds.REPLICA_READY, heal + 4 + i, "cobalt", f"{name}-{i}"),
            (kinds.REPLICA_GONE, heal + 5 + i, "jade", f"{name}-new"),
        )
    ]
    return [
        event(kinds.LOAD_START, 0),
        event(kinds.FAULT_INJECT, BASELINE_S, cluster="cobalt"),
        event(kinds.FAULT_VERIFIED, BASELINE_S + 0.3, cluster="cobalt"),
        event(kinds.FAULT_HEAL, heal, cluster="cobalt"),
        event(kinds.FAULT_HEALED, heal + 3, cluster="cobalt"),
        event(kinds.LOAD_STOP, stop),
        event(kinds.LOAD_DRAINED, stop + 1),
        *probes,
    ]


def _objective(indicator: str, scope: str, limit: float, unit: str, window: str, ratio: float) -> ObjectiveSpec:
    return ObjectiveSpec(indicator, indicator, scope, window, limit, unit, ratio)  # type: ignore[arg-type]


def _header(ops: int) -> RunHeader:
    homes = [(name, "cobalt" if i < 4 else "amber") for i, name in enumerate(MODELS)]
    return headers.header(
        fleet=headers.fleet(homes, dict.fromkeys(MODELS, "base")),
        mix=headers.mix(MODELS),
        load=headers.load(RATE_RPS, ops / RATE_RPS),
        faults=(FaultMark("power-loss", "cobalt", "refused", "cobalt loses power"),),
        objectives=(
            _objective("recovered", "fleet", 30, "s", "fault", 0.99),
            _objective("recovered", "each model", 30, "s", "fault", 0.90),
            _objective("warm", "affected", 30, "s", "fault", 0.90),
            _objective("lost", "fleet", 50_000, "requests", "fault", 0.99),
            _objective("latency", "bystanders", 250, "ms", "fault", 0.99),
            _objective("no_dip", "fleet", 0, "dips", "failback", 0.99),
            _objective("reallocated", "affected", 30, "s", "fault", 0.99),
            _objective("failed_back", "fleet", 30, "s", "failback", 0.99),
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
