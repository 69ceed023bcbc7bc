"""Generator of the tables in docs/settings.md, docs/metrics.md and docs/architecture.md.

Run it after a change: ``python docs/generate.py``. A test compares its output with the files.
"""

import ast
import sys
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from service.metrics.counters import Metrics  # noqa: E402 - a script finds the checkout by itself
from service.metrics.namespace import NamespaceStats, collect_gauges  # noqa: E402
from service.settings import list_settings, variable_name  # noqa: E402

DOCS = ROOT / "docs"
BEGIN, END = "<!-- generated -->\n", "<!-- end of generated -->\n"

SETTINGS_SECTIONS = {
    "LaunchDarkly": (
        "access_token launchdarkly_url rate_limit_share max_calls_per_deployment "
        "max_response_bytes max_buffered_bytes"
    ),
    "Redis": "redis_url namespace durability data_dir",
    "Receiver": "host port sources webhook_secret max_body_bytes enqueue_timeout"
    " backlog_limit delivery_retention",
    "Console": "console console_token",
    "Worker": "concurrency lease shutdown_timeout metrics_port",
    "Finding a deployment": "lookback not_found_timeout outage_timeout",
    "Refreshes and reconciliation": (
        "refresh_after flag_events flag_event_members reconcile_scopes reconcile_interval"
    ),
    "Filters": "include_applications include_environments include_outcomes",
    "Records": (
        "max_record_bytes stream_retention stream_max_records idle_group_timeout"
        " published_retention failed_retention"
    ),
    "Log": "log_format",
}


def render_settings() -> str:
    """Return a table of settings per section; what no section names is in the last one."""
    rows = {variable: (default, meaning) for variable, default, meaning in list_settings()}
    sections = {
        title: [variable_name(field) for field in fields.split()]
        for title, fields in SETTINGS_SECTIONS.items()
    }
    named = {variable for variables in sections.values() for variable in variables}
    sections["Other"] = [variable for variable in rows if variable not in named]
    parts = []
    for title, variables in sections.items():
        if variables:
            parts += [f"\n## {title}\n\n", "| variable | default | meaning |\n|---|---|---|\n"]
        for variable in variables:
            default, meaning = rows[variable]
            shown_default = f"`{default}`" if default else ""
            parts.append(f"| `{variable}` | {shown_default} | {meaning} |\n")
    return "".join(parts)


def list_metrics() -> dict[str, tuple[str, set[str], str]]:
    """Return every metric of a worker by name: its kind, its samples and its meaning."""
    metrics = Metrics(CollectorRegistry())
    metrics.set_limits(tickets=1, records=1)
    metrics.initialize_sources(["native"])
    metrics.add_worker(lambda: 0)
    metrics_by_name = {}
    for family in (*metrics.registry.collect(), *collect_gauges(build_example_stats())):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        samples = {sample.name for sample in family.samples if "_created" not in sample.name}
        metrics_by_name[family.name + suffix] = (family.type, samples, family.documentation)
    return metrics_by_name


def build_example_stats() -> NamespaceStats:
    """Return the statistics of a namespace in which every gauge has a sample."""
    zeros: dict[str, Any] = dict.fromkeys(NamespaceStats.__struct_fields__, 0)
    texts_and_labels = {"closed_reason": "", "calls_left": {"get": 0}, "failed": {"other": 0}}
    return NamespaceStats(**{**zeros, **texts_and_labels})


def render_metrics() -> str:
    """Return one table of counters and histograms, and one of everything else."""
    rows: dict[str, list[str]] = {"What a process did": [], "How things are": []}
    for name, (kind, _, meaning) in list_metrics().items():
        if name.startswith("enricher_"):
            is_count = kind in {"counter", "histogram"}
            title = "What a process did" if is_count else "How things are"
            rows[title].append(f"| `{name}` | {kind} | {meaning} |\n")
    return "".join(
        f"\n## {title}\n\n| metric | kind | meaning |\n|---|---|---|\n{''.join(lines)}"
        for title, lines in rows.items()
    )


def render_files() -> str:
    """Return one table per package: each file and the first line of its docstring or header."""
    folders: dict[str, list[Path]] = {}
    for path in sorted((ROOT / "service").rglob("*")):
        if path.suffix in {".py", ".lua"} and path.stat().st_size and path.stem != "__init__":
            package = path.relative_to(ROOT).parts[:-1]
            folders.setdefault("/".join(package).removesuffix("/lua"), []).append(path)
    parts = []
    for folder, paths in folders.items():
        title = read_first_line(ROOT / folder / "__init__.py")
        parts += [f"\n### {folder}/\n\n{title}\n\n", "| file | what it holds |\n|---|---|\n"]
        parts += [
            f"| `{path.relative_to(ROOT / folder)}` | {read_first_line(path)} |\n" for path in paths
        ]
    return "".join(parts)


def read_first_line(path: Path) -> str:
    """Return the first line that describes a file: of its docstring, or of its Lua header."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".lua":
        return text.splitlines()[0].removeprefix("--").strip()
    return (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0].replace("|", "\\|")


SECTIONS = {
    "settings.md": render_settings,
    "metrics.md": render_metrics,
    "architecture.md": render_files,
}


def render_page(name: str) -> str:
    """Return the text of a page with its generated part written again."""
    before, _, rest = (DOCS / name).read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{SECTIONS[name]()}\n{END}{after}"


def main() -> None:
    """Write every page that has a generated part."""
    for name in SECTIONS:
        (DOCS / name).write_text(render_page(name), encoding="utf-8")


if __name__ == "__main__":
    main()
