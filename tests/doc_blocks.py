"""The code blocks of the documentation, and a page's environment in which they run."""

import contextlib
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import jsonschema
import msgspec
from msgspec import Struct
from sybil.document import Document
from sybil.parsers.markdown.lexers import DirectiveInHTMLCommentLexer, FencedCodeBlockLexer

from service.simulate.options import Options
from service.store.embedded import EmbeddedServer

ROOT = Path(__file__).resolve().parents[1]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EVENTS_PATH = "/api/v2/engineering-insights/deployment-events"
DIRECTIVES = "not run|stop after|exits with|file"
LANGUAGES_THAT_RUN = {"console", "python", "toml", "json"}
_BASH = "/bin/bash"
_TIMEOUT_S = 60.0
_INTERRUPT_INTERVAL_S = 3.0


class Block(Struct, frozen=True):
    """One fenced block of a page, its first line, and the directives in comments before it."""

    language: str
    source: str
    line: int
    directives: Mapping[str, str]

    @property
    def is_run(self) -> bool:
        """Return whether a test runs the block."""
        return self.language in LANGUAGES_THAT_RUN and "not run" not in self.directives


class Command(Struct, frozen=True):
    """One command of a ``console`` block, and what it is expected to print."""

    text: str
    expected: str


def read_blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    document = Document(page.read_text(encoding="utf-8"), str(page))
    comments = list(DirectiveInHTMLCommentLexer(DIRECTIVES)(document))
    blocks: list[Block] = []
    for region in FencedCodeBlockLexer(r"\w*")(document):
        lexemes = region.lexemes or {}
        directives: dict[str, str] = {}
        start = region.start
        for comment in reversed([comment for comment in comments if comment.end < region.start]):
            if document.text[comment.end : start].strip() != "-->":
                break
            found = comment.lexemes or {}
            directives[found["directive"]] = found["arguments"]
            start = comment.start
        line = document.text.count("\n", 0, region.start) + 1
        blocks.append(Block(lexemes["language"], lexemes["source"], line, directives))
    return blocks


def split_commands(source: str) -> list[Command]:
    """Return the commands of a ``console`` block; a quote or a backslash continues a command."""
    commands: list[Command] = []
    text, output = "", ""
    for line in source.splitlines():
        if text and (text.endswith("\\") or text.count("'") % 2):
            text += f"\n{line}"
        elif line.startswith("$ "):
            if text:
                commands.append(Command(text, output))
            text, output = line.removeprefix("$ "), ""
        else:
            output += f"{line}\n"
    return [*commands, Command(text, output)]


def output_pattern(expected: str) -> re.Pattern[str]:
    """Return a pattern of what is expected; ``…`` is any text, alone on a line any lines."""
    lines = [
        "(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + "\n"
        for line in expected.splitlines()
    ]
    return re.compile("".join(lines))


class PageEnvironment:
    """A folder, a Redis, a simulated LaunchDarkly and a running service, for one page."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder / "page"
        self._programs = folder / "bin"
        self._state = folder / "state.sh"
        self.redis_url = redis_url
        self._processes: list[subprocess.Popen[bytes]] = []
        self.receiver_url = ""
        for created in (self._folder, self._programs):
            created.mkdir()
        python_path = os.pathsep.join([str(ROOT), str(self._write_client_package(folder))])
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ENRICHER_", "LAUNCHDARKLY_", "OTEL_", "COV_"))
        }
        self._env = inherited | {
            "ENRICHER_DATA_DIR": str(folder / "data"),
            "ENRICHER_LOG_FORMAT": "json",
            "ENRICHER_REDIS_URL": redis_url,
            "ENRICHER_WEBHOOK_SECRET": SECRET,
            "GITHUB_WEBHOOK_SECRET": SECRET,
            "SHIPIT_SECRET": SECRET,
            "LAUNCHDARKLY_ACCESS_TOKEN": Options().token,
            "PATH": f"{self._programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": python_path,
            "PYTHONUNBUFFERED": "1",
        }
        self._write_programs()

    @staticmethod
    def _write_client_package(folder: Path) -> Path:
        """Make the client importable by the name under which consumers install it."""
        client, site = ROOT / "service" / "client", folder / "site"
        build = tomllib.loads((client / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
        for source, target in build["targets"]["wheel"]["force-include"].items():
            (site / target).parent.mkdir(parents=True, exist_ok=True)
            (site / target).symlink_to((client / source).resolve())
        return site

    def _write_programs(self) -> None:
        """Write what a reader of the page has installed: the program, and redis-cli."""
        python = shlex.quote(sys.executable)
        programs = {
            "deployment-enricher": f'exec {python} -m service "$@"',
            "python3": f'if [ "$1" = run.py ]; then shift; exec {python} -m service "$@"; fi\n'
            f'exec {python} "$@"',
            "redis-cli": f'exec {python} -m tests.redis_cli {shlex.quote(self.redis_url)} "$@"',
        }
        for name, text in programs.items():
            program = self._programs / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(program.stat().st_mode | stat.S_IXUSR)

    def start_service(self) -> None:
        """Start the simulator and the service, and publish one record of billing-service."""
        simulator_url = self._start("simulate --port 0", "simulator_started")
        self._env["ENRICHER_LAUNCHDARKLY_URL"] = simulator_url
        self._env["ENRICHER_PORT"] = "0"
        self.receiver_url = self._start("run", "receiver_started")
        self._env["ENRICHER_PORT"] = self.receiver_url.rpartition(":")[2]
        event = msgspec.json.encode(
            {
                "projectKey": "default",
                "environmentKey": "production",
                "applicationKey": "billing-service",
                "version": "0f1e2d3",
                "eventType": "finished",
            }
        ).decode()
        header = f"Authorization: {Options().token}"
        self.run_command(
            f"curl -sSf -o /dev/null {simulator_url}{EVENTS_PATH} -H '{header}'"
            f" -H 'LD-API-Version: beta' -H 'Content-Type: application/json' -d '{event}'"
        )
        self.run_command(
            f"curl -sSf -o /dev/null {self.receiver_url}/webhooks/native"
            f" -H 'Authorization: Bearer {SECRET}' -d '{event}'"
        )
        deadline = time.monotonic() + _TIMEOUT_S
        while "billing-service" not in self.run_command(
            "redis-cli XRANGE '{deployments}:enriched' - +"
        ):
            assert time.monotonic() < deadline, "no record was published"
            time.sleep(0.05)

    def _start(self, arguments: str, event: str) -> str:
        """Start a command that does not end; return the URL that its log event names."""
        log_file = self._folder.parent / f"{event}.log"
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "service", *arguments.split()],
                cwd=self._folder,
                env=self._env,
                stdout=log,
                stderr=log,
            )
        self._processes.append(process)
        deadline = time.monotonic() + _TIMEOUT_S
        while process.poll() is None and time.monotonic() < deadline:
            for line in log_file.read_text().splitlines():
                if event in line and (match := re.search(r'"url": ?"([^"]+)"', line)):
                    return match.group(1)
            time.sleep(0.02)
        raise AssertionError(log_file.read_text())

    def close(self) -> None:
        """End what was started."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait(_TIMEOUT_S)

    def run_block(self, block: Block) -> None:
        """Run one block and compare what it prints; AssertionError says what differs."""
        if "file" in block.directives:
            (self._folder / block.directives["file"]).write_text(block.source)
        match block.language:
            case "console":
                *commands, last_command = split_commands(block.source)
                for command in commands:
                    self._run_and_compare(command, {})
                self._run_and_compare(last_command, block.directives)
            case "python":
                (self._folder / "example.py").write_text(self._localize(block.source))
                command = Command(f"{shlex.quote(sys.executable)} example.py", "…\n")
                self._run_and_compare(command, block.directives)
            case "toml":
                self._check_sources(block.source)
            case "json":
                self._check_json(block.source)

    def _localize(self, text: str) -> str:
        """Return the text with the addresses of this page's Redis and receiver."""
        text = text.replace("redis://127.0.0.1:6379", self.redis_url)
        return text.replace("http://127.0.0.1:8080", self.receiver_url)

    def _run_and_compare(self, command: Command, directives: Mapping[str, str]) -> None:
        exit_code = directives.get("exits with", "0")
        stop_text = directives.get("stop after")
        text = self._localize(command.text)
        output = (
            self.run_command(text, exit_code=exit_code)
            if stop_text is None
            else self.run_until(text, stop_text)
        )
        output += "" if output.endswith("\n") or not output else "\n"
        pattern = output_pattern(command.expected)
        found = pattern.fullmatch(output) if stop_text is None else pattern.match(output)
        assert found, f"$ {command.text}\nprinted\n{output}\nand not\n{command.expected}"

    def run_command(self, text: str, *, exit_code: str = "0") -> str:
        """Run one command of a shell whose variables stay; return what it printed."""
        script = (
            f"touch {self._state}; . {self._state}; {text}\nstatus=$?\n"
            f"export -p > {self._state}; exit $status"
        )
        ran = subprocess.run(
            [_BASH, "-c", script],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
        output = ran.stdout.decode()
        assert exit_code in {"any", str(ran.returncode)}, f"$ {text}\n{ran.returncode}\n{output}"
        return output

    def run_until(self, text: str, stop_text: str) -> str:
        """Run a command that does not end until it has printed a text; return what it printed."""
        process = self._start_command(text)
        timer = threading.Timer(_TIMEOUT_S, process.kill)
        timer.start()
        lines: list[str] = []
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line.decode())
                if stop_text in lines[-1]:
                    break
            else:
                raise AssertionError(f"$ {text}\nended without {stop_text!r}:\n{''.join(lines)}")
            self._interrupt(process)
        timer.cancel()
        return "".join(lines)

    @contextlib.contextmanager
    def running(self, text: str) -> Iterator[None]:
        """Run a command that does not end, until the block is left."""
        process = self._start_command(text)
        try:
            yield
        finally:
            assert process.stdout is not None
            with process.stdout:
                self._interrupt(process)

    def _start_command(self, text: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [_BASH, "-c", f"exec {text}"],
            cwd=self._folder,
            env=self._env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @staticmethod
    def _interrupt(process: subprocess.Popen[bytes]) -> None:
        """Press Ctrl-C until a command ends.

        Once may not be enough: before Python 3.12 redis-py sometimes swallows a cancellation.
        """
        assert process.stdout is not None
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        while process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_INTERRUPT_INTERVAL_S)
        drain.join()

    def _check_sources(self, source: str) -> None:
        """Have the program load a file of sources; secrets in files may be missing."""
        (self._folder / "checked.toml").write_text(source)
        printed = self.run_command(
            "(ENRICHER_SOURCES=checked.toml deployment-enricher sources list; [ $? -lt 2 ])"
        )
        for name in re.findall(r'^name\s*=\s*"([^"]+)"', source, re.MULTILINE):
            assert f"/webhooks/{name}" in printed, printed

    def _check_json(self, source: str) -> None:
        """Validate JSON: a record by its schema, a native body by posting it."""
        document = msgspec.json.decode(source.encode())
        if "schemaVersion" in document:
            schema = ROOT / "deploy" / "contracts" / "enriched-deployment.v1.json"
            jsonschema.Draft202012Validator(msgspec.json.decode(schema.read_bytes())).validate(
                document
            )
        elif "eventType" in document:
            (self._folder / "checked.json").write_text(source)
            printed = self.run_command(
                f"curl -sS {self.receiver_url}/webhooks/native -d @checked.json"
                f" -H 'Authorization: Bearer {SECRET}'"
            )
            assert '"status":"queued"' in printed, printed


@contextlib.contextmanager
def open_environment(folder: Path, *, with_service: bool) -> Iterator[PageEnvironment]:
    """Open the environment of a page; on leaving, end every process of it."""
    with EmbeddedServer(folder / "redis") as server:
        environment = PageEnvironment(folder, server.url)
        try:
            if with_service:
                environment.start_service()
            yield environment
        finally:
            environment.close()
