"""Converts what operators see of vaults to protobuf."""

from metamorph_client.admin.v1 import admin_service_pb2, vault_pb2

from metamorphd.models.vault import VaultState
from metamorphd.models.vault_stats import Spending, VaultStats, VaultSummary
from metamorphd.services.convert.time import timestamp
from metamorphd.services.convert.vault import (
    budget_status_to_proto,
    budget_to_proto,
    limits_to_proto,
    storage_to_proto,
)
from metamorphd.services.convert.vault_status import STATES, vault_status_to_proto


def vault_state_from_proto(number: "vault_pb2.VaultState.ValueType") -> VaultState | None:
    """Returns the state that a request names, or None for the unspecified one."""
    return next((state for state, value in STATES.items() if value == number), None)


def vault_summary_to_proto(summary: VaultSummary) -> vault_pb2.VaultSummary:
    """Returns a vault of a list."""
    return vault_pb2.VaultSummary(
        status=vault_status_to_proto(summary.status),
        display_name=summary.display_name,
        create_time=timestamp(summary.create_time),
        last_activity_time=timestamp(summary.last_activity_time),
        stored_bytes=summary.stored_bytes,
        today=_spending(summary.today),
        this_month=_spending(summary.this_month),
    )


def _spending(spending: Spending) -> vault_pb2.Spending:
    return vault_pb2.Spending(tokens=spending.tokens, cost_usd_nanos=spending.cost_usd_nanos)


def vault_stats_to_proto(stats: VaultStats) -> admin_service_pb2.VaultStats:
    """Returns a vault in detail."""
    return admin_service_pb2.VaultStats(
        summary=vault_summary_to_proto(stats.summary),
        session_count=stats.counts.sessions,
        message_count=stats.counts.messages,
        turn_count=stats.counts.turns,
        running_turn_count=stats.running_turns,
        attachment_count=stats.counts.attachments,
        secret_count=stats.counts.secrets,
        memory_count=stats.counts.memories,
        storage=storage_to_proto(stats.storage),
        budgets=map(budget_status_to_proto, stats.budgets),
        budget=budget_to_proto(stats.budget),
        limits=limits_to_proto(stats.limits),
        revision=stats.revision,
    )
