"""The node image: a Debian tree with kind's own base files, the Kubernetes program, and the images of a control plane
already unpacked in its containerd.

kind's files come out of kind's Go module when the image is built; names and versions of the images come from kubeadm
itself. ``plan`` calls this inside a step, as root; no Docker engine takes part.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from fleet.environments.kind.offline import archive, tree
from fleet.environments.kind.offline.archive import Image, Layer
from fleet.environments.kind.offline.recipe import Workshop, remove
from history.errors import FleetError

OURS: Final = Path(__file__).with_name("node")
COMMANDS: Final = ("kubeadm", "kubelet", "kubectl")
"""What a node calls by itself; its other Kubernetes commands run in containers."""
UNWANTED_UNITS: Final = (
    "lib/systemd/system/sysinit.target.wants/systemd-tmpfiles-setup.service",
    "lib/systemd/system/multi-user.target.wants/*",
    "lib/systemd/system/local-fs.target.wants/*",
    "lib/systemd/system/sockets.target.wants/*udev*",
    "lib/systemd/system/sockets.target.wants/*initctl*",
    "lib/systemd/system/basic.target.wants/*",
    "etc/systemd/system/*.wants/*",
)
"""What kind's base image drops too: a node is a container and has no such devices."""
MACHINE_IDS: Final = ("etc/machine-id", "var/lib/dbus/machine-id")
"""Removed, or all nodes would have the same identity."""
CONTAINERD: Final = {
    "restrict_oom_score_adj = false": "restrict_oom_score_adj = true",
    "SystemdCgroup = true": 'SystemdCgroup = true\n    BinaryName = "crun"',
}
"""What differs from kind's containerd configuration. A node of a host without CAP_SYS_RESOURCE cannot lower an oom
score; with it, nothing is lost. crun makes a pod with 0.1 CPU-seconds less than the distribution's runc."""
XTABLES: Final = ("usr/sbin/*tables*", "usr/bin/*tables*", "etc/alternatives/*tables*")
"""Links to the packet filter's programs that Debian makes while it installs them."""


def make(
    shop: Workshop, *, name: str, key: str, kubernetes: str, kube_proxy: Iterable[str], python: Iterable[str]
) -> None:
    """Build the image archive ``shop.out / image.tar``."""
    debian, root = shop.got["debian"] / "root", shop.out / "root"
    shop.run(["cp", "-a", "--reflink=auto", debian, root])
    base_files(shop, root, kubernetes)
    program(shop.got["kubernetes"] / "kubernetes", root, COMMANDS, where="usr/bin")
    (root / "kind/version").write_text(kubernetes)
    images, layers = components(shop, root, kubernetes, kube_proxy)
    lower = Layer.of(shop.got["serving-base"] / "base.tar")  # so that loading a serving image is loading its top
    images.append(Image((f"{archive.LOCAL}/serving-base:{lower.sha256[:16]}",), (lower,)))
    layers.append(lower)
    shop.run(["chroot", root, "dpkg", "--purge", "--force-depends", *python])
    packed = shop.out / "images.tar"
    archive.write(packed, images)
    unpack: list[str | Path] = [
        *tree.PRIVATE,
        "sh",
        OURS / "unpack-images.sh",
        root,
        packed,
        *[f"sha256:{one.sha256}" for one in layers],
    ]
    there = set(shop.ask(unpack).split())
    if len(there) < sum(len(image.names) for image in images):
        raise FleetError(f"the node's store holds only {sorted(there)}", hint=f"read {shop.log}")
    for name_of_id in MACHINE_IDS:
        (root / name_of_id).unlink(missing_ok=True)
    remove(root / "var/lib/dpkg/info")  # 800 files that would be copied into every node's volume
    layer = archive.pack(shop, root, shop.out / "layer.tar", root_owns=False)
    start = ("/usr/local/bin/entrypoint", "/sbin/init")
    env = (archive.SEARCH_PATH, "container=docker")
    labels = {archive.KEY_LABEL: key}
    image = Image((name,), (layer,), start, env, labels, stop_signal="SIGRTMIN+3")
    archive.write(shop.out / "image.tar", [image])
    for left in ("root", "images.tar", "layer.tar", "layers"):
        remove(shop.out / left)


def base_files(shop: Workshop, root: Path, kubernetes: str) -> None:
    """kind's own files over the tree, then the few things that differ here."""
    theirs = shop.got["kind-files"] / "files"
    for file in sorted(path for path in theirs.rglob("*") if path.is_file()):
        inside = file.relative_to(theirs)
        target = root / inside
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        target.chmod(0o755 if "bin" in inside.parts else 0o644)
    for pattern in UNWANTED_UNITS:
        for path in root.glob(pattern):
            path.unlink()
    with (root / "etc/systemd/journald.conf").open("a") as journal:
        journal.write("ReadKMsg=no\n")
    for folder in ("etc/kubernetes/manifests", "etc/cni/net.d", "opt/cni", "kind/manifests"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    os.symlink("/usr/bin/containerd", root / "usr/local/bin/containerd")
    os.symlink("/usr/lib/cni", root / "opt/cni/bin")
    shop.run(
        ["chroot", root, "systemctl", "enable", "kubelet.service", "containerd.service", "undo-mount-hacks.service"]
    )
    shop.run(["chroot", root, "systemctl", "mask", "systemd-binfmt.service", "getty.target", "console-getty.service"])
    config = root / "etc/containerd/config.toml"
    text = config.read_text()
    for theirs_said, ours in CONTAINERD.items():
        if theirs_said not in text:
            raise FleetError(f"kind's containerd configuration no longer says {theirs_said!r}", hint=f"read {config}")
        text = text.replace(theirs_said, ours)
    config.write_text(text + (OURS / "containerd.toml").read_text())
    shutil.copyfile(OURS / "cni.conflist", root / "kind/cni.conflist")
    for manifest in ("default-cni.yaml", "default-storage.yaml"):
        (root / "kind/manifests" / manifest).write_text(
            (OURS / manifest).read_text().replace("@KUBERNETES@", kubernetes)
        )
    spec = json.loads(shop.ask(["chroot", root, "ctr", "oci", "spec"]))
    spec["process"].pop("rlimits", None)  # limits of this host are not a node's
    (root / "etc/containerd/cri-base.json").write_text(json.dumps(spec))


def program(binary: Path, root: Path, commands: Iterable[str], *, where: str) -> None:
    """Copy the Kubernetes program into a tree, and link the commands to it."""
    folder = root / where
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(binary, folder / "kubernetes")
    for command in commands:
        os.symlink("kubernetes", folder / command)


def wanted(kubeadm_list: str, containerd_config: str) -> dict[str, tuple[str, ...]]:
    """Component -> the names under which a node asks for its image.

    ``kubeadm_list``: the lines of ``kubeadm config images list``; ``containerd_config``: names the pause image that
    containerd itself starts, which may differ in its tag.
    """
    found: dict[str, list[str]] = {}
    for line in kubeadm_list.split():
        found.setdefault(line.rsplit("/", 1)[-1].split(":")[0], []).append(line)
    sandbox = re.search(r'^\s*sandbox_image\s*=\s*"([^"]+)"', containerd_config, re.MULTILINE)
    if sandbox and sandbox[1] not in found.setdefault("pause", []):
        found["pause"].append(sandbox[1])
    return {component: tuple(lines) for component, lines in found.items()}


def components(
    shop: Workshop, root: Path, kubernetes: str, kube_proxy: Iterable[str]
) -> tuple[list[Image], list[Layer]]:
    """The images of a control plane, and their layers. The Kubernetes ones share the program's layer."""
    said = shop.ask(["chroot", root, "kubeadm", "config", "images", "list", "--kubernetes-version", kubernetes])
    named = wanted(said, (root / "etc/containerd/config.toml").read_text())
    box = shop.out / "layers"
    for single in ("etcd", "coredns", "pause"):
        (box / single / "usr/local/bin").mkdir(parents=True)
        shutil.copy(shop.got[single] / single, box / single / "usr/local/bin" / single)
    servers = ("kube-apiserver", "kube-controller-manager", "kube-scheduler")
    program(
        shop.got["kubernetes"] / "kubernetes",
        box / "kubernetes",
        (*servers, "kube-proxy", "node-routes"),
        where="usr/local/bin",
    )
    for part in box.iterdir():
        (part / "tmp").mkdir()
        (part / "tmp").chmod(0o1777)
    layer = {part.name: archive.pack(shop, part, box / f"{part.name}.tar") for part in sorted(box.iterdir())}
    files = tree.files_of(root, kube_proxy, XTABLES)
    layer["tables"] = archive.pack(shop, root, box / "tables.tar", only=files)
    images = [Image(named[one], (layer["kubernetes"],)) for one in servers]
    images += [Image((f"{archive.LOCAL}/node-routes:{kubernetes}",), (layer["kubernetes"],))]
    images += [Image(named["kube-proxy"], (layer["kubernetes"], layer["tables"]))]
    images += [Image(named[one], (layer[one],), (f"/usr/local/bin/{one}",)) for one in ("etcd", "coredns", "pause")]
    return images, list(layer.values())
