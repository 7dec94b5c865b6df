"""What holds for every feature class: the built-in ones, whichever they are, and the scaffold."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.feature_cases import BUILTIN, builtin, load_case, with_options, write_scaffold
from trafficrefinery.api import ArrayField, FeatureClass, parameters, state_dtype, state_fields
from trafficrefinery.cli.ui.describe import as_page
from trafficrefinery.cli.ui.scaffold import file_name
from trafficrefinery.config.paths import features_dir
from trafficrefinery.costs.measure.generated_traffic import traffic, write_traffic
from trafficrefinery.engine.feature_classes.fields import output_class, output_fields
from trafficrefinery.engine.feature_classes.fuse import Profile
from trafficrefinery.engine.feature_classes.registry import Registry
from trafficrefinery.engine.flow_cache import HEADER

SCAFFOLD = "BurstSizes"
VIDEO = ("PacketCounters", "TCPCounters", "VideoSegments")
INDEX_BYTES = 16  # of a flow, in an index that is at most half full
STATE_LIMIT_BYTES = 4096
TWINS = Path(__file__).parents[1] / "support" / "naive"


@pytest.fixture(scope="module")
def scaffold_file(tmp_path_factory):
    return write_scaffold(tmp_path_factory.mktemp("scaffold"), SCAFFOLD)


@pytest.fixture(params=[*BUILTIN, SCAFFOLD])
def cls(request, scaffold_file):
    return load_case(scaffold_file, SCAFFOLD) if request.param == SCAFFOLD else builtin(request.param)


def test_there_are_built_in_classes():
    assert set(VIDEO) < set(BUILTIN)


def test_one_file_holds_one_class_and_is_named_after_it(cls):
    file = Path(inspect.getfile(cls))
    assert file.name == file_name(cls.__name__)
    classes = [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]
    features = [node.name for node in classes if any(ast.unparse(base) == "FeatureClass" for base in node.bases)]
    assert features == [cls.__name__]
    assert output_class(cls).__name__ == f"{cls.__name__}Output"


def test_every_file_in_the_directory_holds_a_class():
    files = {file_name(name) for name in BUILTIN}
    assert {path.name for path in features_dir().glob("*.py")} == files


def test_the_documentation_has_a_summary_and_an_example(cls):
    documentation = inspect.getdoc(cls)
    assert documentation != inspect.getdoc(FeatureClass)
    assert documentation.splitlines()[0].endswith(".")
    assert f">>> feed({cls.__name__}, " in documentation or f"feed({cls.__name__}," in documentation


def test_every_output_says_its_unit(cls):
    without = [field.name for field in output_fields(with_options(cls)) if not field.doc]
    assert without == []


def test_every_list_of_an_output_is_bounded(cls):
    for field in output_fields(with_options(cls)):
        assert (field.size > 0) == (field.kind in ("ints", "floats", "bytes")), field.name


def test_the_state_is_declared_and_bounded(cls):
    assert {*state_dtype(cls).names} == {*state_fields(cls)}
    for kind in state_fields(cls).values():
        assert not isinstance(kind, ArrayField) or kind.size >= 0
    assert state_dtype(cls).itemsize % 8 + 8 > 0
    assert state_dtype(cls).itemsize <= STATE_LIMIT_BYTES
    assert state_dtype(with_options(cls)).itemsize <= STATE_LIMIT_BYTES


def test_a_parameter_has_a_value_that_a_configuration_can_write(cls):
    for name, value in parameters(cls).items():
        assert name[0].isupper()
        assert json.loads(json.dumps(value)) == value


def test_the_video_classes_are_small():
    classes = tuple(builtin(name) for name in VIDEO)
    state = Profile(classes, 1).state_dtype().itemsize
    assert state == sum(state_dtype(cls).itemsize for cls in classes)
    assert HEADER.itemsize + INDEX_BYTES + state < 1024


@pytest.mark.parametrize("name", BUILTIN)
def test_a_built_in_class_has_a_naive_twin(name):
    named = [path for path in TWINS.glob("*.py") if path.name not in ("running.py", "packets.py", "compiled.py")]
    own = TWINS / file_name(name)
    assert own in named or any(re.search(rf"\b{name}\b", path.read_text()) for path in named)


def test_the_page_of_all_outputs_is_current(root):
    page = root / "features" / "README.md"
    made = as_page([(builtin(name), Registry().file_of(name)) for name in BUILTIN])
    assert page.read_text() == made, "run `trafficrefinery features show --all --markdown > features/README.md`"


def test_the_page_tells_every_output_and_parameter(root):
    page = (root / "features" / "README.md").read_text()
    for name in BUILTIN:
        section = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for field in output_fields(with_options(builtin(name))):
            assert f"| `{field.name}` |" in section
        for parameter, value in parameters(builtin(name)).items():
            assert f"| `{parameter}` | `{value!r}` |" in section


# The same records in all ways, through the whole packet path


def service(net, collect):
    prefixes = [f"198.18.{net}.0/24", f"2001:db8:{net:x}::/48"]
    return {"Name": f"{net}", "Filter": {"Prefixes": prefixes}, "Collect": collect}


def options_of(cls):
    return {name: True for name, value in parameters(cls).items() if value is False}


@pytest.fixture(scope="module")
def task(tmp_path_factory, scaffold_file):
    """A trace with a copy of the traffic for each service, and the services: all classes together, all with all
    their options, and each alone."""
    folder = tmp_path_factory.mktemp("contract")
    classes = {**{name: builtin(name) for name in BUILTIN}, SCAFFOLD: load_case(scaffold_file, SCAFFOLD)}
    collects = [
        list(classes),
        [{name: options} for name, cls in classes.items() if (options := options_of(cls))],
        *([name] for name in classes),
    ]
    config = {
        "FeaturePaths": [str(scaffold_file)],
        "Services": [service(net, collect) for net, collect in enumerate(collects)],
    }
    (folder / "config.json").write_text(json.dumps(config))
    frames = [frame for net in range(len(collects)) for frame in traffic(exchanges=6, many=150, net=net)]
    write_traffic(folder / "trace.pcap", sorted(frames, key=lambda frame: frame.ts_ns))
    return folder, len(collects)


def records_of(mode, folder):
    command = [sys.executable, "-m", "trafficrefinery", "replay", "trace.pcap", "-c", "config.json", "-o", mode]
    environment = {**os.environ, "TRAFFICREFINERY_JIT": mode}
    done = subprocess.run(
        [*command, "--quiet"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Error" not in done.stderr, done.stderr
    return (folder / mode / "records.jsonl").read_bytes()


@pytest.fixture(scope="module")
def compiled(task):
    """`records.jsonl` as users get it."""
    return records_of("on", task[0])


def test_a_class_says_the_same_alone_and_beside_others(compiled, task):
    """Its copy of the traffic has other addresses and nothing else."""
    _, services = task
    found = {net: {} for net in range(services)}
    for line in compiled.splitlines():
        record = json.loads(line)
        key = record["ts_start"], record["client_port"], record["flow_start"]
        found[int(record["service"])][key] = record["features"]
    assert len(found[0]) > 20
    for net in range(2, services):
        ((name, *others),) = {tuple(features) for features in found[net].values()}
        assert others == []
        without_addresses = name not in ("HeaderBytes", "HeaderImage")
        assert found[net].keys() == found[0].keys()
        if without_addresses:
            assert {key: features[name] for key, features in found[net].items()} == {
                key: features[name] for key, features in found[0].items()
            }


@pytest.mark.parametrize("mode", ["off", "boundscheck"])
def test_records_of_every_class_are_the_same_interpreted_compiled_and_with_checked_bounds(compiled, task, mode):
    assert records_of(mode, task[0]) == compiled
