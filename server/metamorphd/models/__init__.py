"""The values that the parts of the server exchange: frozen dataclasses, by noun.

Times are integers, in microseconds since the epoch, UTC. Ids are opaque text. Enum members have the names of the proto
values without their prefix, and are stored under those names.
"""
