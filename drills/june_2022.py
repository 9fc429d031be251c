"""The outage of June 2022: base models back after an hour, fine-tuned curie after five, davinci after twelve.

One second stands for 300. The only programmed delays are people's: the decision to re-allocate, and the stages of the
restore. All else comes out of GPUs, bytes, caches and queues; june_2022/PARAMETERS.md says where each figure is from.
It passes when the outage comes out as the report tells it. `june-2022+all` has every remediation, `--ablate` shows
what each of them buys.
"""

import tomllib
from collections.abc import Collection
from pathlib import Path

from blackstart import (
    Ablation,
    Baseline,
    Destroy,
    Drill,
    Inject,
    Objective,
    Observe,
    OpenLoop,
    PowerLoss,
    Restore,
    Stage,
    StoryPost,
    fleets,
    guards,
)
from blackstart import objectives as o

FOLDER = Path(__file__).with_suffix("")
POSTS = tomllib.loads((FOLDER / "status_posts.toml").read_text(encoding="utf-8"))["posts"]
STORY = tuple(StoryPost(post["minutes"], post["at"], post["text"]) for post in POSTS)
SCALE = 300.0  # seconds of 2022 in one second of the run
HOUR = 3600 / SCALE
BACK_H = 10.45  # the cluster is built anew, and traffic begins to return
OLD_INGRESS, NEW_INGRESS = ((FOLDER / name).read_text(encoding="utf-8") for name in ("ingress.yaml", "ingress-v1.yaml"))


def restore(checked: bool, remedied: bool) -> Restore:
    """10.5 hours as they went; ``checked``: set-up and upgrade were rehearsed, so only the rebuilding is left."""
    rebuilt = (
        Stage("rebuilt from scratch", 0.1 * HOUR, "rebuild"),
        Stage("ingress fits the new version", 0.0, "check ingress", NEW_INGRESS),
        Stage("traffic moved back", 1.0 * HOUR, "return traffic"),
    )
    if checked:
        stages = (Stage("the operation is found, set-up as rehearsed", 2.0 * HOUR), *rebuilt)
        return Restore("cobalt", stages, unless=o.all_recovered())
    return Restore(
        "cobalt",
        unless=o.all_recovered() if remedied else None,  # without any, nothing has recovered before the end
        stages=(
            Stage("the source of the outage is found", 1.2 * HOUR),
            Stage("cluster set-up", 0.8 * HOUR, "set up"),
            Stage("connection to the control plane lost", 1.5 * HOUR, "cut control plane"),
            Stage("VPN link rebuilt", 0.5 * HOUR, "mend control plane"),
            Stage("private link lost", 1.3 * HOUR, "cut control plane"),
            Stage("workaround for the private link", 0.7 * HOUR, "mend control plane"),
            Stage("Kubernetes upgraded", 0.8 * HOUR, "upgrade", "1.22"),
            Stage("ingress incompatible with the new version", 1.0 * HOUR, "check ingress", OLD_INGRESS, refused=True),
            Stage("downgrade refused", 0.2 * HOUR, "downgrade", "1.21", refused=True),
            Stage("torn down", 2.45 * HOUR, "tear down"),
            *rebuilt,
        ),
    )


BASE = (
    "Too late: how long did people take to decide (`decided`), and was there a GPU for it (the allocator's /state)? "
    "Too early: the decision was not the bottleneck that it was in 2022."
)
FT = (
    "Look at weights by tier, the store's egress, the pool's 429s and 499s. Too late: bytes; raise egress, replicate "
    "the store (7) or ask nodes first (8). Too early: the caches held what was lost, see june_2022/PARAMETERS.md."
)
RETURN = "Before the return: a spare node's cache held the pool. Long after: fewer bytes must come back at once (8, 9)."


def as_reported() -> list[Objective]:
    """Within 20 % of the report, or tighter; FT davinci not before the cluster is back."""
    base = [
        o.recovered(f"class:{name}", within_s=1.2 * HOUR, not_before_s=0.8 * HOUR, first_hold=True, playbook=BASE)
        for name in ("codex", "embeddings", "legacy")
    ]
    davinci = {"within_s": 12.5 * HOUR, "not_before_s": BACK_H * HOUR}
    return [
        *base,
        o.recovered("class:ft-curie", within_s=6.0 * HOUR, not_before_s=4.0 * HOUR, first_hold=True, playbook=FT),
        o.recovered("class:ft-davinci", **davinci, first_hold=True, playbook=RETURN),
        o.full_capacity("class:codex", within_s=12.5 * HOUR, playbook="GPUs: what has taken the returned cluster's?"),
        o.good_ratio(at_least=0.99, scope="class:instruct", playbook="The advised fallback fell: who took its GPUs?"),
    ]


def remedied(remedies: Collection[str]) -> list[Objective]:
    """With all: base models in a quarter of an hour, both FT classes ten times sooner than without any."""
    if "locks" in remedies:
        return [o.good_ratio(at_least=0.99, playbook="The operation was not refused: is cobalt's lock on?")]
    limits = {"codex": 0.25, "embeddings": 0.25, "legacy": 0.25, "ft-curie": 0.5, "ft-davinci": 1.2}
    everything = set(remedies) >= ABLATION.all
    return [
        o.recovered(f"class:{name}", within_s=(limit if everything else 12.0) * HOUR, first_hold=True, playbook=FT)
        for name, limit in limits.items()
    ]


def replay(remedies: Collection[str] = ()) -> Drill:
    """The drill with these remediations; without any, as it was."""
    happens = (Inject(PowerLoss("cobalt")), restore("setup" in remedies, bool(remedies)))
    prevented = (Inject(Destroy("cobalt", refused=True)), Observe(at_most_s=10))
    return Drill(
        name="june-2022",
        fleet=fleets.june_2022(remedies),
        load=OpenLoop(rate_rps=fleets.JUNE_RPS, good_within_ms=1500, total_timeout_s=2.0),  # 7.5 and 10 minutes
        steps=[
            Baseline(seconds=5),
            *(prevented if "locks" in remedies else happens),
            Observe(until=o.all_recovered(), at_most_s=120 if "setup" in remedies else 14, then_s=2),
        ],
        objectives=remedied(remedies) if remedies else as_reported(),
        guards=[guards.run_time()],
        time_scale=SCALE,
        recovery_until="end",
        story=STORY,
        ablation=ABLATION,
    )


ABLATION = Ablation(replay, tuple(fleets.JUNE_REMEDIES.items()), apart=("locks", "fallback"))
drill = replay()
