"""Vaults, as operators see them. Triggers of the schema count what is in them, so that no statement visits it."""

from metamorphd.clock import day_of, next_month
from metamorphd.models.page import Page
from metamorphd.models.vault import Budget, VaultState, VaultStatus
from metamorphd.models.vault_stats import Spending, VaultCounts, VaultStats, VaultSummary
from metamorphd.store.budgets import GET_SPENT, get_vault_budgets
from metamorphd.store.changes import get_revision
from metamorphd.store.database import Row, SqlValue, SystemTransaction, Transaction
from metamorphd.store.paging import page_of
from metamorphd.store.storage import get_storage
from metamorphd.store.vault_states import get_vault_status
from metamorphd.store.vaults import get_vault, get_vault_limits

# The vaults that were used, and those for which an operator has set something before.
_ALL = """
    SELECT vault_id FROM (SELECT vault_id FROM vaults WHERE vault_id > :after ORDER BY vault_id LIMIT :page_size + 1)
    UNION
    SELECT vault_id FROM
        (SELECT vault_id FROM vault_limits WHERE vault_id > :after ORDER BY vault_id LIMIT :page_size + 1)
    UNION
    SELECT vault_id FROM
        (SELECT vault_id FROM vault_states WHERE vault_id > :after ORDER BY vault_id LIMIT :page_size + 1)"""
_IN_STATE = """
    SELECT vault_id FROM vault_states WHERE state = :state AND vault_id > :after"""


def _page(named: str) -> str:
    """Returns a statement for a page of vaults, which ends before its first one beyond :max_size bytes.

    `candidate_count` counts what would follow.
    """
    return f"""
WITH named AS ({named}
    ORDER BY vault_id
    LIMIT :page_size + 1
), spent AS (
    SELECT named.vault_id AS id, SUM(CASE WHEN day = :today THEN tokens ELSE 0 END) AS tokens_per_day,
        SUM(tokens) AS tokens_per_month,
        SUM(CASE WHEN day = :today THEN cost_usd_nanos ELSE 0 END) AS cost_usd_nanos_per_day,
        SUM(cost_usd_nanos) AS cost_usd_nanos_per_month
    FROM named CROSS JOIN (
        SELECT vault_id, day, input_tokens + output_tokens + cache_read_tokens + cache_write_tokens AS tokens,
            cost_usd_nanos
        FROM daily_usage) AS used
    WHERE used.vault_id = named.vault_id AND day >= :month AND day < :next_month
    GROUP BY named.vault_id
), candidates AS (
    SELECT named.vault_id, display_name, create_time, stored_bytes, state, reason, actor,
        vault_states.change_time AS state_time, spent.tokens_per_day, spent.tokens_per_month,
        spent.cost_usd_nanos_per_day, spent.cost_usd_nanos_per_month,
        (SELECT change_time FROM changes WHERE changes.vault_id = named.vault_id
         ORDER BY revision DESC LIMIT 1) AS last_activity_time,
        COALESCE(octet_length(display_name), 0) + COALESCE(octet_length(reason), 0)
        + COALESCE(octet_length(actor), 0) + 512 AS size
    FROM named LEFT JOIN vaults ON vaults.vault_id = named.vault_id
    LEFT JOIN vault_states ON vault_states.vault_id = named.vault_id
    LEFT JOIN spent ON spent.id = named.vault_id
), page AS (
    SELECT *, SUM(size) OVER (ORDER BY vault_id) - size AS before, COUNT(*) OVER () AS candidate_count FROM candidates
)
SELECT vault_id, display_name, create_time, stored_bytes, state, reason, actor, state_time, tokens_per_day,
    tokens_per_month, cost_usd_nanos_per_day, cost_usd_nanos_per_month, last_activity_time, candidate_count
FROM page
WHERE before < :max_size
ORDER BY vault_id
"""


LIST_VAULTS, LIST_VAULTS_IN_STATE = _page(_ALL), _page(_IN_STATE)
GET_COUNTS = """
SELECT stored_bytes, session_count, message_count, turn_count, attachment_count, secret_count, memory_count,
    (SELECT COUNT(*) FROM turns WHERE turns.vault_id = :vault_id AND status = 'RUNNING') AS running_turns
FROM vaults WHERE vault_id = :vault_id
"""
GET_LAST_ACTIVITY = "SELECT change_time FROM changes WHERE vault_id = :vault_id ORDER BY revision DESC LIMIT 1"


async def list_vaults(
    tx: SystemTransaction,
    *,
    state: VaultState | None,
    now: int,
    after: tuple[int | str, ...] | None,
    page_size: int,
    max_size: int,
) -> Page[VaultSummary]:
    """Returns a page of vaults by ID: all, or those suspended or deleted. `after` is (vault ID).

    Pages are cut as those of `list_sessions`.
    """
    page = {"after": after[0] if after else "", "page_size": page_size, "max_size": max_size, **_days(now)}
    if state is None:
        rows = await tx.all(LIST_VAULTS, **page)
    else:
        rows = await tx.all(LIST_VAULTS_IN_STATE, state=state, **page)
    return page_of(rows, page_size, item=_summary, after=lambda row: (row.vault_id,))


def _days(now: int) -> dict[str, SqlValue]:
    today = day_of(now)
    return {
        "today": today.isoformat(),
        "month": today.replace(day=1).isoformat(),
        "next_month": next_month(today).isoformat(),
    }


def _summary(row: Row) -> VaultSummary:
    status = VaultStatus(row.vault_id)
    if row.state is not None:
        status = VaultStatus(row.vault_id, VaultState(row.state), row.reason, row.actor, row.state_time)
    return VaultSummary(
        status=status,
        display_name=row.display_name or "",
        create_time=row.create_time,
        last_activity_time=row.last_activity_time,
        stored_bytes=row.stored_bytes or 0,
        today=Spending(row.tokens_per_day or 0, row.cost_usd_nanos_per_day or 0),
        this_month=Spending(row.tokens_per_month or 0, row.cost_usd_nanos_per_month or 0),
    )


async def get_vault_stats(tx: Transaction, *, now: int, default_limit: int) -> VaultStats:
    """Returns what the operator sees of the vault, which need not have been used yet."""
    vault = await get_vault(tx)
    counted = await tx.one(GET_COUNTS)
    active = await tx.one(GET_LAST_ACTIVITY)
    spent = await tx.one(GET_SPENT, **_days(now))
    return VaultStats(
        summary=VaultSummary(
            status=await get_vault_status(tx),
            display_name=vault.display_name if vault else "",
            create_time=vault.create_time if vault else None,
            last_activity_time=active.change_time if active else None,
            stored_bytes=counted.stored_bytes if counted else 0,
            today=Spending(spent.tokens_per_day, spent.cost_usd_nanos_per_day) if spent else Spending(),
            this_month=Spending(spent.tokens_per_month, spent.cost_usd_nanos_per_month) if spent else Spending(),
        ),
        counts=VaultCounts(
            sessions=counted.session_count,
            messages=counted.message_count,
            turns=counted.turn_count,
            attachments=counted.attachment_count,
            secrets=counted.secret_count,
            memories=counted.memory_count,
        )
        if counted
        else VaultCounts(),
        running_turns=counted.running_turns if counted else 0,
        storage=await get_storage(tx, default_limit=default_limit),
        budget=vault.budget if vault else Budget(),
        limits=await get_vault_limits(tx),
        budgets=tuple(await get_vault_budgets(tx, now=now)),
        revision=await get_revision(tx),
    )
