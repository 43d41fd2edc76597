"""The alert rules and the dashboard, checked by promtool and against the metrics that exist."""

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from scripts.docs.metrics import registry
from tests.docs.pages import anchors
from tests.support.paths import ROOT
from tests.support.programs import require
from tests.support.scraping import scrape
from tests.support.serving import Serving

MONITORING = ROOT / "monitoring"
RUNBOOKS = ROOT / "docs" / "runbooks.md"
DASHBOARD = MONITORING / "dashboard.json"
PAGES = ["docs/monitoring.md", "docs/runbooks.md", "docs/operating.md", "docs/backup-and-restore.md"]
METRIC = re.compile(r"\b(?:metamorph|process)_[a-z_]*[a-z]\b")
HINT = "apt-get install prometheus"


@dataclass(frozen=True)
class Alert:
    name: str
    severity: str
    summary: str
    runbook: str


def alerts() -> list[Alert]:
    rules = (MONITORING / "alerts.yml").read_text().split("- alert: ")[1:]
    fields = (dict(re.findall(r"^ +(severity|summary|runbook): (.+)$", rule, re.MULTILINE)) for rule in rules)
    return [Alert(rule.partition("\n")[0], **each) for rule, each in zip(rules, fields, strict=True)]


def promtool(*arguments: str, text: str | None = None, cwd: Path = MONITORING) -> None:
    program = require("promtool", hint=HINT)
    ended = subprocess.run([program, *arguments], input=text, cwd=cwd, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def names() -> set[str]:
    """Returns the names that queries may use: those of the metrics, and of the series of histograms."""
    found: set[str] = set()
    for family in registry().collect():
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}.get(family.type, ("",))
        found |= {family.name + suffix for suffix in suffixes}
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def queries() -> list[str]:
    return [target["expr"] for panel in panels() for target in panel["targets"]]


# Values by the minute, for a day and more.
JOB = 'job="metamorph",instance="a"'
GROWS, STAYS = "0+60x1600", "0x1600"
HEALTHY = {
    f"up{{{JOB}}}": "1x1600",
    f"process_start_time_seconds{{{JOB}}}": "5x1600",
    f"process_open_fds{{{JOB}}}": "50x1600",
    f"process_max_fds{{{JOB}}}": "1000x1600",
    f'metamorph_calls_total{{{JOB},method="/a/GetSession",code="OK"}}': GROWS,
    f'metamorph_calls_total{{{JOB},method="/a/GetSession",code="NOT_FOUND"}}': GROWS,
    f'metamorph_calls_total{{{JOB},method="/a/GetSession",code="UNAVAILABLE"}}': "0+1x1600",
    f'metamorph_call_duration_seconds_bucket{{{JOB},method="/a/GetSession",le="0.01"}}': GROWS,
    f'metamorph_call_duration_seconds_bucket{{{JOB},method="/a/GetSession",le="+Inf"}}': GROWS,
    f'metamorph_call_duration_seconds_bucket{{{JOB},method="/a/SendMessage",le="10.0"}}': STAYS,
    f'metamorph_call_duration_seconds_bucket{{{JOB},method="/a/SendMessage",le="60.0"}}': "0+999x1600",
    f'metamorph_call_duration_seconds_bucket{{{JOB},method="/a/SendMessage",le="+Inf"}}': "0+999x1600",
    f'metamorph_refusals_total{{{JOB},reason="TOKEN_INVALID"}}': "0+1x1600",
    f'metamorph_refusals_total{{{JOB},reason="BUDGET_EXCEEDED"}}': STAYS,
    f'metamorph_refusals_total{{{JOB},reason="STORAGE_FULL"}}': STAYS,
    f'metamorph_turns_total{{{JOB},status="COMPLETED",reason=""}}': GROWS,
    f'metamorph_turns_total{{{JOB},status="FAILED",reason="UPSTREAM_OVERLOADED"}}': "0+1x1600",
    f'metamorph_first_token_seconds_bucket{{{JOB},model="m",le="1.0"}}': GROWS,
    f'metamorph_first_token_seconds_bucket{{{JOB},model="m",le="+Inf"}}': GROWS,
    f'metamorph_upstream_calls_total{{{JOB},operation="generate",model="m",result="OK"}}': GROWS,
    f'metamorph_upstream_calls_total{{{JOB},operation="generate",model="m",result="ABANDONED"}}': GROWS,
    f'metamorph_upstream_calls_total{{{JOB},operation="generate",model="m",result="UPSTREAM_STALLED"}}': "0+1x1600",
    f'metamorph_cost_usd_total{{{JOB},model="m"}}': "0+1x1600",
    f'metamorph_write_wait_seconds_bucket{{{JOB},le="0.01"}}': GROWS,
    f'metamorph_write_wait_seconds_bucket{{{JOB},le="+Inf"}}': GROWS,
    f'metamorph_read_wait_seconds_bucket{{{JOB},le="0.01"}}': GROWS,
    f'metamorph_read_wait_seconds_bucket{{{JOB},le="+Inf"}}': GROWS,
    f'metamorph_commit_duration_seconds_bucket{{{JOB},le="0.01"}}': GROWS,
    f'metamorph_commit_duration_seconds_bucket{{{JOB},le="+Inf"}}': GROWS,
    f"metamorph_wal_bytes{{{JOB}}}": "12000000x1600",
    f"metamorph_disk_free_bytes{{{JOB}}}": "500000000x1600",
    f"metamorph_volume_bytes{{{JOB}}}": "1000000000x1600",
    f"metamorph_check_faults{{{JOB}}}": STAYS,
    f"metamorph_check_complete_timestamp_seconds{{{JOB}}}": "0+60x1600",
    f"metamorph_backup_timestamp_seconds{{{JOB}}}": "0+60x1600",
    f"metamorph_backup_verified_timestamp_seconds{{{JOB}}}": "0+60x1600",
    f"metamorph_backup_failed{{{JOB}}}": STAYS,
    f"metamorph_replica_age_seconds{{{JOB}}}": "30x1600",
    f"metamorph_erasure_oldest_seconds{{{JOB}}}": "100x1600",
    f"metamorph_audit_unstamped_seconds{{{JOB}}}": "600x1600",
    f"metamorph_log_lines_dropped_total{{{JOB}}}": STAYS,
}
BY_JOB = {"job": "metamorph"}
BY_INSTANCE = BY_JOB | {"instance": "a"}


def slow(metric: str, labels: str = "") -> dict[str, str]:
    """Returns a histogram all of whose values are above its finite bound."""
    name = f"metamorph_{metric}_seconds_bucket{{{JOB}{labels}"
    return {
        f'{name},le="0.01"}}': STAYS,
        f'{name},le="60.0"}}': STAYS,
        f'{name},le="600.0"}}': GROWS,
        f'{name},le="+Inf"}}': GROWS,
    }


# By alert, what differs from the healthy server, and the labels that it fires with, besides its severity.
ILL: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "MetamorphDown": ({f"up{{{JOB}}}": "1x1500 0x100"}, BY_INSTANCE),
    "MetamorphRestarts": ({f"process_start_time_seconds{{{JOB}}}": "5+1x1600"}, BY_INSTANCE),
    "MetamorphInternalErrors": (
        {f'metamorph_calls_total{{{JOB},method="/a/GetSession",code="INTERNAL"}}': "0+2x1600"},
        BY_JOB,
    ),
    "MetamorphUnavailable": (
        {f'metamorph_calls_total{{{JOB},method="/a/GetSession",code="UNAVAILABLE"}}': "0+10x1600"},
        BY_JOB,
    ),
    "MetamorphSlow": (slow("call_duration", ',method="/a/ListSessions"'), BY_JOB),
    "MetamorphTokensRefused": ({f'metamorph_refusals_total{{{JOB},reason="TOKEN_EXPIRED"}}': "0+90x1600"}, BY_JOB),
    "MetamorphBudgetRefusals": (
        {f'metamorph_refusals_total{{{JOB},reason="BUDGET_EXCEEDED"}}': "0x1555 1x60"},
        BY_INSTANCE | {"reason": "BUDGET_EXCEEDED"},
    ),
    "MetamorphTurnsFail": (
        {f'metamorph_turns_total{{{JOB},status="FAILED",reason="INTERNAL"}}': "0+20x1600"},
        BY_JOB,
    ),
    "MetamorphFirstTokenLate": (slow("first_token", ',model="slow"'), BY_JOB),
    "MetamorphUpstreamFails": (
        {f'metamorph_upstream_calls_total{{{JOB},operation="generate",model="m",result="UPSTREAM_FAILED"}}': GROWS},
        BY_JOB,
    ),
    "MetamorphProviderAccount": (
        # One call, whose series did not exist before it.
        {
            f'metamorph_upstream_calls_total{{{JOB},operation="generate",model="m",result="UPSTREAM_SPEND_LIMIT"}}': (
                "_x1555 1x60"
            )
        },
        BY_JOB,
    ),
    "MetamorphCostRises": ({f'metamorph_cost_usd_total{{{JOB},model="m"}}': "0+1x1440 1440+90x160"}, BY_JOB),
    "MetamorphWritesWait": (slow("write_wait"), BY_JOB),
    "MetamorphReadsWait": (slow("read_wait"), BY_JOB),
    "MetamorphCommitsSlow": (slow("commit_duration"), BY_JOB),
    "MetamorphLogLarge": ({f"metamorph_wal_bytes{{{JOB}}}": "70000000x1600"}, BY_INSTANCE),
    "MetamorphDiskLow": ({f"metamorph_disk_free_bytes{{{JOB}}}": "140000000x1600"}, BY_INSTANCE),
    "MetamorphDiskFull": (
        {f'metamorph_refusals_total{{{JOB},reason="STORAGE_FULL"}}': "0+1x1600"},
        BY_INSTANCE | {"reason": "STORAGE_FULL"},
    ),
    "MetamorphDamaged": ({f"metamorph_check_faults{{{JOB}}}": "0x500 1x1100"}, BY_INSTANCE),
    "MetamorphCheckLate": ({f"metamorph_check_complete_timestamp_seconds{{{JOB}}}": "-250000x1600"}, BY_INSTANCE),
    "MetamorphBackupOld": ({f"metamorph_backup_timestamp_seconds{{{JOB}}}": "-130000x1600"}, BY_INSTANCE),
    "MetamorphBackupUnverified": (
        {f"metamorph_backup_verified_timestamp_seconds{{{JOB}}}": "-170000x1600"},
        BY_INSTANCE,
    ),
    "MetamorphBackupFails": ({f"metamorph_backup_failed{{{JOB}}}": "1x1600"}, BY_INSTANCE),
    "MetamorphReplicaOld": ({f"metamorph_replica_age_seconds{{{JOB}}}": "30x1500 0+60x100"}, BY_INSTANCE),
    "MetamorphErasureLate": ({f"metamorph_erasure_oldest_seconds{{{JOB}}}": "0+60x1600"}, BY_INSTANCE),
    "MetamorphTimestampsLate": ({f"metamorph_audit_unstamped_seconds{{{JOB}}}": "0+60x1600"}, BY_INSTANCE),
    "MetamorphDescriptors": ({f"process_open_fds{{{JOB}}}": "900x1600"}, BY_INSTANCE),
    "MetamorphLogLinesDropped": ({f"metamorph_log_lines_dropped_total{{{JOB}}}": "0x1555 7x60"}, BY_INSTANCE),
}
# A multiple of the interval, which is long because each evaluation takes a while.
AT, INTERVAL = "1560m", "30m"


def case(changes: dict[str, str], firing: dict[str, list[dict[str, str]]]) -> dict[str, Any]:
    """Returns a promtool test: the alerts that fire for a server which is healthy but for `changes`."""
    series = [{"series": name, "values": values} for name, values in (HEALTHY | changes).items()]
    expected = []
    for alert in alerts():
        annotations = {"summary": alert.summary, "runbook": alert.runbook}
        fires = [
            {"exp_labels": labels | {"severity": alert.severity}, "exp_annotations": annotations}
            for labels in firing.get(alert.name, [])
        ]
        expected.append({"eval_time": AT, "alertname": alert.name, "exp_alerts": fires})
    return {"interval": "1m", "input_series": series, "alert_rule_test": expected}


def check(tmp_path: Path, *cases: dict[str, Any]) -> None:
    # JSON is YAML.
    (tmp_path / "test.yml").write_text(
        json.dumps({"rule_files": [str(MONITORING / "alerts.yml")], "evaluation_interval": INTERVAL, "tests": cases})
    )
    promtool("test", "rules", "test.yml", cwd=tmp_path)


def test_the_rules_and_the_configuration_are_valid() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "--syntax-only", "prometheus.yml")


def test_no_alert_fires_for_a_healthy_server(tmp_path: Path) -> None:
    check(tmp_path, case({}, {}))


@pytest.mark.parametrize("alert", [alert.name for alert in alerts()])
def test_each_alert_fires_alone(tmp_path: Path, alert: str) -> None:
    changes, labels = ILL[alert]
    check(tmp_path, case(changes, {alert: [labels]}))


def test_each_alert_has_a_runbook_and_each_runbook_an_alert() -> None:
    assert [alert.runbook for alert in alerts()] == [f"docs/runbooks.md#{alert.name.lower()}" for alert in alerts()]
    named = {alert.name.lower() for alert in alerts()}
    assert {anchor for anchor in anchors(RUNBOOKS) if anchor.startswith("metamorph")} == named


def test_the_rules_the_dashboard_and_the_pages_name_only_metrics_that_exist() -> None:
    known = names()
    series = {page: (ROOT / page).read_text() for page in PAGES}
    series |= {"alerts": (MONITORING / "alerts.yml").read_text(), "dashboard": "\n".join(queries())}
    families = {family.name for family in registry().collect()}
    unknown = {place: sorted(set(METRIC.findall(text)) - known - families) for place, text in series.items()}
    assert {place: found for place, found in unknown.items() if found} == {}


def test_every_metric_is_on_the_dashboard() -> None:
    shown = set(METRIC.findall("\n".join(queries())))
    missing = [
        family.name for family in registry().collect() if not any(name.startswith(family.name) for name in shown)
    ]
    assert missing == []


def test_promtool_accepts_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__\w+", "5m", query).replace("$job", "metamorph")}
        for number, query in enumerate(queries())
    ]
    (tmp_path / "rules.yml").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", "rules.yml", cwd=tmp_path)


def test_the_panels_have_titles_units_and_places_of_their_own() -> None:
    assert all(panel["title"] and panel["description"] for panel in panels())
    assert all(panel["fieldConfig"]["defaults"]["unit"] for panel in panels())
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels()]
    assert len(set(places)) == len(places)
    ids = [panel["id"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len(set(ids)) == len(ids)


async def test_promtool_has_nothing_against_the_page_of_metrics(running: Serving) -> None:
    promtool("check", "metrics", text=(await scrape(running)).text)
