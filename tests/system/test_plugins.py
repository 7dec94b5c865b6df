"""The registry of plugins: what is found, in which order, and the one error for what cannot be used."""

from __future__ import annotations

import pytest

from support.recipes import install_distribution
from trafficrefinery.errors import PluginError
from trafficrefinery.system import plugins

GROUP = "trafficrefinery.tests"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution with entries of the group."""

    def installed(owner: str, *lines: str) -> None:
        install_distribution(tmp_path / owner, owner, GROUP, *lines)
        monkeypatch.syspath_prepend(tmp_path / owner)
        plugins.forget()

    yield installed
    plugins.forget()


def test_those_of_the_package_come_first_and_are_not_replaced(install):
    install("stranger", "b = math:pi", "a = math:tau", "own = math:e")
    found = plugins.installed(GROUP, {"own": "math:inf", "another": "math:nan"})
    assert [(name, plugin.owners) for name, plugin in found.items()] == [
        ("own", ("trafficrefinery",)), ("another", ("trafficrefinery",)), ("a", ("stranger",)), ("b", ("stranger",)),
    ]  # fmt: skip
    assert found["own"].load() == float("inf")
    assert found["b"].load(str) == "3.141592653589793"


def test_an_error_names_distribution_group_entry_and_cause(install):
    install("stranger", "a = absent_module:thing", "b = math:pie", "c = math:pi")
    found = plugins.installed(GROUP)
    for name, value, cause in (
        ("a", "absent_module:thing", "ModuleNotFoundError: No module named 'absent_module'"),
        ("b", "math:pie", "AttributeError: module 'math' has no attribute 'pie'"),
    ):
        with pytest.raises(PluginError) as caught:
            found[name].load()
        entry = f'the entry "{name} = {value}" in {GROUP}'
        assert str(caught.value) == f"stranger: {entry} cannot be loaded: {cause}; upgrade or uninstall stranger"
    with pytest.raises(PluginError, match=r"cannot be loaded: TypeError: "):
        found["c"].load(len)


def test_two_distributions_with_one_name_are_named_when_it_is_used(install):
    install("stranger", "a = math:pi", "b = math:tau")
    install("other", "a = math:e")
    found = plugins.installed(GROUP)
    with pytest.raises(PluginError, match=f'both have an entry "a" in {GROUP}; uninstall one of them') as caught:
        found["a"].load()
    assert {"stranger", "other"} <= set(str(caught.value).split())
    assert found["b"].load() == pytest.approx(6.283, abs=1e-3)
