"""What `deploy/` says of ports, paths, flags and metrics is what the code has; no cluster is needed to know that."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from genrecall.cli.main import app
from genrecall.serve.config import ServeConfig
from genrecall.serve.http.gate import OPEN
from genrecall.serve.http.openapi import document
from genrecall.serve.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
FILES_OF_YAML = [path for path in FILES if path.suffix == ".yaml"]


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]


def kinds(kind: str) -> list[dict[str, Any]]:
    every = [found for path in (DEPLOY / "kubernetes").glob("*.yaml") for found in documents(path)]
    return [found for found in every if found["kind"] == kind]


def options_of(verb: str) -> set[str]:
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}


def pod() -> dict[str, Any]:
    return dict(kinds("StatefulSet")[0]["spec"]["template"]["spec"])


@pytest.mark.parametrize("path", FILES_OF_YAML, ids=lambda path: path.name)
def test_every_document_is_yaml_and_named(path: Path) -> None:
    found = documents(path)
    assert found
    if path.parent.name == "kubernetes":
        for told in found:
            assert {"apiVersion", "kind"} <= set(told)
            assert told["kind"] == "Kustomization" or told["metadata"]["name"] == "genrecall" or "pods" in str(told)


def test_every_flag_is_one_of_serve() -> None:
    known = options_of("serve")
    told = [word for path in FILES for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", _commands(path))]
    assert len(told) > 10
    assert set(told) <= known | {"--no-cache-dir"}, set(told) - known


def _commands(path: Path) -> str:
    """The lines of a file that start a service."""
    text = path.read_text(encoding="utf-8")
    if path.name == "Dockerfile":
        return text[text.index("ENTRYPOINT") :]
    if path.name == "cluster.sh":
        return text[text.index("exec genrecall serve") :]
    return "\n".join(line for line in text.splitlines() if "args:" in line or "--drain-s" in line)


def test_probes_ask_what_needs_no_key_on_the_port_that_listens() -> None:
    container = pod()["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    args = container["args"]
    assert ports["http"] == int(args[args.index("--port") + 1]) == ServeConfig.port
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert asked["path"] in OPEN
    assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
    assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
    for service in kinds("Service"):
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"EXPOSE {ServeConfig.port}" in dockerfile
    assert f"127.0.0.1:{ServeConfig.port}/health/live" in dockerfile


def test_the_grace_is_longer_than_all_that_must_fit_in_it() -> None:
    spec = pod()
    args = spec["containers"][0]["args"]
    drain = float(args[args.index("--drain-s") + 1])
    ahead = float(spec["containers"][0]["lifecycle"]["preStop"]["exec"]["command"][1])
    assert spec["terminationGracePeriodSeconds"] > drain + ahead
    compose = documents(DEPLOY / "compose.yaml")[0]["services"]["genrecall"]
    assert float(compose["stop_grace_period"].removesuffix("s")) > ServeConfig.drain_s


def test_nobody_is_root_and_nothing_but_the_state_is_written() -> None:
    spec = pod()
    container = spec["containers"][0]
    user = spec["securityContext"]["runAsUser"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}
    assert mounts == {"/state": False, "/bundle": True, "/keys": True, "/tmp": False}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert f"USER {user}:{user}" in dockerfile
    assert dockerfile.index("USER ") < dockerfile.index("ENTRYPOINT")
    claims = [claim["metadata"]["name"] for claim in kinds("StatefulSet")[0]["spec"]["volumeClaimTemplates"]]
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        *(volume["name"] for volume in spec["volumes"]), *claims
    }  # fmt: skip


def test_selectors_find_the_pods() -> None:
    stateful = kinds("StatefulSet")[0]
    labels = stateful["spec"]["template"]["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in kinds("Service")]
    selectors += [found["spec"]["selector"]["matchLabels"] for found in (*kinds("PodDisruptionBudget"), stateful)]
    assert all(labels.items() >= selector.items() for selector in selectors)
    assert stateful["spec"]["serviceName"] in {service["metadata"]["name"] for service in kinds("Service")}
    scaled = kinds("HorizontalPodAutoscaler")[0]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == (stateful["kind"], stateful["metadata"]["name"])
    kustomized = kinds("Kustomization")[0]["resources"]
    assert all((DEPLOY / "kubernetes" / name).is_file() for name in kustomized)


def names_of_metrics() -> dict[str, set[str]]:
    """Names as Prometheus sees them, with their labels."""
    # A registry tells labels of what was counted only; its own index knows all of them.
    index = Metrics().registry._names_to_collectors
    return {name: set(collector._labelnames) for name, collector in index.items()}  # type: ignore[attr-defined]


def test_every_metric_and_label_of_the_alarms_exists() -> None:
    known, routes = names_of_metrics(), set(document()["paths"])
    rules = documents(DEPLOY / "prometheus" / "alarms.yaml")[0]["groups"][0]["rules"]
    assert len(rules) >= 10
    used = 0
    for rule in rules:
        assert {"alert", "expr", "labels", "annotations"} <= set(rule)
        assert rule["expr"].count("(") == rule["expr"].count(")")
        for name, matchers in re.findall(r"(genrecall_\w+)(?:{([^}]*)})?", rule["expr"]):
            assert name in known, name
            used += 1
            for label, value in re.findall(r'(\w+)(?:=~|!=|=)"([^"]*)"', matchers):
                assert label in known[name], (name, label)
                if label == "route":
                    stem, _, choice = value.partition("(")
                    assert {stem + last for last in choice.rstrip(")").split("|")} <= routes
    assert used >= 12
    (scaled,) = kinds("HorizontalPodAutoscaler")[0]["spec"]["metrics"]
    assert scaled["pods"]["metric"]["name"] in known


def test_every_metric_has_its_place_in_the_guide() -> None:
    guide = (ROOT / "docs/guides/operations.md").read_text(encoding="utf-8")
    for name in names_of_metrics():
        stem = re.sub(r"_(bucket|count|sum|created)$", "", name)
        assert stem in guide, name
    for rule in documents(DEPLOY / "prometheus" / "alarms.yaml")[0]["groups"][0]["rules"]:
        assert f"`{rule['alert']}`" in guide, rule["alert"]


def test_the_image_is_built_from_what_there_is() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    default = re.search(r"ARG EXTRAS=(\w+)", text)
    assert default is not None
    assert default[1] in extras
    copied = [word for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.M) for word in line.split()[:-1]]
    assert copied
    assert all((ROOT / name).exists() for name in copied)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    assert set(copied) <= allowed
    stages = set(re.findall(r"^FROM .+ AS ([\w-]+)$", text, re.M))
    assert {"torch-cpu", "torch-cuda"} <= stages
    assert re.search(r"^torch==", (ROOT / "constraints.txt").read_text(), re.M)
    built = documents(DEPLOY / "compose.yaml")[0]["services"]["genrecall"]["build"]
    assert (DEPLOY / built["context"] / built["dockerfile"]).is_file()
    assert f"torch-{built['args']['VARIANT']}" in stages


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no shell")
def test_the_script_is_a_script() -> None:
    script = DEPLOY / "ray" / "cluster.sh"
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    refused = subprocess.run(["sh", str(script), "other"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
