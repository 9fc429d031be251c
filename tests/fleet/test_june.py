"""The fleet of June 2022: GPUs that do not suffice, caches that do not hold, and what each remediation changes."""

from __future__ import annotations

from pathlib import Path

import pytest

import drills
from fleet.forecast import forecast, placements_planned
from fleet.june import (
    EGRESS_BYTES_S,
    FT_CURIE_BYTES,
    FT_DAVINCI_BYTES,
    JUNE_REMEDIES,
    JUNE_RPS,
    LINK_BYTES_S,
    june_2022,
)
from fleet.spec import MIB
from history.errors import UsageError
from history.records import Forecast

PARAMETERS = (Path(drills.__file__).parent / "june_2022" / "PARAMETERS.md").read_text(encoding="utf-8")


def without_cobalt(*remedies: str) -> Forecast:
    spec = june_2022(remedies)
    return forecast(spec, placements_planned(spec), "cobalt")


def test_without_remediations_each_base_model_and_curie_fit_and_davinci_does_not() -> None:
    found = without_cobalt()
    assert (found.gpus_needed, found.gpus_free) == (28, 17)
    rows = {row.model: row for row in found.models}
    for name in ("code-davinci-001", "code-cushman-001"):
        assert (rows[name].replicas_lost, rows[name].replicas_placeable) == (2, 1), "back, and short of capacity"
    assert all(rows[name].fits for name in ("curie", "babbage", "ada", "text-similarity-ada-001", "ft-curie"))
    assert (rows["ft-davinci"].replicas_lost, rows["ft-davinci"].replicas_placeable) == (3, 1)
    assert rows["ft-davinci"].nodes == ("jade-n3",)
    assert rows["ft-curie-jade"].replicas_lost == rows["ft-davinci-amber"].replicas_lost == 0, "some, not all"


def test_three_davinci_replicas_hold_the_pool_and_the_one_that_is_left_does_not() -> None:
    spec = june_2022()
    caches = {node.name: node.cache_bytes for cluster in spec.clusters for node in cluster.nodes}
    pool = spec.model("ft-davinci").total_bytes
    homes = [p.node for p in placements_planned(spec) if p.model == "ft-davinci"]
    assert sum(caches[node] for node in homes) > pool
    assert caches["jade-n3"] <= pool / 4
    curie = spec.model("ft-curie").total_bytes
    assert caches["jade-n4"] + caches["amber-n3"] > curie > caches["jade-n4"]


def test_bytes_of_both_pools_need_hours_through_one_account() -> None:
    spec = june_2022()
    seconds = (spec.model("ft-curie").total_bytes + spec.model("ft-davinci").total_bytes) / EGRESS_BYTES_S
    assert 3 * 12 < seconds < 5 * 12


@pytest.mark.parametrize("remedy", JUNE_REMEDIES)
def test_every_remediation_is_a_sound_fleet_of_its_own(remedy: str) -> None:
    spec = june_2022((remedy,))
    assert spec.problems() == ()
    assert (spec == june_2022()) is (remedy == "setup"), "only the restore differs with checked set-up"


def test_what_remediations_change() -> None:
    assert without_cobalt("headroom").fits
    assert without_cobalt("shard", "headroom").fits
    assert len(june_2022(("stores",)).stores) == 3
    light = june_2022(("light",))
    assert light.model("ft-curie").weight_bytes * 2 == FT_CURIE_BYTES
    assert june_2022(("headroom",)).switches.decision_delay_s == 0
    assert june_2022(("peers",)).switches.peer_fetch
    with pytest.raises(UsageError, match="no remediation is called 'luck'"):
        june_2022(("luck",))


@pytest.mark.parametrize(
    "said",
    [
        f"{FT_CURIE_BYTES // 1024} KiB, 400",
        f"{FT_DAVINCI_BYTES // 1024:,} KiB, 24",
        f"{EGRESS_BYTES_S / MIB:g} MiB/s",
        f"{LINK_BYTES_S / MIB:g} MiB/s a cluster",
        f"{JUNE_RPS:g} a second",
        "28 lost, 17 free",
        "10.5 s after the detection",
        *(f"`{name}`" for name in JUNE_REMEDIES),
    ],
)
def test_the_table_of_parameters_says_what_the_code_does(said: str) -> None:
    assert said in PARAMETERS
