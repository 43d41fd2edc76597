"""The tokens that a reply of the Messages API has used, from what it reports and what was received."""

from collections.abc import Collection
from typing import Any, TypeGuard

from metamorphd.llm.interface import ReplyUsage
from metamorphd.models.usage import Usage

COUNTS = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cache_read_input_tokens": "cache_read_tokens",
    "cache_creation_input_tokens": "cache_write_tokens",
}
INPUT, OUTPUT = "input_tokens", "output_tokens"
INPUTS = COUNTS.keys() - {OUTPUT}
LARGEST_COUNT = 2**31 - 1


class ReportedUsage:
    """The tokens of a reply: what the provider has reported, and the most that the rest can be.

    Text has at most one token per byte. How long thinking was is seen from its signature, which contains all of it
    (https://platform.claude.com/docs/en/build-with-claude/extended-thinking): what is shown is a summary, or nothing.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reported: dict[str, int] = {}
        self._unreadable: set[str] = set()
        # What has been reported as less than before.
        self._shrunk: set[str] = set()
        # Whether the number of output tokens is that of all that was received.
        self._final = False
        self._received = 0
        # Whether there was thinking without a signature.
        self.endless = False
        # The bytes of summaries, None without one, and what was reported of them.
        self._summary: int | None = None
        self._summaries: dict[str, int] = {}

    def receive(self, size: int) -> None:
        """Adds bytes that were received."""
        self._received += size
        self._final = False

    def summarize(self, summary: str) -> None:
        """Adds a summary, which is empty before it is received."""
        self._summary = (self._summary or 0) + len(summary.encode())

    def report(self, usage: Any, *, ends: bool) -> None:
        """Merges what an event reports. Counts are cumulative, and it may omit those that have not changed.

        Gateways send 0 instead of omitting them: after another number, 0 says nothing, unless other input is known, or
        at the end of a reply in which there was nothing.

        A cumulative count does not become less, so of two that disagree one is wrong. The larger one is kept, and the
        usage is an estimate until a report is no less: to believe the smaller one could let what was charged pass a
        budget. All input is compared as one number, as a later report may say that more of it was cached.
        `ends`: its number of output tokens is not provisional.
        """
        if not isinstance(usage, dict):
            return
        counts = {name: value for name in COUNTS if is_count(value := usage.get(name))}
        self._unreadable -= counts.keys()
        self._unreadable |= {name for name in COUNTS if name not in counts and usage.get(name) is not None}
        read = any(counts.get(name) for name in INPUTS)
        # In which nothing came of the output that its start provided for.
        empty = ends and not self._received and not self._final
        reported = dict.fromkeys(counts, 0) | self._reported
        reported |= {name: value for name, value in counts.items() if value or (empty if name == OUTPUT else read)}
        if read:
            self._keep_larger(INPUT, INPUTS, reported, self._reported, ends=ends)
        if counts.get(OUTPUT):
            self._keep_larger(OUTPUT, {OUTPUT}, reported, self._reported, ends=ends)
        self._reported = reported
        if ends and usage.get(OUTPUT) is not None:
            # None at all is not the number of what was received.
            known = OUTPUT not in self._unreadable
            self._final = known and (usage[OUTPUT] > 0 or self._final or not self._received)
        self._report_summaries(usage.get("iterations"), ends=ends)

    def _keep_larger(
        self, kind: str, names: Collection[str], reported: dict[str, int], known: dict[str, int], *, ends: bool
    ) -> None:
        """Puts the `known` counts back if, together, they were more than those `reported`.

        Those of a start are provisional, so they need not agree.
        """
        before, now = (sum(counts.get(name, 0) for name in names) for counts in (known, reported))
        if now < before:
            self._shrunk |= {kind} if ends else set()
            reported |= {name: count for name, count in known.items() if name in names}
        else:
            self._shrunk.discard(kind)

    def _report_summaries(self, iterations: Any, *, ends: bool) -> None:
        """Reads the only place that reports the usage of compaction. It does not become less either."""
        if not isinstance(iterations, list):
            return
        counts = [
            {name: entry.get(name) or 0 for name in COUNTS}
            for entry in iterations
            if isinstance(entry, dict) and entry.get("type") == "compaction"
        ]
        if counts and all(is_count(value) for entry in counts for value in entry.values()):
            summaries = {name: sum(entry[name] for entry in counts) for name in COUNTS}
            for kind, names in (("summaries' input", INPUTS), ("summaries' output", {OUTPUT})):
                self._keep_larger(kind, names, summaries, self._summaries, ends=ends)
            self._summaries = summaries

    def usage(self, *, hidden: bool) -> ReplyUsage:
        """Returns the usage so far. `hidden`: there is thinking that has not ended."""
        counts = {ours: self._reported.get(name, 0) + self._summaries.get(name, 0) for name, ours in COUNTS.items()}
        usage = Usage(
            input_tokens=counts["input_tokens"],
            output_tokens=counts["output_tokens"],
            cache_read_tokens=counts["cache_read_tokens"],
            cache_write_tokens=counts["cache_write_tokens"],
        )
        # Gateways report 0 where they do not know yet, but no prompt is empty.
        read = not self._unreadable & INPUTS and INPUT in self._reported and any(map(self._reported.get, INPUTS))
        reads = 0 if read else 1
        more = 0
        if not self._final:
            most = self._limit if hidden or self.endless else min(self._received, self._limit)
            more = max(0, most - self._reported.get(OUTPUT, 0))
        if self._summary is not None and not self._summaries:
            reads += 1
            more += min(self._summary or self._limit, self._limit)
        known = self._final and not reads and not self._shrunk
        return ReplyUsage(usage, None if known else usage.output_tokens + more, reads)


def is_count(value: Any) -> TypeGuard[int]:
    """Returns whether a value is a count of tokens. It is stored and priced."""
    return type(value) is int and 0 <= value <= LARGEST_COUNT
