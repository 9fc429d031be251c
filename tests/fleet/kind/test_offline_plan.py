"""The plan of the offline build: its pins, its keys, its order, and what it says; nothing is built."""

from __future__ import annotations

import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from fleet.environments.kind.offline import gobuild, host, images, serving
from fleet.environments.kind.offline.paths import Image, Paths, cache_dir
from fleet.environments.kind.offline.plan import Plan, make_plan, node_name, serving_name
from fleet.environments.kind.offline.recipe import Shelf, missing
from fleet.environments.kind.offline.versions import Versions, read
from history.errors import FleetError

ROOT = Path(__file__).parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A small checkout: pinned packages and two packages of the project."""
    root = tmp_path / "checkout"
    for name in ("fleet/serving", "fleet/__pycache__", "fleet/environments/kind/offline", "history", "reports"):
        (root / name).mkdir(parents=True)
    for name in ("fleet/serving/server.py", "history/op.py", "reports/page.py"):
        (root / name).write_text("x = 1\n")
    (root / "constraints.txt").write_text("aiohttp==3.14.5\n")
    return root


def keys(plan: Plan) -> dict[str, str]:
    return {name: step.key for name, step in plan.steps.items()}


def changed(one: Plan, other: Plan) -> set[str]:
    return {name for name, key in keys(one).items() if keys(other)[name] != key}


def test_pins_are_whole_and_kubernetes_still_runs_on_cgroup_v1() -> None:
    versions = read()
    assert set(versions.modules) == {"kubernetes", "etcd", "coredns", "kind"}
    assert all(gobuild.numbers(version.removeprefix("v")) for _, version in versions.modules.values())
    assert gobuild.numbers(versions.kubernetes.removeprefix("v"))[:2] == (1, 34)


def test_the_serving_images_packages_are_the_projects_own_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {line.split(">")[0] for line in project["dependencies"]}
    pinned = {line.split("==")[0].replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    assert set(read().requirements) <= declared & pinned


def test_the_dockerfile_for_ordinary_hosts_holds_the_same() -> None:
    text = (ROOT / "fleet/environments/kind/Dockerfile").read_text()
    versions = read()
    assert f"FROM python:{versions.python}-slim\n" in text
    assert f"-c /tmp/constraints.txt {' '.join(versions.requirements)}\n" in text
    assert [f"COPY {name} /{serving.PROJECT}/{name}" in text for name in versions.project] == [True, True]
    assert f"PYTHONPATH=/{serving.PROJECT} " in text


def test_an_edit_of_a_source_rebuilds_the_top_of_the_serving_image_alone(project: Path) -> None:
    before = make_plan(read(), project)
    (project / "fleet/serving/server.py").write_text("x = 2\n")
    assert changed(before, make_plan(read(), project)) == {"serving"}


@pytest.mark.parametrize(
    "name", ["fleet/__pycache__/server.pyc", "reports/page.py", "fleet/environments/kind/offline/x.py"]
)
def test_files_that_no_server_needs_change_nothing(project: Path, name: str) -> None:
    before = make_plan(read(), project)
    (project / name).write_text("other")
    assert changed(before, make_plan(read(), project)) == set()


def test_a_pin_changes_what_depends_on_it(project: Path) -> None:
    versions = read()
    before = make_plan(versions, project)

    def with_module(name: str, version: str) -> Versions:
        return replace(versions, modules={**versions.modules, name: (versions.modules[name][0], version)})

    assert changed(before, make_plan(with_module("etcd", "v3.6.6"), project)) == {"etcd", "node"}
    assert changed(before, make_plan(with_module("kind", "v0.34.0"), project)) == {"kind", "kind-files", "node"}
    assert changed(before, make_plan(with_module("kubernetes", "v1.34.5"), project)) == {"kubernetes", "node"}
    (project / "constraints.txt").write_text("aiohttp==3.14.6\n")
    assert changed(before, make_plan(versions, project)) == {"wheels", "serving-base", "serving", "node"}


def test_images_are_named_by_content(project: Path) -> None:
    versions = read()
    plan = make_plan(versions, project)
    assert node_name(versions, plan.node) == f"localhost/blackstart/node:{versions.kubernetes}-{plan.node.key}"
    assert serving_name(plan.serving).endswith(plan.serving.key)


def test_the_plan_says_what_is_done_and_what_is_to_do(project: Path, tmp_path: Path) -> None:
    plan, shelf = make_plan(read(), project), Shelf(tmp_path / "cache")
    for step in plan.steps.values():
        if step.name != "serving":
            shelf.place(step).mkdir(parents=True)
    text = images.described(plan, shelf)
    assert [line.split()[-1] for line in text.splitlines() if line.startswith("to do")] == ["serving-base"]
    assert text.count("\ndone ") == len(plan.steps) - 1
    assert [step.name for step in missing([plan.node, plan.serving], shelf)] == ["serving"]


def test_the_cache_lies_outside_the_checkout_and_can_be_moved(tmp_path: Path) -> None:
    assert cache_dir({"BLACKSTART_CACHE": str(tmp_path), "XDG_CACHE_HOME": "elsewhere"}) == tmp_path
    assert cache_dir({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "blackstart"
    assert cache_dir({}) == Path.home() / ".cache" / "blackstart"


def test_later_code_finds_programs_and_images(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    assert paths.images == {}
    image = Image("localhost/blackstart/node:v1-0", tmp_path / "steps/node-0/image.tar", "0")
    paths.write_images({"node": image})
    assert paths.images == {"node": image}
    images.link_programs(paths, tmp_path / "steps/kind-0", tmp_path / "steps/kubernetes-0")
    images.link_programs(paths, tmp_path / "steps/kind-1", tmp_path / "steps/kubernetes-0")
    assert paths.kind.readlink() == tmp_path / "steps/kind-1/kind"
    assert paths.kubectl.readlink() == tmp_path / "steps/kubernetes-0/kubernetes"


def test_staging_modules_get_the_version_under_which_they_are_published() -> None:
    told = {
        "Replace": [
            {"Old": {"Path": "k8s.io/api"}, "New": {"Path": "./staging/src/k8s.io/api"}},
            {"Old": {"Path": "example.org/other"}, "New": {"Path": "example.org/fork", "Version": "v1.0.0"}},
        ]
    }
    staged = gobuild.staged(told, "v1.34.4")
    assert staged == {"k8s.io/api": "v0.34.4"}
    text = gobuild.go_mod_text("kubernetes", "1.24.0", "k8s.io/kubernetes", "v1.34.4", staged)
    assert "require k8s.io/kubernetes v1.34.4\n" in text
    assert "replace k8s.io/api => k8s.io/api v0.34.4\n" in text


@pytest.mark.parametrize(
    ("found", "fits"), [("go1.24.6", True), ("go1.26.8", True), ("go1.24", False), ("go1.19.8", False)]
)
def test_a_go_that_is_too_old_is_refused(found: str, fits: bool) -> None:
    if fits:
        gobuild.check_version(found, "1.24.6")
        return
    with pytest.raises(FleetError, match=rf"{found}.*1\.24\.6"):
        gobuild.check_version(found, "1.24.6")


def test_every_kubernetes_command_says_the_pinned_version() -> None:
    stamp = gobuild.kubernetes_stamp("v1.34.4")
    assert "version.gitVersion=v1.34.4" in stamp
    assert "version.gitMinor=34" in stamp


def test_little_space_is_refused_only_while_something_large_is_to_do(project: Path, tmp_path: Path) -> None:
    plan = make_plan(read(), project)
    with pytest.raises(FleetError, match=r"3\.0 GiB") as caught:
        host.check_space(tmp_path, 3.0, [plan.steps["debian"]])
    assert "BLACKSTART_CACHE" in caught.value.hint
    host.check_space(tmp_path, 3.0, [plan.serving])


def test_a_missing_tool_without_apt_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FleetError, match=r"docker\.io, jq.*no apt-get"):
        host.install(read(), ("dockerd", "jq"), lambda _: None)


def test_a_missing_go_names_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(FleetError, match=r"1\.24\.6 or newer"):
        gobuild.check_go("1.24.6")
