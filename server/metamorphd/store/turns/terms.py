"""Server-wide limits on turns, and who runs them."""

from dataclasses import dataclass, replace

from metamorphd.catalog import Catalog
from metamorphd.models.generation import EffectiveOptions, Thinking


@dataclass(frozen=True, slots=True)
class Terms:
    """Server-wide limits on turns, and the model of those that state none.

    A call that reads more than `compact_above` tokens is summarized first; 0 means never. `owner` is this server, whose
    turns have a lease of `lease` microseconds. A vault stores at most `storage_limit` bytes,
    unless the operator set another limit; 0 means no limit.
    """

    catalog: Catalog
    default_model: str
    max_output_tokens: int
    max_running_turns: int
    compact_above: int
    owner: str
    lease: int
    storage_limit: int = 0

    def output_tokens(self, options: EffectiveOptions) -> int:
        """Returns the most tokens that a reply may have. `options` name the model."""
        cap = min(self.max_output_tokens, self.catalog.model(options.model).max_output_tokens)
        return min(options.max_output_tokens or cap, cap)

    def summarizes_above(self, options: EffectiveOptions) -> int:
        """Returns the tokens of a call above which it is summarized first, 0 if never. `options` name the model."""
        return self.compact_above if self.catalog.model(options.model).capabilities.summaries else 0

    def stated(self, options: EffectiveOptions) -> EffectiveOptions:
        """Returns options with what holds where they state nothing. They name the model."""
        thinking = options.thinking
        if not thinking.mode and self.catalog.model(options.model).capabilities.thinks_by_default:
            # Said, because some models show their thinking only if asked to.
            thinking = Thinking("adaptive")
        return replace(options, max_output_tokens=self.output_tokens(options), thinking=thinking)
