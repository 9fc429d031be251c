"""offline: everything that kind needs, built on this host where no image can be pulled.

versions.toml    every version that is pinned, by name
paths.py         where things are: the cache, kind, kubectl, the names of the images (later code needs only this)
images.py        the command behind ``make kind-images``: plan, build, load
engine.py        the command behind ``make docker-engine``: a Docker engine of our own, started and stopped by pid
recipe.py        steps, their content keys, the shelf on which results stand, the runner
plan.py          the steps of this build, one function each
gobuild.py       programs out of Go modules
tree.py          a Debian tree, and the files of some packages cut out of it
node.py          the node image            serving.py   the serving image            archive.py   image archives
go/              our own small mains: one for all Kubernetes commands, CoreDNS, pause
"""
