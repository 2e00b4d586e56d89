"""The attacker: captures what its node receives, and inverts it with what it alone has.

Its knowledge: the captured weights, its own shard, a public image set, the list of classes. It reads no private
image and imports neither the auditor nor the clients' internals.
"""
