"""Archives, package closures and names of images: what the offline builder computes without Docker and without root."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest

from fleet.environments.kind.offline import archive, node, serving, tree
from fleet.environments.kind.offline.archive import Image, Layer
from fleet.environments.kind.offline.recipe import Workshop

STATUS = """Package: python3.11
Status: install ok installed
Depends: python3.11-minimal (= 3.11.2-6), libssl3 (>= 3.0.0), awk-of-sorts
Description: interpreter
 Depends: a continuation line is no field

Package: python3.11-minimal
Pre-Depends: libc6 (>= 2.36)

Package: libssl3
Depends: libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0

Package: mawk
Provides: awk-of-sorts

Package: libc6

Package: debconf

Package: bash
Depends: libc6
"""


def shop(folder: Path) -> Workshop:
    folder.mkdir(exist_ok=True)
    return Workshop(folder, folder / "log", folder, {})


def test_a_closure_follows_dependencies_alternatives_and_provided_names() -> None:
    found = tree.closure(STATUS, ["python3.11"])
    assert found == {"python3.11", "python3.11-minimal", "libssl3", "mawk", "libc6"}


def test_a_package_that_is_not_installed_is_named() -> None:
    with pytest.raises(KeyError, match="nosuch"):
        tree.closure(STATUS, ["nosuch"])


def test_files_of_packages_are_found_under_their_merged_paths(tmp_path: Path) -> None:
    for name in ("usr/lib", "usr/bin", "usr/sbin", "var/lib/dpkg/info"):
        (tmp_path / name).mkdir(parents=True)
    for link in ("lib", "bin"):
        (tmp_path / link).symlink_to(f"usr/{link}")
    for file in ("usr/lib/libc.so.6", "usr/bin/bash", "usr/sbin/made-by-hand"):
        (tmp_path / file).write_text("x")
    info = tmp_path / "var/lib/dpkg/info"
    (info.parent / "status").write_text(STATUS)
    (info / "libc6:amd64.list").write_text("/.\n/lib\n/lib/libc.so.6\n/usr/share/doc/gone\n")
    (info / "bash.list").write_text("/.\n/bin\n/bin/bash\n")
    found = tree.files_of(tmp_path, ["bash"], ["usr/sbin/made*"])
    assert {"usr/lib/libc.so.6", "usr/bin/bash", "usr/sbin/made-by-hand", "lib", "bin"} <= set(found)
    assert not [path for path in found if "gone" in path or path.startswith("lib/")]


def test_an_archive_holds_what_docker_load_expects(tmp_path: Path) -> None:
    work = shop(tmp_path)
    for name in ("low", "top"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    low, top = (archive.pack(work, tmp_path / name, tmp_path / f"{name}.tar") for name in ("low", "top"))
    images = [
        Image(("one:1", "one:latest"), (low,), ("/one",), stop_signal="SIGRTMIN+3"),
        Image(("two:1",), (low, top), labels={archive.KEY_LABEL: "abc"}),
    ]
    archive.write(tmp_path / "image.tar", images)
    with tarfile.open(tmp_path / "image.tar") as told:
        files = {member.name: told.extractfile(member).read() for member in told.getmembers()}  # type: ignore[union-attr]
    manifest = json.loads(files["manifest.json"])
    assert [entry["RepoTags"] for entry in manifest] == [["one:1", "one:latest"], ["two:1"]]
    assert len(files) == 1 + 2 + 2  # the manifest, two configurations, two layers though one is used twice
    for entry, image in zip(manifest, images, strict=True):
        config = json.loads(files[entry["Config"]])
        assert entry["Config"] == hashlib.sha256(files[entry["Config"]]).hexdigest() + ".json"
        held = [f"sha256:{hashlib.sha256(files[name]).hexdigest()}" for name in entry["Layers"]]
        assert config["rootfs"]["diff_ids"] == held
        assert config["config"]["Labels"] == image.labels
    one = json.loads(files[manifest[0]["Config"]])["config"]
    assert (one["Entrypoint"], one["StopSignal"]) == (["/one"], "SIGRTMIN+3")
    with tarfile.open(fileobj=io.BytesIO(files[manifest[1]["Layers"][1]])) as layer:
        assert "./top.txt" in layer.getnames()


def test_an_upper_archive_names_all_layers_and_holds_the_top_one(tmp_path: Path) -> None:
    layers = []
    for name in ("low", "top"):
        (tmp_path / f"{name}.tar").write_text(name)
        layers.append(Layer.of(tmp_path / f"{name}.tar"))
    image = Image(("localhost/blackstart/serving:1",), tuple(layers), ("/python",))
    archive.write_upper(tmp_path / "upper.tar", image)
    with tarfile.open(tmp_path / "upper.tar") as told:
        files = {member.name: told.extractfile(member).read() for member in told.getmembers()}  # type: ignore[union-attr]
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["annotations"] == {"io.containerd.image.name": "localhost/blackstart/serving:1"}
    manifest = json.loads(files[f"blobs/{named['digest'].replace(':', '/')}"])
    assert [(layer["digest"], layer["size"]) for layer in manifest["layers"]] == [
        (f"sha256:{layer.sha256}", 3) for layer in layers
    ]
    assert files[f"blobs/sha256/{layers[1].sha256}"] == b"top"
    assert f"blobs/sha256/{layers[0].sha256}" not in files
    assert files[f"blobs/{manifest['config']['digest'].replace(':', '/')}"] == image.config()
    for name, content in files.items():
        if name.startswith("blobs/"):
            assert name.endswith(hashlib.sha256(content).hexdigest())


def test_a_layer_depends_on_contents_alone(tmp_path: Path) -> None:
    made: list[Layer] = []
    for number, name in enumerate(("first", "second")):
        folder = tmp_path / name
        (folder / "root/inner").mkdir(parents=True)
        (folder / "root/inner/file").write_text("same")
        for path in (folder / "root/inner/file", folder / "root/inner"):
            os.utime(path, (1_000_000 * number, 1_000_000 * number))
        made.append(archive.pack(shop(folder), folder / "root", folder / "layer.tar"))
    assert made[0].sha256 == made[1].sha256


def test_a_layer_can_hold_some_paths_only(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "usr").mkdir(parents=True)
    for name in ("usr/kept", "usr/-dashed", "usr/left"):
        (root / name).write_text(name)
    layer = archive.pack(shop(tmp_path / "work"), root, tmp_path / "cut.tar", only=["usr", "usr/-dashed", "usr/kept"])
    with tarfile.open(layer.path) as told:
        assert sorted(told.getnames()) == ["usr", "usr/-dashed", "usr/kept"]


def test_images_get_the_names_that_kubeadm_and_containerd_ask_for() -> None:
    listed = "some.host/kube-proxy:v1.34.4\nsome.host/coredns/coredns:v1.12.1\nsome.host/pause:3.10.1\n"
    config = 'version = 2\n  # sandbox\n  sandbox_image = "some.host/pause:3.10"\n'
    assert node.wanted(listed, config) == {
        "kube-proxy": ("some.host/kube-proxy:v1.34.4",),
        "coredns": ("some.host/coredns/coredns:v1.12.1",),
        "pause": ("some.host/pause:3.10.1", "some.host/pause:3.10"),
    }


def test_the_servers_sources_go_in_without_the_builder(tmp_path: Path) -> None:
    names = ("fleet/serving/server.py", "fleet/spec.py", "history/op.py", "history/__pycache__/op.pyc")
    for name in (*names, "fleet/environments/kind/offline/plan.py", "loadgen/send.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    found = [str(path.relative_to(tmp_path)) for path in serving.sources(tmp_path, ("fleet", "history"))]
    assert found == ["fleet/serving/server.py", "fleet/spec.py", "history/op.py"]


def test_the_nodes_network_needs_no_name_that_the_image_lacks() -> None:
    folder = Path(node.__file__).with_name("node")
    manifest = (folder / "default-cni.yaml").read_text()
    main = (folder.parent / "go/kubernetes/main.go").read_text()
    assert "image: localhost/blackstart/node-routes:@KUBERNETES@" in manifest
    assert "command: [node-routes]" in manifest
    assert '"node-routes":' in main
    plugins = json.loads((folder / "cni.conflist").read_text())["plugins"]
    assert plugins[0]["ipam"]["ranges"] == [[{"subnet": "{{.PodCIDR}}"}]]
    assert 'conf_template = "/kind/cni.conflist"' in (folder / "containerd.toml").read_text()
