"""The README and the pages of the site do what they say: their commands, code and configurations run, in order, as written.

Each page runs in a folder of its own, with `samples`, `configs` and `traces` in it, and in a network namespace. Commands
of a second terminal run while the daemon of the block before them does.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import zstandard
from sybil.document import Document
from sybil.parsers.markdown.lexers import RawFencedCodeBlockLexer

from support.naive.old_pickles import frame_pickle
from support.networks import Namespace
from support.published import session_intervals
from trafficrefinery.cli.added_commands import commands_of
from trafficrefinery.cli.main import COMMANDS, load_command
from trafficrefinery.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(sys.executable).parent / "trafficrefinery"
PAGES = [
    "README.md", "CONTRIBUTING.md", "SECURITY.md", "samples/README.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")
            if page.relative_to(ROOT).parts[1] not in ("reference", "results")),
]  # fmt: skip
FENCE = RawFencedCodeBlockLexer(info_pattern=re.compile(r"(?P<info>[^\n]*)\n"))

# What takes too long as written, and what runs in its place.
SHORTER = [
    (r"--speed 1\b", "--speed 30"),  # the sample in ten seconds
    (r"samples/video\.pcap\.zst(?=.*--interpreted)", "short.pcap"),  # plain Python is a hundred times slower
    (r"top$", "top --once"),  # it would never end
    (r"(train .* --features net\+app|train course.*)$", r"\1 --no-compare"),  # test_cli_train compares feature sets
    (r"(explore traces .*)", r"\1 --trials 2 --no-compare --intervals 10s"),  # 24 minutes by default
    (r"--intervals 10s,30s --trials 4", "--intervals 10s --trials 2"),
    (r"--trials 4", "--trials 2"),
]
# What no test of a page runs, and why. The options of commands of the program are checked all the same.
NOT_RUN = [
    (
        r"^sudo |^sudoedit |^make (install|uninstall)",
        "root: installation and service are tested in test_install and test_systemd_*",
    ),
    (
        r"^make |^\. \.venv/bin/activate$|^git |^pip |^\.ci/run$",
        "sets up the checkout that the tests run in; its target exists",
    ),
    (r"^systemctl |^journalctl ", "a service manager: test_systemd_service"),
    (r"--cluster tcp://", "a cluster: test_tasks"),
    (r"sqlite\.json", "a plugin that is to be installed first: test_plugin_sinks"),
    (r"--interface eth1|-i eth1", "a mirror port: test_daemon_live and test_worker_live"),
    (r"^cat /sys/class/net/eth1/|^lscpu|^ethtool", "the reader's own hardware"),
    (r"^(TRAFFICREFINERY_JIT=off )?\.venv/bin/(python|pytest) ", "development: run by `make test` and `make bench`"),
    (r"^python benchmarks/", "measurements: `make bench`"),
]


class Code(NamedTuple):
    language: str
    title: str
    text: str
    line: int


def code_of(page: Path) -> list[Code]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    document = Document(text, str(page))
    blocks = []
    for region in FENCE(document):
        info = region.lexemes["info"]
        title = re.search(r'title="([^"]+)"', info)
        line = text.count("\n", 0, region.start) + 1
        blocks.append(Code(info.split(" ")[0], title[1] if title else "", region.lexemes["source"].text, line))
    return blocks


def lines_of(text: str) -> Iterator[str]:
    """The commands of a shell block, without what stands behind them."""
    for line in text.replace("\\\n", " ").splitlines():
        command = re.split(r"\s+#\s", line, maxsplit=1)[0].strip()
        if command and not command.startswith("#"):
            yield command


class Place:
    """A folder and a network of its own, in which the commands of a page run."""

    def __init__(self, folder: Path, network: Namespace) -> None:
        self.folder, self._network = folder, network
        self._daemon: subprocess.Popen[str] | None = None
        self._environment = {**os.environ, "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}", "COLUMNS": "120"}
        self._environment.pop("PYTHONPATH", None)

    def sh(self, command: str) -> str:
        """What a command prints; it must succeed, and leave what it is to write."""
        with self._network.inside():
            done = subprocess.run(
                ["bash", "-ec", command], cwd=self.folder, env=self._environment, check=False, capture_output=True,
                text=True, timeout=300,
            )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, f"{command}: exit status {done.returncode}: {said[-2000:]}"
        assert "Traceback" not in said
        assert "error: " not in done.stderr
        for out in re.findall(r"(?:-o|--out) (\S+)", command):
            made = self.folder / out
            assert made.exists(), f"{command}: wrote no {out}"
            assert made.is_dir() or made.stat().st_size, f"{command}: {out} is empty"
        return said

    def daemon(self, command: str) -> None:
        """Start `run`, and wait until it is at work."""
        with self._network.inside():
            self._daemon = subprocess.Popen(
                shlex.split(command), cwd=self.folder, env=self._environment, text=True, stderr=subprocess.PIPE
            )
        until = time.monotonic() + 240
        ready = "curl -sf -o ready http://127.0.0.1:9464/readyz && test -s ready"
        while True:
            assert self._daemon.poll() is None, f"{command}: {self._daemon.stderr and self._daemon.stderr.read()}"
            assert time.monotonic() < until, f"{command}: not ready"
            with contextlib.suppress(AssertionError):
                self.sh(ready)
                return
            time.sleep(0.2)

    def end_daemon(self) -> None:
        """Ctrl-C, or the end of the trace; nothing, where there is no daemon."""
        daemon, self._daemon = self._daemon, None
        if daemon is not None:
            if daemon.poll() is None:
                daemon.send_signal(signal.SIGINT)
            _, said = daemon.communicate(timeout=60)
            assert daemon.returncode == 0, said


def first_packets(trace: Path, packets: int) -> bytes:
    """The start of a compressed pcap file."""
    with trace.open("rb") as file:
        data = zstandard.ZstdDecompressor().stream_reader(file).read(packets * 1_600)
    end = 24
    for _ in range(packets):
        end += 16 + struct.unpack_from("<I", data, end + 8)[0]
    return data[:end]


@pytest.fixture
def place(tmp_path, sample_trace) -> Iterator[Place]:
    if os.geteuid() != 0:
        pytest.skip("a network namespace is made by root only")
    shutil.copytree(ROOT / "samples", tmp_path / "samples")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    shutil.copytree(ROOT / "features", tmp_path / "features")
    (tmp_path / "short.pcap").write_bytes(first_packets(sample_trace, 3_000))
    shutil.copy(sample_trace, tmp_path / "monday.pcap.zst")
    (tmp_path / "traces").symlink_to("samples")
    (tmp_path / "video_dataset.pkl").write_bytes(frame_pickle(session_intervals()))
    (tmp_path / "netflix_session.pkl").write_bytes(frame_pickle(session_intervals(1, 30, labelled=False)))
    network = Namespace()
    network.run("ip", "link", "set", "lo", "up")
    made = Place(tmp_path, network)
    yield made
    made.end_daemon()
    network.close()


def test_every_page_has_been_found():
    assert {"README.md", "docs/index.md", "docs/tutorials/operator.md", "docs/recipes.md"} <= set(PAGES)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_what_it_says(name, place):
    for block in code_of(ROOT / name):
        try:
            run_block(block, place)
        except AssertionError as failed:
            raise AssertionError(f"{name}:{block.line}: {failed}") from failed


def run_block(block: Code, place: Place) -> None:
    if block.title:
        file = place.folder / block.title
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text)
    if block.language == "sh":
        daemon = False
        for command in lines_of(block.text):
            daemon |= run_command(command, place)
        if not daemon:
            place.end_daemon()
    elif block.language == "json":
        check_configuration(block, place.folder)
    elif block.language == "python" and not block.title:
        script = place.folder / f"line_{block.line}.py"
        script.write_text(block.text)
        place.sh(f"{sys.executable} {script.name}")
    else:
        assert block.language in ("text", "python", "yaml", "toml", "mermaid"), f"nothing checks {block.language!r}"


def run_command(command: str, place: Place) -> bool:
    """Run it, and return whether it is a daemon that goes on."""
    words = command.removeprefix("sudo ").removeprefix(".venv/bin/")
    if words.startswith("trafficrefinery "):
        options_exist(words)
    if words.startswith("make "):
        target_exists(words.split()[1])
    if any(re.search(pattern, command) for pattern, _ in NOT_RUN):
        return False
    for pattern, shorter in SHORTER:
        command = re.sub(pattern, shorter, command)
    if command.startswith("trafficrefinery run "):
        place.daemon(command)
        return True
    if command.startswith("trafficrefinery top") and place._daemon is None:
        return False  # of the service, which is not installed here
    place.sh(command)
    return False


def options_exist(command: str) -> None:
    """The command, its arguments and options are those of the program."""
    words = shlex.split(command.partition(" > ")[0].partition(" | ")[0])[1:]
    found: Any = load_command(words[0])
    rest = words[1:]
    if hasattr(found, "commands"):
        found, rest = found.commands[rest[0]], rest[1:]
    found.make_context(words[0], list(rest))


def target_exists(target: str) -> None:
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"no target {target}"


SERVICES = [{"Name": "Example", "Filter": {"DomainsString": ["video.example"]}, "Collect": ["VideoSegments"]}]


def check_configuration(block: Code, folder: Path) -> None:
    """A whole configuration, or some of its keys."""
    if any(re.search(pattern, block.title) for pattern, _ in NOT_RUN):
        return
    text = block.text.strip()
    keys = json.loads(text if text.startswith("{") else f"{{{text}}}")
    if "Privacy" in keys:
        (folder / "privacy.key").touch(0o600)
        (folder / "privacy.key").write_bytes(bytes(32))
    before = Path.cwd()
    os.chdir(folder)
    try:
        parse_config({"Services": SERVICES, **keys})
    finally:
        os.chdir(before)


# The examples of `--help`

EXAMPLES = [  # in an order in which each finds what it reads
    "config", "config check", "config show", "config schema", "completion", "names", "replay", "features", "features list",
    "features new", "features check", "features show", "features sessions", "dataset", "dataset build", "dataset import",
    "train", "evaluate", "report", "infer", "plot", "plot session", "plot model", "profile", "explore",
    "lab", "lab run", "lab plan", "run", "top",
]  # fmt: skip


def examples() -> dict[str, str]:
    """The example of each command and group."""
    found = {}
    for name in [*COMMANDS, *commands_of("")]:
        command: Any = load_command(name)
        found[name] = command.epilog
        found |= {f"{name} {sub}": one.epilog for sub, one in getattr(command, "commands", {}).items()}
    return found


def test_every_command_has_an_example_that_is_run():
    found = examples()
    assert sorted(found) == sorted(EXAMPLES)
    for name, epilog in found.items():
        assert epilog, name
        assert re.match(rf"Example: (sudo )?trafficrefinery {name.split()[0]}\b", epilog), name


def test_the_examples_of_help_run_as_they_are_written(place):
    found = examples()
    shutil.copy(place.folder / "configs/video.json", place.folder / "video.json")
    place.sh("trafficrefinery features new Payloads -o my_features")
    place.sh("trafficrefinery replay samples/video.pcap.zst -c configs/video.json -o out --format parquet --sessions")
    for name in EXAMPLES:
        if name == "infer":
            (place.folder / "my_model").symlink_to("model")
        if name == "top":
            place.daemon("trafficrefinery run -c video.json -o records --file samples/video.pcap.zst --speed 30")
        command = found[name].removeprefix("Example: ")
        try:
            run_command(command, place)
        except AssertionError as failed:
            raise AssertionError(f"{name} --help: {failed}") from failed
