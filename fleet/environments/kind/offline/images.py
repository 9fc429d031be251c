"""The command behind ``make kind-images``: builds what is missing, and hands the two images to Docker.

python -m fleet.environments.kind.offline.images           build, then load
python -m fleet.environments.kind.offline.images --plan    what would be done, and the keys; changes nothing
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import click

from fleet.environments.kind.offline import docker
from fleet.environments.kind.offline.host import check_host
from fleet.environments.kind.offline.paths import Image, Paths
from fleet.environments.kind.offline.plan import Plan, make_plan, node_name, serving_name
from fleet.environments.kind.offline.recipe import Build, Shelf, Step, missing
from fleet.environments.kind.offline.versions import Versions, read
from history.errors import BlackstartError

PROJECT: Final = Path(__file__).parents[4]
"""The checkout."""
MIRROR: Final = "BLACKSTART_DEBIAN_MIRROR"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--plan", "only_plan", is_flag=True, help="Print the steps, their keys and what is missing; change nothing."
)
@click.option("--load/--no-load", default=True, help="Hand the images to the Docker engine when they are built.")
def main(only_plan: bool, load: bool) -> None:
    """Build kind, kubectl, a kind node image and the serving image, without pulling any image.

    Sources: packages of the distribution, Go modules, Python packages, each by its ordinary client. Results are cached
    by content in $BLACKSTART_CACHE (else ~/.cache/blackstart); a step that was done is never done twice, and after an
    interruption the same command goes on. Needs root, since a Debian tree is installed into a folder. Behind a proxy or
    on a closed network, set the clients up as usual (GOPROXY, pip.conf, $BLACKSTART_DEBIAN_MIRROR for debootstrap).
    """
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s {line}", flush=True)

    signal.signal(signal.SIGTERM, interrupted)
    try:
        if only_plan:
            print(described(make_plan(read(), PROJECT), Shelf(Paths.of_this_machine().cache)))
        else:
            ensure(say, load=load)
    except BlackstartError as error:
        print(f"Error: {error.message}\nNext: {error.hint}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("Interrupted. What is done is kept: the same command goes on from here.", file=sys.stderr)
        sys.exit(130)


def interrupted(*_: object) -> None:
    """What SIGTERM does here: the same as Ctrl-C, so that no compiler is left running."""
    raise KeyboardInterrupt


def described(plan: Plan, shelf: Shelf) -> str:
    """The plan as text, a step a line."""
    todo = {step.name for step in missing([*plan.steps.values()], shelf)}
    lines = [f"results in {shelf.root}"]
    for step in plan.steps.values():
        state = "to do" if step.name in todo else "done"
        needs = f"  <- {', '.join(need.name for need in step.needs)}" if step.needs else ""
        lines.append(f"{state:6} {step.key}  {step.name:13} {step.what}{needs}")
    return "\n".join(lines)


def ensure(say: Callable[[str], None], *, load: bool = True) -> Mapping[str, Image]:
    """The two images as of this checkout's sources, ``node`` and ``serving``, built when they are not there.

    What ``fleet up`` may call before it makes clusters: 0.2 s when all is there, seconds when only sources changed.
    """
    versions = read()
    plan = make_plan(versions, PROJECT, mirror=os.environ.get(MIRROR, ""))
    return build(versions, Paths.of_this_machine(), plan, say, load=load)


def build(
    versions: Versions, paths: Paths, plan: Plan, say: Callable[[str], None], *, load: bool
) -> Mapping[str, Image]:
    """Make what is missing, link kind and kubectl into bin/, write images.json, load the images."""
    shelf = Shelf(paths.cache)
    if load:
        say(f"Docker engine {docker.check_engine()}")
    with shelf.locked(say):
        goals = [*plan.steps.values()]
        todo = missing(goals, shelf)
        if todo:
            say(f"{len(todo)} of {len(goals)} steps to do in {paths.cache}")
            check_host(versions, paths.cache, todo, say)
            Build(shelf, say).run(goals)
        link_programs(paths, shelf.place(plan.steps["kind"]), shelf.place(plan.steps["kubernetes"]))
        images = image_list(versions, plan, shelf)
        paths.write_images(images)
    for image in images.values():
        size = image.archive.stat().st_size / 2**20
        if load and not docker.has(image):
            say(f"   hand {image.name} ({size:.0f} MiB) to Docker")
            docker.load(image)
        say(f" ✓ {image.name} ({size:.0f} MiB)")
    say(f" ✓ {paths.kind} and {paths.kubectl}")
    return images


def image_list(versions: Versions, plan: Plan, shelf: Shelf) -> Mapping[str, Image]:
    """The two images of a plan whose steps are done."""

    def image(step: Step, name: str) -> Image:
        return Image(name, shelf.place(step) / "image.tar", step.key)

    return {
        "node": image(plan.node, node_name(versions, plan.node)),
        "serving": image(plan.serving, serving_name(plan.serving)),
    }


def link_programs(paths: Paths, kind: Path, kubernetes: Path) -> None:
    """Make bin/kind and bin/kubectl point at what this plan built."""
    paths.bin.mkdir(exist_ok=True)
    for link, program in ((paths.kind, kind / "kind"), (paths.kubectl, kubernetes / "kubernetes")):
        part = link.with_suffix(".part")
        part.unlink(missing_ok=True)
        part.symlink_to(program)
        part.replace(link)


if __name__ == "__main__":
    main()
