"""The files of examples/deploy: what can be checked without a cluster, and every query at a real Prometheus."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote, urlsplit

import kubernetes_validate  # pyright: ignore[reportMissingTypeStubs]
import pytest
import yaml
from typer.main import get_command

from durasleep import Durasleep
from durasleep.cli.app import app as commands
from durasleep.devserver import DevServer
from durasleep.observe.namespace import scale
from durasleep.query.due_soon import DueSoon
from durasleep.query.overview import Overview
from harness.servers import free_port
from tests.cli.terminal import Terminal
from tests.observe.asking import answer
from tests.observe.test_exporter import GAUGES
from tests.observe.test_metrics import NAMES
from tests.service.workers import eventually

DEPLOY = Path(__file__).parents[2] / "examples" / "deploy"
KUBERNETES = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
PAGES = [DEPLOY.parents[1] / "docs" / name for name in ("operate/metrics.md", "how-to/deploying.md")]
RULES = DEPLOY / "prometheus" / "rules.yml"
DASHBOARD = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
VERSIONS = ("1.30", "1.34")
"""Of Kubernetes: an old one that clouds still run, and a new one."""
HISTOGRAMS = {name for name in NAMES if name.endswith("_seconds")}
SERIES = {
    *GAUGES,
    "durasleep_slots",
    *(f"{name}_total" for name in NAMES - HISTOGRAMS - {"durasleep_slots"}),
    *(f"{name}_{part}" for name in HISTOGRAMS for part in ("bucket", "sum", "count")),
}
"""The names of all series that workers and exporters have."""


def documents(path: Path) -> list[dict[str, Any]]:
    return [*yaml.safe_load_all(path.read_text())]


def all_documents() -> list[dict[str, Any]]:
    return [one for path in KUBERNETES for one in documents(path)]


def containers() -> Iterator[dict[str, Any]]:
    for one in all_documents():
        if one["kind"] == "Deployment":
            yield from one["spec"]["template"]["spec"]["containers"]


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text())["groups"]
    return group["rules"]


def panel_queries() -> list[str]:
    """The queries of the dashboard as Grafana sends them."""
    found = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [expr.replace("$group", ".*").replace("$__rate_interval", "10s") for expr in found]


# -- manifests


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.stem)
def test_the_manifests_are_those_of_kubernetes(path: Path, version: str) -> None:
    for document in documents(path):
        if document["apiVersion"] != "keda.sh/v1alpha1":  # its schema is no part of Kubernetes: see below
            kubernetes_validate.validate(document, version, strict=True)


def test_the_manifests_fit_together() -> None:
    named = {(one["kind"], one["metadata"]["name"]): one for one in all_documents()}
    for (kind, _), one in named.items():
        if "scaleTargetRef" in one.get("spec", {}):
            assert ("Deployment", one["spec"]["scaleTargetRef"]["name"]) in named, kind
        if kind == "Deployment":
            labels = one["spec"]["template"]["metadata"]["labels"]
            assert one["spec"]["selector"]["matchLabels"].items() <= labels.items()
    service = named["Service", "durasleep-exporter"]
    exporter = named["Deployment", "durasleep-exporter"]["spec"]["template"]
    assert service["spec"]["selector"].items() <= exporter["metadata"]["labels"].items()
    for container in containers():
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] in ports
        [secret] = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "secretKeyRef" in one["valueFrom"]]
        assert secret["key"] in named["Secret", secret["name"]]["stringData"]


def test_the_scaled_object_has_the_shape_that_keda_reads() -> None:
    """As KEDA's own definition says it: these fields, and all metadata of a trigger are text."""
    [scaled] = documents(DEPLOY / "kubernetes" / "scaledobject.yaml")
    assert (scaled["apiVersion"], scaled["kind"]) == ("keda.sh/v1alpha1", "ScaledObject")
    spec = scaled["spec"]
    known = {"minReplicaCount", "maxReplicaCount", "pollingInterval", "cooldownPeriod"}
    assert spec.keys() == {*known, "scaleTargetRef", "fallback", "triggers"}
    assert all(isinstance(spec[name], int) for name in known)
    assert spec["minReplicaCount"] < spec["maxReplicaCount"]
    assert spec["pollingInterval"] < 30, "less than what is looked ahead"
    assert spec["fallback"].keys() == {"failureThreshold", "replicas"}
    [trigger] = spec["triggers"]
    assert trigger["type"] == "metrics-api"
    metadata = trigger["metadata"]
    assert metadata.keys() <= {"url", "format", "valueLocation", "targetValue", "activationTargetValue", "authMode"}
    assert all(isinstance(value, str) for value in metadata.values())
    assert float(metadata["targetValue"]) > 0
    url = urlsplit(str(metadata["url"]))
    [service] = [one for one in all_documents() if one["kind"] == "Service"]
    assert url.hostname == service["metadata"]["name"]
    assert url.port in [port["port"] for port in service["spec"]["ports"]]
    group = url.path.removeprefix("/scale/")
    nothing = Overview(0, [], [], 0, 0, 0, 0, 0, 0, None, 0.0, 0, None, 0, False, [], True)
    body = json.loads(scale(nothing, DueSoon({}, 0), group).body)
    assert body[metadata["valueLocation"]] == 0
    assert isinstance(body[metadata["valueLocation"]], int)


def commands_of(path: Path) -> Iterator[list[str]]:
    """The command lines of durasleep in a file."""
    text = path.read_text()
    for found in re.findall(r'\[("durasleep",[^\]]*)\]', text):
        yield list(cast("tuple[str, ...]", ast.literal_eval(f"({found},)")))
    for found in re.findall(r"^ExecStart=(\S*durasleep) (.*)$", text, re.MULTILINE):
        yield ["durasleep", *found[1].split()]


def commands_of_page(path: Path) -> Iterator[list[str]]:
    """The same in the code of a page."""
    for found in re.findall(r"^durasleep (.*)$", path.read_text(), re.MULTILINE):
        yield ["durasleep", *shlex.split(found, comments=True)]


def test_the_commands_in_files_and_pages_are_commands() -> None:
    known: dict[str, Any] = cast("Any", get_command(commands)).commands
    files = [path for path in sorted(DEPLOY.rglob("*")) if path.is_file() and path.suffix != ".pyc"]
    found = [line for path in files for line in commands_of(path)]
    assert len(found) == 7
    found += [line for path in PAGES for line in commands_of_page(path)]
    assert len(found) == 10
    for _, command, *words in found:
        options = {name for parameter in known[command].params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, words


def test_the_image_runs_as_nobody_special_under_tini() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert "USER 10001" in lines
    assert 'ENTRYPOINT ["tini", "--"]' in lines
    assert lines.index("COPY requirements.txt /") < lines.index("COPY . ."), "code may change without its packages"
    assert lines.index("USER 10001") > lines.index("COPY . ."), "it cannot change its code"
    for container in containers():
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    for one in all_documents():
        if one["kind"] == "Deployment":
            assert one["spec"]["template"]["spec"]["securityContext"]["runAsUser"] == 10001


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
@pytest.mark.parametrize("name", ["durasleep-worker.service", "durasleep-gateway.service"])
def test_the_unit_is_one_of_systemd(tmp_path: Path, name: str) -> None:
    text = (DEPLOY / name).read_text()
    program = tmp_path / "durasleep"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    unit = tmp_path / name
    unit.write_text(re.sub(r"^ExecStart=\S+", f"ExecStart={program}", text, flags=re.MULTILINE))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if unit.name in line] == []


# -- metrics


def names_in(expr: str) -> set[str]:
    return set(re.findall(r"\bdurasleep_[a-z_]+", re.sub(r'"[^"]*"', "", expr)))


def test_every_metric_in_the_rules_and_the_dashboard_exists() -> None:
    queries = [*panel_queries(), *[rule["expr"] for rule in rules()]]
    assert len(queries) > 30
    assert {name for expr in queries for name in names_in(expr)} <= SERIES
    unused = SERIES - {name for expr in panel_queries() for name in names_in(expr)}
    assert {name for name in unused if not name.endswith(("_sum", "_count"))} == set(), "the dashboard shows all"


def test_the_page_lists_all_metrics_and_its_code_runs() -> None:
    text = PAGES[0].read_text()
    listed = {name.removesuffix("_total") for name in re.findall(r"^\| `(durasleep_\w+)` \|", text, re.MULTILINE)}
    assert listed == NAMES | GAUGES
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(code, {})
    assert len(rules()) == 12
    assert len([rule for rule in rules() if rule["labels"]["severity"] == "page"]) == 4


def test_the_dashboard_is_laid_out_without_overlaps() -> None:
    taken: set[tuple[int, int]] = set()
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, panel["title"]
        taken |= cells
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}


needs_prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="prometheus is not installed here (Debian: apt-get install prometheus)"
)


@needs_prometheus
def test_prometheus_accepts_the_rules_and_the_configuration() -> None:
    for what, path in (("rules", RULES), ("config", DEPLOY / "prometheus" / "prometheus.yml")):
        done = subprocess.run(["promtool", "check", what, path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


ALERTS: tuple[tuple[str, str, dict[str, str], dict[str, str] | None], ...] = (
    ("DurasleepNoWorkers", "10m", {'durasleep_queued{group="g",priority="3"}': "5x20"}, {"group": "g"}),
    (
        "DurasleepNoWorkers",
        "10m",
        {'durasleep_queued{group="g",priority="3"}': "5x20", 'durasleep_workers{group="g"}': "0x20"},
        {"group": "g"},
    ),
    (
        "DurasleepNoWorkers",
        "10m",
        {'durasleep_queued{group="g",priority="3"}': "5x20", 'durasleep_workers{group="g"}': "1x20"},
        None,
    ),
    ("DurasleepTimersOverdue", "5m", {"durasleep_overdue_seconds": "0+60x10"}, {}),
    ("DurasleepExporterDown", "6m", {'up{job="durasleep-exporter"}': "0x20"}, {}),
    ("DurasleepExporterDown", "6m", {'up{job="durasleep-exporter"}': "1x20"}, None),
    (
        "DurasleepManyFail",
        "30m",
        {
            'durasleep_executions_ended_total{function="f",outcome="resolved"}': "0+9x30",
            'durasleep_executions_ended_total{function="f",outcome="rejected"}': "0+1x30",
        },
        {"function": "f"},
    ),
)
"""An alert, when it is looked at, minute by minute what is there, and the labels with which it is raised, or None."""


@needs_prometheus
def test_alerts_are_raised_when_they_should_and_only_then(tmp_path: Path) -> None:
    severity = {rule["alert"]: rule["labels"]["severity"] for rule in rules()}
    tests: list[dict[str, Any]] = []
    for alert, at, series, labels in ALERTS:
        raised = [] if labels is None else [{"exp_labels": {"severity": severity[alert], **labels}}]
        tests.append(
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "alert_rule_test": [{"eval_time": at, "alertname": alert, "exp_alerts": raised}],
            }
        )
    without_text = [{name: value for name, value in rule.items() if name != "annotations"} for rule in rules()]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "durasleep", "rules": without_text}]}))
    (tmp_path / "tests.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": tests}))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "tests.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


async def found_at(url: str, query: str) -> list[dict[str, Any]]:
    """The series of a query; fails with what Prometheus says of a query that it cannot run."""
    status, body = await answer(url, f"/api/v1/query?query={quote(query)}")
    found = json.loads(body)
    assert (status, found["status"]) == (200, "success"), (query, body)
    return found["data"]["result"]


@pytest.fixture
def scraped(own_server: DevServer, tmp_path: Path) -> Iterator[tuple[str, Terminal]]:
    """A real Prometheus that scrapes a real worker of the example and an exporter, with the rules."""
    here = Terminal(DEPLOY, DURASLEEP_REDIS_URL=own_server.url)
    here.environment["PYTHONPATH"] += f":{DEPLOY}"
    worker, exporter = tmp_path / "worker.log", tmp_path / "exporter.log"
    with (
        here.running("worker", "shop:app", "--health", "127.0.0.1:0", until="is ready", keep=worker),
        here.running("exporter", "--listen", "127.0.0.1:0", until="metrics of", keep=exporter),
    ):
        targets = {
            "durasleep-worker": re.findall(r"http://([\d.:]+)/livez", worker.read_text()),
            "durasleep-exporter": re.findall(r"http://([\d.:]+)/metrics", exporter.read_text()),
        }
        config = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(RULES)]
        config["scrape_configs"] = [
            {"job_name": job["job_name"], "static_configs": [{"targets": targets[job["job_name"]]}]}
            for job in config["scrape_configs"]
        ]
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
        port = free_port()
        with (tmp_path / "prometheus.log").open("wb") as log:
            running = subprocess.Popen(
                [
                    "prometheus",
                    f"--config.file={tmp_path / 'prometheus.yml'}",
                    f"--storage.tsdb.path={tmp_path / 'tsdb'}",
                    f"--web.listen-address=127.0.0.1:{port}",
                ],
                stdout=log,
                stderr=log,
            )
        try:
            yield f"http://127.0.0.1:{port}", here
        finally:
            running.terminate()
            running.wait(20)


@needs_prometheus
async def test_every_query_works_at_a_real_prometheus_and_has_data(scraped: tuple[str, Terminal]) -> None:
    url, here = scraped

    async def is_up() -> bool:
        try:
            return (await answer(url, "/-/ready"))[0] == 200 and len(await found_at(url, "up == 1")) == 2
        except OSError:
            return False

    await eventually(is_up, "Prometheus to scrape both")
    app = Durasleep(here.environment["DURASLEEP_REDIS_URL"])
    try:
        waiting = panel_queries()
        number = 0

        async def all_have_data() -> bool:
            nonlocal number
            number += 1
            await app.rpc(f"order-{number}", "order", f"customer-{number}", 100, "100ms")
            await app.options(key="nobody").rpc(f"refused-{number}", "charge", "nobody", 0)
            waiting[:] = [query for query in waiting if not await found_at(url, query)]
            return not waiting

        try:
            await eventually(all_have_data, "data of every query")
        except AssertionError:
            pytest.fail(f"no data: {waiting}")
    finally:
        await app.aclose()
    loaded = json.loads((await answer(url, "/api/v1/rules"))[1])["data"]["groups"]
    states = {rule["name"]: (rule["health"], rule.get("lastError", "")) for group in loaded for rule in group["rules"]}
    assert states == {rule["alert"]: ("ok", "") for rule in rules()}
    for rule in rules():
        without_limit = re.sub(r" > [\d.]+$", "", rule["expr"])
        if "absent(" not in without_limit and "unless" not in without_limit:
            assert await found_at(url, without_limit), rule["alert"]
