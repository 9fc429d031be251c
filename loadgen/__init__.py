"""loadgen: everything that sends a request. Imports only history; imported only by the drills' engine.

schedule.py    the seeded open-loop plan (pure)
exchange.py    what is sent for an entry of the mix, and what a complete and correct answer to it is (pure)
client.py      one measured request over gevent sockets, of the load and of the probers; pool.py: its connections
sender.py      sends a slice of the plan at the intended times, records one op a send, drains
locustfile.py  the Locust side: users, options, workers; the only module that imports locust
byhand.py      prepares a run directory when locust is started by hand
control.py     the small files by which runner and load workers talk
process.py     LoadProcess, ProberProcess: what the runner starts and stops; never imports locust
probers.py     canary and cluster prober, a process of their own
"""
