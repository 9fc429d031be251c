"""serving: the reference serving system, the stage that drills rehearse on. Small, real and honest.

store.py    the weight store          weights.py  manifests, objects, make_weights      bucket.py  token buckets
agent.py    a node's cache and agent  cache.py    the cache's index (pure)              download.py  peers, stores
relay.py    what is still on its way, for peers
server.py   the model server          loader.py   weights into memory, verified         completions.py  what it says
gateway.py  the one entry point       routing.py  the routing table (pure)              watching.py  what keeps it true
allocator.py  the allocator           controller.py  its mind                           clients.py  its hands
config.py   what each is told         events.py   event logs, streams, followers        process.py  what all share
serve.py    HTTP of all but one       light.py  HTTP of the model server                byhand.py  command lines

``store | agent | server | gateway | allocator``: each has ``run(config)``, which serves until SIGTERM, and runs by hand
as ``python -m fleet.serving.NAME --help``.
"""
