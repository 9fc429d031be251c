#!/bin/sh
# unpack-images.sh ROOT ARCHIVE LAYER...: unpack the images of an archive into the containerd store of the tree ROOT.
#
# Runs in a mount namespace of its own, as root. The tree's own containerd does it, so that a node starts with its
# images unpacked. The packed LAYERs (digests) are dropped afterwards: the unpacked files stand for them, and kind
# copies the whole store for every node.
set -eu
root=$1 archive=$2
shift 2
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
mount -t tmpfs tmpfs "$root/run"
mount -t tmpfs tmpfs "$root/tmp"
printf 'version = 2\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n' >"$root/tmp/config.toml"
chroot "$root" containerd --config /tmp/config.toml --log-level warn >&2 &
daemon=$!
trap 'kill $daemon 2>/dev/null; wait $daemon || :' EXIT
ctr() { chroot "$root" ctr --namespace k8s.io "$@"; }

tries=100
until ctr version >/dev/null 2>&1; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "containerd of the tree does not answer" >&2; exit 1; }
    sleep 0.1
done
ctr images import --snapshotter overlayfs - <"$archive" >&2
for layer; do
    ctr content rm "$layer" >&2
done
# containerd's collector deletes the blobs a moment later; stopped before that, it would leave them in the image
tries=300
while [ -n "$(find "$root/var/lib/containerd/io.containerd.content.v1.content/blobs" -size +1M)" ]; do
    tries=$((tries - 1))
    [ $tries -gt 0 ] || { echo "containerd kept the packed layers" >&2; exit 1; }
    sleep 0.1
done
ctr images ls -q
