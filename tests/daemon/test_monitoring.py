"""Dashboard and alert rules: they use metrics that exist, and Prometheus takes them."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from support.monitoring_tools import required
from trafficrefinery.daemon.metrics import COUNTED, METRICS, exposed_name

OF_KIND = {"histogram": ("_bucket", "_sum", "_count")}
KNOWN = {exposed_name(metric) + end: metric for metric in METRICS for end in OF_KIND.get(metric.kind, ("",))}
BY_PROMETHEUS = {"job", "instance", "le"}
ALL_COUNTERS = "trafficrefinery_.+_total"
NAME = re.compile(r"\btrafficrefinery_\w+")


@pytest.fixture(scope="module")
def folder(root):
    return root / "systemd" / "monitoring"


@pytest.fixture(scope="module")
def dashboard(folder):
    return json.loads((folder / "dashboard.json").read_text())


@pytest.fixture(scope="module")
def expressions(dashboard):
    return {
        f"{panel['title']}, {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        if ALL_COUNTERS not in target["expr"]
    }


def promtool(*arguments, **options):
    return subprocess.run([required("promtool"), *arguments], capture_output=True, text=True, check=False, **options)


def test_the_dashboard_uses_only_metrics_that_exist(dashboard, expressions):
    variables = [item["query"]["query"] for item in dashboard["templating"]["list"] if item["type"] == "query"]
    for expression in (*expressions.values(), *variables):
        used = NAME.findall(expression)
        assert used, expression
        assert set(used) <= KNOWN.keys(), expression


def test_the_dashboard_shows_every_metric(expressions):
    shown = {KNOWN[name].name for expression in expressions.values() for name in NAME.findall(expression)}
    told_otherwise = {"attributed_packets_total"}  # what is left of all packets
    in_the_table = {metric.name for metric in METRICS if re.fullmatch(ALL_COUNTERS, exposed_name(metric))}
    assert {metric.name for metric in METRICS} - shown - in_the_table <= told_otherwise


def test_a_counter_that_is_new_is_on_the_dashboard_by_itself(dashboard):
    (table,) = (panel for panel in dashboard["panels"] for target in panel.get("targets", [])
                if f'{{__name__=~"{ALL_COUNTERS}"' in target["expr"])  # fmt: skip
    assert table["type"] == "table"
    assert all(re.fullmatch(ALL_COUNTERS, exposed_name(metric)) for metric in COUNTED)


def test_the_dashboard_groups_only_by_labels_that_the_metrics_have(expressions):
    for title, expression in expressions.items():
        has = {label for name in NAME.findall(expression) for label in KNOWN[name].labels} | BY_PROMETHEUS
        for by in re.findall(r"\bby \(([^)]*)\)", expression):
            assert set(re.split(r",\s*", by)) <= has, title


def test_what_a_legend_names_is_left_by_its_expression(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            kept = re.findall(r"\bby \(([^)]*)\)", target["expr"])
            grouped = set(re.split(r",\s*", kept[0])) if kept else BY_PROMETHEUS
            assert named <= grouped, (panel["title"], target["expr"])


def test_every_panel_asks_the_data_source_that_was_chosen(dashboard):
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    for panel in dashboard["panels"]:
        if panel["type"] != "row":
            assert panel["datasource"] == chosen
            assert all(target["datasource"] == chosen for target in panel["targets"])
    assert [item["name"] for item in dashboard["templating"]["list"]] == ["datasource", "job", "instance"]


def test_panels_have_their_own_ids_and_do_not_overlap(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in panels)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


def test_prometheus_can_read_every_expression_of_the_dashboard(expressions, tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "1m")}
        for number, expression in enumerate(expressions.values())
    ]
    path = tmp_path / "rules.yml"  # JSON is YAML
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    checked = promtool("check", "rules", str(path))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_alerts_use_only_metrics_that_exist(folder):
    text = (folder / "alerts.yml").read_text()
    assert set(NAME.findall(text)) <= KNOWN.keys()


def test_promtool_takes_the_alert_rules(folder):
    checked = promtool("check", "rules", "--lint-fatal", str(folder / "alerts.yml"))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_alerts_fire_when_they_should_and_not_when_all_is_well(folder):
    tested = promtool("test", "rules", "alerts.test.yml", cwd=folder)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_every_alert_is_seen_to_fire_and_to_be_silent(folder):
    alerts = set(re.findall(r"alert: (\w+)", (folder / "alerts.yml").read_text()))
    tests = (folder / "alerts.test.yml").read_text()
    silent = set(re.findall(r"alertname: (\w+), eval_time: \w+, exp_alerts: \[\]", tests))
    firing = set(re.findall(r"alertname: (\w+)\n +eval_time: \w+\n +exp_alerts:\n +- exp_labels", tests))
    assert silent == firing == alerts


def test_a_wrong_threshold_would_be_noticed(folder, tmp_path):
    rules = (folder / "alerts.yml").read_text()
    for right, wrong in (("for: 2m", "for: 60m"), ("sink_failing == 1", "sink_failing == 0"), ("< 0.05", "< 0.02")):
        assert right in rules
        (tmp_path / "alerts.yml").write_text(rules.replace(right, wrong))
        (tmp_path / "alerts.test.yml").write_text((folder / "alerts.test.yml").read_text())
        assert promtool("test", "rules", "alerts.test.yml", cwd=tmp_path).returncode != 0, wrong
