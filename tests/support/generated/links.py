"""The tree of a generated session, which is the same in each as far as it goes."""

from typing import NamedTuple

# Every so many turns the branch goes on from before the last few.
FORK_EVERY, FORK_BACK = 50, 6


class Link(NamedTuple):
    """How a message is linked, by the places of messages in their session; see `metamorphd.store.links`."""

    parent: int | None
    depth: int
    jump: int
    jump_depth: int


_links: list[Link] = []


def link_of(place: int) -> Link:
    """Returns the link of the message at a place."""
    while len(_links) <= place:
        _links.append(_below(parent_of(len(_links)), len(_links)))
    return _links[place]


def parent_of(place: int) -> int | None:
    """Returns the place of a message's parent; None of the first."""
    turn, reply = divmod(place, 2)
    if reply:
        return place - 1
    back = FORK_BACK if turn % FORK_EVERY == FORK_EVERY - 1 else 1
    return None if turn == 0 else (turn - back) * 2 + 1


def _below(parent: int | None, place: int) -> Link:
    if parent is None:
        return Link(None, 1, place, 1)
    above = _links[parent]
    jump = _links[above.jump]
    if above.depth - above.jump_depth == above.jump_depth - jump.jump_depth:
        return Link(parent, above.depth + 1, jump.jump, jump.jump_depth)
    return Link(parent, above.depth + 1, parent, above.depth)
