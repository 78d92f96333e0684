"""The deployment files agree with the server: its options, its metrics, its policies."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from typer.main import get_command

from rerail.cli import app
from rerail.policy import Policy
from tests.server.conftest import WRAPPED, Made, chat

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "dashboards" / "rerail.json"


KUBERNETES = DEPLOY / "kubernetes"
MANIFEST = KUBERNETES / "base" / "rerail.yaml"


def of_kind(kind: str) -> Any:
    """The one document of a kind in the manifest."""
    (found,) = (d for d in documents(MANIFEST) if d["kind"] == kind)
    return found


def program(name: str, package: str) -> str:
    """A program's path; without it the test is skipped, and says how to get it."""
    beside = str(Path(sys.executable).parent)
    path = shutil.which(name) or shutil.which(name, path=beside)
    if path is None:
        pytest.skip(f"no {name}: {package}")
    return path


def kustomized(*folders: str, of: Path = KUBERNETES) -> list[Any]:
    """What kubectl makes of a folder, named from the one that has all of them."""
    kubectl = program("kubectl", "install Kubernetes' kubectl")
    run = subprocess.run(
        [kubectl, "kustomize", of.joinpath(*folders)], capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
    return list(yaml.safe_load_all(run.stdout))


def documents(path: Path) -> list[Any]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def expressions() -> list[str]:
    """Every query of the dashboard and of the alerts."""
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    found = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    found += [note["expr"] for note in board["annotations"]["list"]]
    found += [variable["query"]["query"] for variable in board["templating"]["list"]]
    (alerts,) = documents(DEPLOY / "prometheus" / "alerts.yml")
    return found + [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]


def commands() -> list[list[str]]:
    """The arguments of rerail wherever it is started."""
    (compose,) = documents(DEPLOY / "compose.yaml")
    pod = of_kind("Deployment")["spec"]["template"]["spec"]
    unit = (DEPLOY / "systemd" / "rerail.service").read_text(encoding="utf-8")
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    started = re.search(
        r"^ExecStart=\S+/rerail (.*) \$RERAIL_KEYS \$RERAIL_OPTIONS$", unit, re.MULTILINE
    )
    default = re.search(r"^CMD (\[.*\])$", file, re.MULTILINE)
    assert started is not None
    assert default is not None
    return [
        compose["services"]["rerail"]["command"],
        pod["containers"][0]["args"],
        started[1].split(),
        json.loads(default[1]),
    ]


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.y*ml")), ids=lambda path: path.name)
def test_yaml_is_yaml(path: Path) -> None:
    assert all(isinstance(document, dict) for document in documents(path))


def test_every_query_names_metrics_and_labels_that_the_server_exports(made: Made) -> None:
    httpx.post(f"{made.url}/v1/chat/completions", json=chat(WRAPPED), timeout=60)
    text = httpx.get(f"{made.url}/metrics").text
    names = set(re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE))
    names |= {f"{n}{end}" for n in names for end in ("_bucket", "_sum", "_count")}
    labels = made.service.metrics.labels
    queries = expressions()
    assert len(queries) > 25
    for query in queries:
        used = re.findall(r"\brerail_\w+", query)
        assert used or query.startswith("up{"), query
        assert set(used) <= names, query
        of_query = {
            label
            for name in used
            for known, its in labels.items()
            if re.fullmatch(rf"{known}(_total|_bucket|_sum|_count)?", name)
            for label in (*its, "le")
        }
        inner = re.sub(r'"[^"]*"', "", " ".join(re.findall(r"{(.*?)}", query)))
        asked = set(re.findall(r"(\w+)\s*(?:=~|!=|=)", inner)) - {"job"}
        asked |= {g for group in re.findall(r"by \(([\w, ]+)\)", query) for g in group.split(", ")}
        assert asked <= of_query, query


def test_panels_do_not_overlap_and_stay_in_the_grid() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"])
                 for y in range(at["y"], at["y"] + at["h"])}  # fmt: skip
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells


@pytest.mark.parametrize("arguments", commands(), ids=["compose", "kubernetes", "systemd", "image"])
def test_the_server_knows_every_option_that_it_is_given(arguments: list[str]) -> None:
    serve = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {name for parameter in serve.params for name in parameter.opts}
    assert arguments[0] == "serve"
    given = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    assert given
    assert set(given) <= options


def test_any_address_but_loopback_comes_with_keys() -> None:
    for arguments in commands():
        line = " ".join(arguments)
        assert "0.0.0.0" not in line or "--keys" in line


def test_the_policies_are_valid() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (DEPLOY / "policies").glob("*.yaml")]
    assert [Policy.from_yaml(text).name for text in texts] == ["default"]
    # Kustomize reads nothing beyond its folder, so it has a copy: cp deploy/policies/default.yaml
    # deploy/kubernetes/base/policies mends this.
    copies = (KUBERNETES / "base" / "policies").glob("*.yaml")
    assert [path.read_text(encoding="utf-8") for path in copies] == texts


def test_files_that_are_mounted_or_copied_exist() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    for service in compose["services"].values():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source
            else:
                assert source in compose["volumes"], source
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", file, re.MULTILINE):
        assert all((ROOT / source).exists() for source in sources.split())
    kept = (DEPLOY / "Containerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for source in re.findall(r"^COPY (?!--from)(.+) \S+$", file, re.MULTILINE):
        assert {f"!{name}" for name in source.split()} <= set(kept)


@pytest.mark.parametrize(
    ("torch", "index", "says"),
    [
        ("cpu", "", "TORCH_INDEX"),
        ("cpu", "an index", None),
        ("cuda", "", None),
        ("gpu", "an index", "write cpu or cuda"),
    ],
)
def test_the_image_has_no_cuda_unless_it_is_asked_for(
    torch: str, index: str, says: str | None
) -> None:
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    assert "\nARG TORCH=cpu\n" in file
    check = re.search(r"^RUN (case .*?esac)$", file, re.MULTILINE | re.DOTALL)
    assert check is not None
    script = check[1].replace("\\\n", "\n")
    environment = {"TORCH": torch, "TORCH_INDEX": index}
    run = subprocess.run(["/bin/sh", "-c", script], env=environment, capture_output=True, text=True)
    assert (run.returncode == 0) == (says is None)
    assert (says or "") in run.stderr
    (compose,) = documents(DEPLOY / "compose.yaml")
    assert set(compose["services"]["rerail"]["build"]["args"]) == {"TORCH", "TORCH_INDEX"}


def test_the_images_health_check_is_kept_and_asks_whether_the_server_is_ready() -> None:
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    builds = re.findall(r"podman build .*", file + page)
    assert builds
    assert all("--format docker" in build for build in builds)  # images in OCI's have no checks
    check = re.search(r"^HEALTHCHECK [^\n]*\n +CMD (\[.*\])$", file, re.MULTILINE)
    assert check is not None
    asked = []

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200 if len(asked) == 1 else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        words = json.loads(check[1].replace(":8000/", f":{server.server_port}/"))
        codes = [
            subprocess.run([sys.executable, *words[1:]], capture_output=True).returncode
            for _ in range(2)
        ]
        server.shutdown()
    assert (words[0], codes, asked) == ("python", [0, 1], ["/readyz", "/readyz"])


def test_what_is_downloaded_outlives_the_server() -> None:
    deployment = of_kind("Deployment")["spec"]
    pod = deployment["template"]["spec"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    places = {m["mountPath"]: m["name"] for m in pod["containers"][0]["volumeMounts"]}
    claim = of_kind("PersistentVolumeClaim")
    assert volumes[places["/var/lib/rerail"]]["persistentVolumeClaim"] == {
        "claimName": claim["metadata"]["name"]
    }
    # Two pods cannot hold such a volume, so an update must not wait for the second one.
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    assert deployment["strategy"] == {"type": "Recreate"}
    file = (DEPLOY / "Containerfile").read_text(encoding="utf-8")
    unit = (DEPLOY / "systemd" / "rerail.service").read_text(encoding="utf-8")
    for name in ("HF_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        assert re.search(rf"\b{name}=/var/lib/rerail\b", file), name
        assert re.search(rf"^Environment=.*\b{name}=/var/(lib|cache)/rerail\b", unit, re.M), name
    assert "\nCacheDirectory=rerail\n" in unit


def test_keys_reach_a_unit_whose_user_could_not_read_them() -> None:
    unit = (DEPLOY / "systemd" / "rerail.service").read_text(encoding="utf-8")
    keys = (DEPLOY / "systemd" / "keys.conf").read_text(encoding="utf-8")
    assert "\nDynamicUser=yes\n" in unit
    loaded = re.search(r"^LoadCredential=([\w.]+):(\S+)$", keys, re.MULTILINE)
    assert loaded is not None
    assert f'Environment="RERAIL_KEYS=--keys %d/{loaded[1]}"' in keys
    page = (ROOT / "docs" / "how-to" / "deploy.md").read_text(encoding="utf-8")
    assert f"--keys {loaded[2]}" in page


def test_the_network_policy_names_whom_it_admits() -> None:
    policy = of_kind("NetworkPolicy")["spec"]
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert policy["podSelector"]["matchLabels"].items() <= labels.items()
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"]
    for rule in policy["ingress"]:
        assert rule["from"]
        for peer in rule["from"]:
            assert peer
            assert all(selector["matchLabels"] for selector in peer.values())


def test_a_drain_is_not_held_up_by_the_only_server() -> None:
    budget = of_kind("PodDisruptionBudget")["spec"]
    labels = of_kind("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert budget["selector"]["matchLabels"].items() <= labels.items()
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_prometheus_finds_the_service_under_the_name_that_alerts_know() -> None:
    (monitor,) = documents(KUBERNETES / "monitoring" / "servicemonitor.yaml")
    service = of_kind("Service")
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert labels[monitor["spec"]["jobLabel"]] == "rerail"
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert endpoint["path"] == "/metrics"


def validate(manifests: list[Any]) -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="pip install kubernetes-validate")
    for document in manifests:
        schemas.validate(document, "1.31", strict=True)


def test_kubernetes_takes_the_manifests() -> None:
    validate(documents(MANIFEST))


def test_kustomize_adds_the_policies() -> None:
    made = kustomized("base")
    (policies,) = (d for d in made if d["kind"] == "ConfigMap")
    (pod,) = (d["spec"]["template"]["spec"] for d in made if d["kind"] == "Deployment")
    mounted = {v["configMap"]["name"] for v in pod["volumes"] if "configMap" in v}
    assert mounted == {policies["metadata"]["name"]}
    assert [Policy.from_yaml(text).name for text in policies["data"].values()] == ["default"]
    validate(made)


def test_kustomize_makes_one_with_a_gpu_and_with_monitoring(tmp_path: Path) -> None:
    shutil.copytree(KUBERNETES, tmp_path / "kubernetes")
    (tmp_path / "kubernetes" / "mine").mkdir()
    (tmp_path / "kubernetes" / "mine" / "kustomization.yaml").write_text(
        "resources: [../gpu]\n"
        "components: [../monitoring]\n"
        "images: [{ name: rerail, newName: registry.example/rerail }]\n"
    )
    made = kustomized("mine", of=tmp_path / "kubernetes")
    (pod,) = (d["spec"]["template"]["spec"] for d in made if d["kind"] == "Deployment")
    (container,) = pod["containers"]
    assert container["image"] == "registry.example/rerail:cuda"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert container["args"][:1] == ["serve"]
    assert {"--model=chat=Qwen/Qwen3-8B", "--dtype=bfloat16"} <= set(container["args"])
    assert "ServiceMonitor" in {d["kind"] for d in made}
    validate([d for d in made if d["kind"] != "ServiceMonitor"])


@pytest.mark.parametrize(
    ("name", "words", "file"),
    [
        ("promtool", ["check", "config"], "prometheus.yml"),
        ("promtool", ["check", "rules"], "alerts.yml"),
        ("amtool", ["check-config"], "alertmanager.yml"),
    ],
)
def test_prometheus_and_alertmanager_take_their_files(
    name: str, words: list[str], file: str
) -> None:
    package = {"promtool": "prometheus", "amtool": "prometheus-alertmanager"}[name]
    path = program(name, f"install the Debian package {package}")
    run = subprocess.run([path, *words, DEPLOY / "prometheus" / file], capture_output=True,
                         text=True, timeout=60)  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


def test_slow_answers_raise_an_alert_and_fast_ones_do_not() -> None:
    path = program("promtool", "install the Debian package prometheus")
    tests = Path(__file__).parent / "alerts_test.yml"
    run = subprocess.run([path, "test", "rules", tests], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout + run.stderr


def test_objectives_of_latency_are_bounds_of_buckets(made: Made) -> None:
    httpx.post(f"{made.url}/v1/chat/completions", json=chat(WRAPPED), timeout=60)
    text = httpx.get(f"{made.url}/metrics").text
    bound = re.compile(r'(rerail_\w+_bucket){[^}]*\ble="([^"]+)"')
    asked = [found for query in expressions() for found in bound.findall(query)]
    assert len(asked) == 6  # three, in the dashboard and in the alerts
    for name, le in asked:
        assert re.search(rf'^{name}{{[^}}]*\ble="{re.escape(le)}"', text, re.MULTILINE)


@pytest.mark.parametrize(
    ("schema", "file"),
    [("compose-spec", "deploy/compose.yaml"), ("citation-file-format", "CITATION.cff")],
)
def test_other_files_fit_their_schemas(schema: str, file: str) -> None:
    path = program("check-jsonschema", "pip install check-jsonschema")
    run = subprocess.run(
        [path, "--builtin-schema", f"vendor.{schema}", ROOT / file],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("with_keys", [False, True], ids=["alone", "with keys"])
def test_systemd_takes_the_unit(tmp_path: Path, with_keys: bool) -> None:
    path = program("systemd-analyze", "install the Debian package systemd")
    unit = (DEPLOY / "systemd" / "rerail.service").read_text(encoding="utf-8")
    copy = tmp_path / "rerail.service"
    copy.write_text(unit.replace("/usr/local/lib/rerail/bin/rerail", "/bin/true"), encoding="utf-8")
    if with_keys:
        drop_in = tmp_path / "rerail.service.d"
        drop_in.mkdir()
        shutil.copy(DEPLOY / "systemd" / "keys.conf", drop_in)
    run = subprocess.run([path, "verify", copy], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
