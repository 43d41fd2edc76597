"""Every harness, with the arguments of its long form, which proves what is claimed, and of its short form."""

import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import harness.abuse.expensive_mutants
import harness.abuse.memory_mutants
import harness.abuse.mutants
import harness.torture.backup_mutants
import harness.torture.import_mutants
import harness.torture.mutants
import harness.torture.rotation_mutants  # noqa: F401, they register theirs
from harness.abuse import (
    canaries,
    expensive_neighbour,
    forging,
    fuzz,
    half_open,
    hostile_model,
    idle_streams,
    isolation,
    leaving_vault,
    long_work,
    rapid_reset,
    stamps,
    tampering,
    tokens,
    unread_streams,
)
from harness.figure import Figure
from harness.mutants import MUTANTS, Mutant
from harness.torture import backups, crash, drain, imports, race, restores, rotation, upstream


@dataclass(frozen=True)
class Harness:
    """Tries to break what is promised, and returns figures with their bounds.

    `run` takes a Run, and a form as keyword arguments. The bounds of a short form are met on a busy machine, but not by
    a mutant. A harness that is `alone` measures time, and runs by itself.
    """

    room: str
    name: str
    run: Callable[..., Coroutine[Any, Any, list[Figure]]]
    long: Mapping[str, float]
    short: Mapping[str, float]
    alone: bool = False

    @property
    def about(self) -> str:
        """The first line of its module."""
        return (sys.modules[self.run.__module__].__doc__ or "").partition("\n")[0]

    @property
    def mutants(self) -> list[Mutant]:
        """The mutants that it must find."""
        return [mutant for mutant in MUTANTS.values() if mutant.harness == self.name]


DECLARED = (
    Harness("abuse", "tokens", tokens.attack, {"mutants_count": 1_000_000}, {"mutants_count": 20_000}),
    Harness("abuse", "isolation", isolation.attack, {"operations": 100_000}, {"operations": 6_000}, alone=True),
    Harness(
        "abuse",
        "rapid-reset",
        rapid_reset.attack,
        {"seconds": 60},
        {"seconds": 3, "most_megabytes": 35, "most_milliseconds": 1000},
        alone=True,
    ),
    Harness(
        "abuse",
        "unread-streams",
        unread_streams.attack,
        {},
        {"seconds": 2, "slack": 18, "most_megabytes": 150},
        alone=True,
    ),
    Harness(
        "abuse",
        "idle-streams",
        idle_streams.attack,
        {},
        {"streams": 1000, "seconds": 2, "most_megabytes": 80, "most_milliseconds": 250},
        alone=True,
    ),
    Harness("abuse", "half-open", half_open.attack, {}, {"seconds": 3, "most_milliseconds": 2000}, alone=True),
    Harness(
        "abuse",
        "expensive-neighbour",
        expensive_neighbour.expensive_neighbour,
        {},
        {
            "messages": 4_000,
            "vaults": 20,
            "idle_seconds": 5,
            "seconds": 20,
            "floor_milliseconds": 15,
            "most_ratio": 60,
            "most_gap_milliseconds": 2_000,
            "most_mebibytes": 256,
        },
        alone=True,
    ),
    Harness(
        "abuse",
        "leaving-vault",
        leaving_vault.leaving_vault,
        {},
        {
            "messages": 40_000,
            "vaults": 20,
            "idle_seconds": 5,
            "most_seconds": 300,
            "floor_milliseconds": 15,
            "most_ratio": 6,
            "most_gap_milliseconds": 2_000,
            "most_answer_milliseconds": 2_000,
        },
        alone=True,
    ),
    Harness(
        "abuse",
        "long-work",
        long_work.long_work,
        {},
        {
            "messages": 4_000,
            "vaults": 20,
            "memories": 1_000,
            "keyed_vaults": 300,
            "idle_seconds": 4,
            "seconds": 1.5,
            "floor_milliseconds": 15,
            "most_ratio": 60,
            "most_gap_milliseconds": 2_000,
            "most_mebibytes": 128,
        },
        alone=True,
    ),
    Harness("abuse", "fuzz", fuzz.attack, {"seconds": 600}, {"seconds": 5}, alone=True),
    Harness("abuse", "forging", forging.attack, {"attempts": 10_000}, {"attempts": 400}),
    Harness("abuse", "stamps", stamps.attack, {"attempts": 10_000}, {"attempts": 300}),
    Harness("abuse", "tampering", tampering.attack, {"attempts": 10_000}, {"attempts": 300}),
    Harness("abuse", "hostile-model", hostile_model.attack, {"turns": 5_000}, {"turns": 16}),
    Harness("abuse", "canaries", canaries.attack, {}, {"count": 150}),
    Harness("torture", "crash", crash.crash, {"rounds": 1000}, {"rounds": 5}),
    Harness("torture", "race", race.race, {"rounds": 10_000}, {"rounds": 600}),
    Harness("torture", "upstream", upstream.upstream, {"rounds": 1000}, {"rounds": 120}, alone=True),
    Harness("torture", "drain", drain.drain, {"rounds": 20}, {"rounds": 1}, alone=True),
    Harness(
        "torture",
        "backups",
        backups.backups,
        {"count": 200},
        {"count": 4, "mebibytes": 6, "least_rate": 20},
        alone=True,
    ),
    Harness(
        "torture",
        "restores",
        restores.restores,
        {"whole": 100, "kills": 50, "interrupts": 20},
        {"whole": 3, "kills": 4, "interrupts": 2, "mebibytes": 4},
    ),
    Harness(
        "torture",
        "rotation",
        rotation.rotation,
        {"vaults": 100_000, "kills": 20},
        {"vaults": 1_000, "kills": 2, "pause_seconds": 0.3, "stalled_seconds": 10},
    ),
    Harness(
        "torture",
        "imports",
        imports.imports,
        {"rounds": 200},
        {"rounds": 13, "messages": 1_200, "settle_seconds": 10, "random_kills": 0},
    ),
)
HARNESSES = {harness.name: harness for harness in DECLARED}
ROOMS = tuple(dict.fromkeys(harness.room for harness in DECLARED))
