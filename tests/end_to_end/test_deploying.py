"""What docker-compose.yml and the Kubernetes page would run is run: their own commands, on a real PostgreSQL.

No container is built or started. What a container would see differently is put in place here: the host and
name of the database, the mounted directories, and the dashboard's address, which stays on loopback.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from sqlalchemy.engine import make_url

from storage.database.migrate import open_database
from storage.queue import studies
from tests.conftest import RunHpo
from tests.end_to_end.workplace import Workplace
from tests.support.command import HpoProcess
from tests.support.pg import PASSWORD, PgServer
from tests.support.ports import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-this-test"
DOTENV = {
    "HPO_POSTGRES_ADMIN_PASSWORD": "another one",
    "HPO_POSTGRES_PASSWORD": PASSWORD,
    "HPO_DASHBOARD_TOKEN": TOKEN,
    "HPO_STUDY": "parabola",
}
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<other>[^}]*))?\}")


def filled_in(node: Any) -> Any:
    """The compose file with the variables of `.env` put in, as `docker compose config` shows it."""
    match node:
        case str():
            return _VARIABLE.sub(_value, node)
        case list():
            return [filled_in(item) for item in node]
        case dict():
            return {key: filled_in(value) for key, value in node.items()}
    return node


def _value(found: re.Match[str]) -> str:
    if found["kind"] == "-":
        return DOTENV.get(found["name"], found["other"])
    return DOTENV[found["name"]]


COMPOSE: dict[str, Any] = filled_in(yaml.safe_load((ROOT / "docker-compose.yml").read_text()))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


@pytest.fixture
def environment(pg_url: str, tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """The environment of a service, with this test's database and directories instead of the container's."""
    real = make_url(pg_url)

    def of(service: str) -> dict[str, str]:
        variables = dict(SERVICES[service]["environment"])
        url = make_url(variables["HPO_STORAGE"])
        assert (url.host, url.port, url.username, url.password) == ("postgres", 5432, "hpo", PASSWORD)
        here = url.set(host=real.host, port=real.port, database=real.database)
        variables["HPO_STORAGE"] = here.render_as_string(hide_password=False)
        mounted = [volume.split(":")[1] for volume in SERVICES[service]["volumes"]]
        assert variables["HPO_ARTIFACTS"] in mounted
        variables["HPO_ARTIFACTS"] = str(tmp_path / "artifacts")
        return variables

    return of


def test_the_commands_of_the_compose_file_make_a_deployment(
    environment: Callable[[str], dict[str, str]],
    tmp_path: Path,
    hpo: RunHpo,
    start_hpo: Callable[..., HpoProcess],
) -> None:
    """Migrations, then the dashboard and a study, then the workers, which end with 0 when it is done."""
    Workplace(tmp_path).study("parabola", budget={"trials": 6})
    hpo(*SERVICES["migrate"]["command"], env=environment("migrate")).check()

    port = free_port()
    served = [
        {"--host=0.0.0.0": "--host=127.0.0.1", "--port=8080": f"--port={port}"}.get(word, word)
        for word in SERVICES["dashboard"]["command"]
    ]
    assert len(set(served) - set(SERVICES["dashboard"]["command"])) == 2
    dashboard = start_hpo(*served, env=environment("dashboard"))
    healthy = _health_check("dashboard", {"8080": str(port)})
    wait_until(lambda: _passes(healthy), every=0.5, what="a healthy dashboard")

    created = hpo("create", "parabola.yaml", env=environment("hpo")).check()
    assert "hpo worker parabola" in created.out
    assert PASSWORD not in created.out + created.err

    workers = [
        start_hpo(*SERVICES[name]["command"], env=environment(name)) for name in ("worker", "worker-gpu")
    ]
    for worker in workers:
        worker.wait().check()
    study = hpo("show", "parabola", "--format", "json", env=environment("hpo")).check().json
    assert (study["state"], study["trials"]["complete"]) == ("finished", 6)

    address = f"http://127.0.0.1:{port}/api/v1/studies/parabola"
    assert httpx.get(address, timeout=120).status_code == 401
    answer = httpx.get(address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=120)
    assert answer.json()["state"] == "finished"
    assert dashboard.running
    assert PASSWORD not in dashboard.out + dashboard.err


def test_the_command_of_the_kubernetes_job_works_on_the_study(tmp_path: Path, hpo: RunHpo) -> None:
    """On SQLite, which is enough to see that each word of it is understood."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    job = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    Workplace(tmp_path).study("digits", budget={"trials": 2})
    hpo("create", "digits.yaml").check()
    words = [
        word.replace("/studies", str(tmp_path)).replace("$(POD)", "hpo-digits-x7k2p")
        for word in container["args"]
    ]
    hpo(*words).check()
    (worker,) = hpo("workers", "--format", "json").check().json
    assert worker["name"] == "hpo-digits-x7k2p"
    assert hpo("show", "digits", "--format", "json").check().json["state"] == "finished"


def test_the_databases_health_check_tells_whether_it_answers(own_pg_server: PgServer) -> None:
    healthy = _health_check("postgres", {})
    healthy[0] = str(own_pg_server.bin / healthy[0])
    healthy.append(f"--port={own_pg_server.port}")
    assert _passes(healthy)
    own_pg_server.stop()
    assert not _passes(healthy)


def _passes(check: list[str]) -> bool:
    return subprocess.run(check, capture_output=True, timeout=120).returncode == 0


def _health_check(service: str, replaced: dict[str, str]) -> list[str]:
    """The command of a service's health check, with this machine's Python and other words replaced."""
    kind, *command = SERVICES[service]["healthcheck"]["test"]
    assert kind == "CMD"
    text = shlex.join(command)
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    words = shlex.split(text)
    return [sys.executable if words[0] == "python" else words[0], *words[1:]]


def test_the_role_of_the_workers_owns_its_database_and_is_no_superuser(pg_server: PgServer) -> None:
    """The compose file's own statements, for a role of this test; then the tables are made as that role."""
    name = "r_" + uuid.uuid4().hex[:12]
    statements = re.sub(r"\bhpo\b", name, COMPOSE["configs"]["roles"]["content"])
    with pg_server.connect() as admin:
        admin.autocommit = True
        for statement in statements.strip().split("\n"):
            admin.execute(statement.encode())
        rights = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = %s"
        assert admin.execute(rights, [name]).fetchone() == (False,)
    url = make_url(pg_server.url("postgres")).set(username=name, password=PASSWORD, database=name)
    database = open_database(url.render_as_string(hide_password=False))
    assert database.read(studies.names) == []
    database.close()
