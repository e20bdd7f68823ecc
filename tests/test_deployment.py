"""What can be said of the image, the compose file and the manifest without a container engine: structure.

Nothing here builds or starts a container; tests/end_to_end/test_deploying.py runs their commands.
"""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
VARIABLE = re.compile(r"\$\{(\w+)(:[-?][^}]*)?\}")
SECRETS = {"HPO_POSTGRES_ADMIN_PASSWORD", "HPO_POSTGRES_PASSWORD", "HPO_DASHBOARD_TOKEN"}
OURS = sorted(set(SERVICES) - {"postgres"})


def test_the_compose_file_follows_the_published_schema() -> None:
    schemas = resources.files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text())
    jsonschema.validate(yaml.safe_load(COMPOSE), schema)
    with pytest.raises(jsonschema.ValidationError, match="imagee"):
        jsonschema.validate({"services": {"x": {"imagee": "hpo"}}}, schema)


@pytest.mark.parametrize("version", ["1.31", "1.37"])
def test_the_kubernetes_job_follows_the_published_schema(version: str) -> None:
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    (manifest,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    job = yaml.safe_load(manifest)
    kubernetes_validate.validate(job, version, strict=True)
    job["spec"]["paralellism"] = job["spec"].pop("parallelism")
    with pytest.raises(kubernetes_validate.ValidationError, match="paralellism"):
        kubernetes_validate.validate(job, version, strict=True)


def test_every_secret_is_demanded_and_has_no_default() -> None:
    """A password that everybody knows is no password: an unset secret stops `docker compose`."""
    secrets = [match for match in VARIABLE.finditer(COMPOSE) if re.search("PASSWORD|TOKEN", match[1])]
    assert {match[1] for match in secrets} == SECRETS
    assert all((match[2] or "").startswith(":?") for match in secrets)


def test_the_example_names_every_variable_and_fills_in_no_secret() -> None:
    example = (ROOT / ".env.example").read_text()
    named = dict(re.findall(r"^(?:# )?(HPO_\w+)=(.*)$", example, re.MULTILINE))
    assert set(named) >= {match[1] for match in VARIABLE.finditer(COMPOSE)}
    assert {named[name] for name in SECRETS} == {""}


def test_the_filled_in_file_stays_out_of_git_and_of_the_image() -> None:
    assert ".env" in (ROOT / ".gitignore").read_text().splitlines()
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert "!.env" not in ignored


def test_the_database_keeps_its_data_and_says_when_it_is_ready() -> None:
    postgres = SERVICES["postgres"]
    volume = postgres["volumes"][0].split(":")[0]
    assert volume in yaml.safe_load(COMPOSE)["volumes"]
    assert postgres["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]
    assert "ports" not in postgres


def test_migrations_run_once_before_anything_else() -> None:
    assert SERVICES["migrate"]["command"] == ["db", "upgrade"]
    assert SERVICES["migrate"]["depends_on"]["postgres"]["condition"] == "service_healthy"
    for name in set(OURS) - {"migrate"}:
        waits_for = SERVICES[name]["depends_on"]["migrate"]["condition"]
        assert waits_for == "service_completed_successfully", name


def test_every_service_of_ours_is_the_one_image_built_here() -> None:
    assert {SERVICES[name]["build"] for name in OURS} == {"."}
    assert {SERVICES[name]["image"] for name in OURS} == {"hpo"}


def test_only_the_dashboard_is_reachable_and_only_from_this_machine() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert list(published) == ["dashboard"]
    assert all(port.startswith("127.0.0.1:") for port in published["dashboard"])
    assert "HPO_DASHBOARD_TOKEN" in SERVICES["dashboard"]["environment"]


def test_no_container_has_a_right_that_it_does_not_need() -> None:
    """And only the database knows its superuser's password."""
    for name, service in SERVICES.items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"] is True, name
        assert service["tmpfs"], name
        assert service["mem_limit"], name
        assert service["pids_limit"] > 0, name
        assert ("HPO_POSTGRES_ADMIN_PASSWORD" in str(service)) == (name == "postgres")
        assert ("cap_add" in service) == (name == "postgres")


def test_the_database_is_on_a_network_that_leads_nowhere() -> None:
    networks = yaml.safe_load(COMPOSE)["networks"]
    assert networks["database"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "outside" in service["networks"]} == {"dashboard"}
    assert all("database" in service["networks"] for service in SERVICES.values())


def test_gpus_are_reserved_only_under_their_profile() -> None:
    assert SERVICES["worker-gpu"]["profiles"] == ["gpu"]
    reserved = SERVICES["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert [device["capabilities"] for device in reserved] == [["gpu"]]
    assert "deploy" not in SERVICES["worker"]


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_has_time_to_give_its_trial_back_and_stays_away_when_done(name: str) -> None:
    assert SERVICES[name]["stop_grace_period"] == "60s"
    assert SERVICES[name]["restart"] == "on-failure"


def test_the_image_copies_only_what_is_there_and_does_not_run_as_root() -> None:
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    missing = [name for name in copied if not (ROOT / name).exists()]
    assert not missing
    assert [line for line in lines if line.startswith("USER")] == ["USER hpo"]
    admitted = (ROOT / ".dockerignore").read_text().splitlines()
    assert not [name for name in copied if f"!{name}" not in admitted]
