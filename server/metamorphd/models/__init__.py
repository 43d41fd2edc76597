"""What the parts of the server exchange: frozen values, by noun.

Times are integers, microseconds since the epoch, UTC. Ids are opaque text. Enum members are named like the proto values
without their prefix, and stored under that name.
"""
