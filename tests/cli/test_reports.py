"""Reports: one style and one template, the pages of the package, and one of another distribution in one file."""

from __future__ import annotations

import json
import re

import matplotlib as mpl
import numpy as np
import pytest

from support import browsers, datasets, pages
from support.recipes import install_distribution, recipe_files
from trafficrefinery.cli import main as cli
from trafficrefinery.cli.reports import Bullets, Note, Page, PageSection, PageTable, Picture, style, write_page
from trafficrefinery.cli.reports.numbers import human_bytes, nanoseconds, number
from trafficrefinery.cli.reports.page import write_pictures
from trafficrefinery.cli.reports.terminal import print_page
from trafficrefinery.config.paths import models_dir
from trafficrefinery.models.training import TrainOptions, train
from trafficrefinery.models.training import pipeline as training
from trafficrefinery.models.training.estimators import Candidate
from trafficrefinery.system import plugins

SMALL = Candidate("forest", (("n_estimators", 8), ("max_depth", 6), ("min_samples_leaf", 3)), 0.1)


def run(*arguments):
    return cli._run(list(map(str, arguments)))


def bars(number):
    def draw():
        figure, axes = style.axes(2)
        axes.bar(range(number), range(1, number + 1), color=[style.colour(at) for at in range(number)])
        axes.text(0, 1, "light", color=style.WHITE)
        axes.plot([0, 1], [1, 2], marker="o", label="one")
        style.legend_beside(axes)
        return figure

    return draw


def made(*blocks):
    return Page(
        "Title <b>", "a & b", "2026-01-02T03:04:05+00:00", [PageSection("Part", blocks)], [("1", "one")], [("x", "y")]
    )


# The page and the style.


def test_two_pictures_of_a_page_share_no_names_and_text_is_escaped(tmp_path):
    pictures = [Picture(name, "A <title>", "its & caption", bars(3)) for name in ("first", "second")]
    page = made(
        "text <i>", *pictures, PageTable(("a", "b\nc"), [("<1>", "2")], sums=1), Note("note"), Bullets(["<one>"])
    )
    write_page(page, tmp_path / "page.html")
    text = pages.check(tmp_path / "page.html", "Title &lt;b&gt;")
    for shown in (
        "a &amp; b",
        "text &lt;i&gt;",
        'aria-label="A &lt;title&gt;"',
        "its &amp; caption",
        "&lt;1&gt;",
        "&lt;one&gt;",
    ):
        assert shown in text


def test_a_picture_of_a_page_has_the_ink_and_paper_of_the_page():
    text = style.inline_svg(bars(2), "name", "title")
    assert "var(--ink)" in text
    assert "var(--line)" in text
    assert not {style.INK, style.SOFT, style.LINE, style.PAPER, "#000000"} & set(re.findall(r"#[0-9a-f]{6}", text))
    assert style.BLUE in text
    assert style.WHITE in text


def test_a_picture_is_the_same_each_time_and_leaves_the_settings_of_matplotlib(tmp_path):
    before = dict(mpl.rcParams)
    first, again = (write_pictures([Picture("a", "", "", bars(3))], tmp_path / name, "svg") for name in ("1", "2"))
    assert first[0].read_bytes() == again[0].read_bytes()
    assert dict(mpl.rcParams) == before


def test_series_are_told_apart_beyond_the_colours():
    looks = {(style.colour(at), style.marker(at), str(style.line(at)), style.hatch(at)) for at in range(35)}
    assert len(looks) == 35


def luminance(colour):
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("background", ["#ffffff", "#1b2229"])
@pytest.mark.parametrize("colour", style.COLOURS)
def test_every_colour_shows_on_the_light_and_on_the_dark_page(colour, background):
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) > 2


def test_a_page_on_a_terminal_has_its_tables_and_text(capsys):
    print_page(made("words [b]", PageTable(("a", "b"), [("one", "22")]), Note("left out"), Bullets(["point"])))
    out = capsys.readouterr().out
    assert out.splitlines()[:2] == ["Part", "words [b]"]
    assert "one   22" in out
    assert "  – point" in out
    assert "left out" not in out


@pytest.mark.parametrize(
    ("shown", "text"),
    [(number(1234.5), "1,234"), (number(0.12345), "0.123"), (number(3.0), "3"), (number(None), "–"),
     (nanoseconds(5.06), "5.1"), (nanoseconds(float("nan")), "–"), (human_bytes(999.6), "1 KB"),
     (human_bytes(19_800_000), "19.8 MB"), (human_bytes(2.5e15), "2,500 TB"), (human_bytes(None), "–")],
)  # fmt: skip
def test_figures_have_three_digits_that_count(shown, text):
    assert shown == text


# The pages of the package; those of `profile` and `explore` are checked where they are made.


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluated")
    data = datasets.write(folder / "data.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(training.MODELS, "forest", (SMALL,))
        train(data, folder / "model", TrainOptions(compare=False))
    assert run("evaluate", folder / "model", data, "-o", folder / "out", "--quiet") == 0
    return folder


def test_an_evaluation_is_a_page_with_its_pictures_beside_it(browser, evaluated, tmp_path):
    out = evaluated / "out"
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "plots", "report.html"]
    text = pages.check(out / "report.html", "How good the model ")
    metrics = json.loads((out / "metrics.json").read_text())
    assert f"<b>{metrics['accuracy']:.1%}</b>" in text
    assert metrics["data_sha256"] in text
    names = {path.stem for path in (out / "plots").iterdir()}
    assert names == {"confusion", "reliability", "labels", "roc"}
    pages.check_in_browser(browser, out / "report.html", tmp_path)


@pytest.mark.parametrize("model", ["lab", "lab-startup", "youtube"])
def test_every_bundled_model_has_a_page(model, tmp_path):
    assert run("report", "evaluate", model, "-o", tmp_path / "model.html") == 0
    made_with = json.loads((models_dir() / model / "manifest.json").read_text())["versions"]["trafficrefinery"]
    pages.check(tmp_path / "model.html", f"How good the model {model} is", made_with)


def test_a_session_is_a_page_or_a_picture(browser, evaluated, tmp_path):
    given = ("plot", "session", evaluated / "data.parquet", "--model", evaluated / "model", "--session", "s3", "-o")
    assert run(*given, tmp_path / "s.html") == run(*given, tmp_path / "s.png") == run(*given, tmp_path / "s.svg") == 0
    text = pages.check(tmp_path / "s.html", "Session s3")
    assert text.count("<tr") == 1 + 8 + 2  # intervals, and what it was made from
    assert str(evaluated / "data.parquet") in text
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "s.svg").read_text()
    pages.check_in_browser(browser, tmp_path / "s.html", tmp_path)


def test_requests_and_errors_of_a_page_would_be_seen(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://pictures.invalid/x.png"><script>wrong()</script>')
    done = browsers.opened(browser, page, tmp_path)
    assert "CONSOLE" in done.stderr
    assert browsers.asked_for(tmp_path) == ["http://pictures.invalid/x.png"]


# `trafficrefinery report`, and reports of other distributions.


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install a distribution, one file and its metadata, that adds a report."""

    def installed(module: str, name: str = "sides") -> None:
        (tmp_path / "strangers_report.py").write_text(module)
        install_distribution(tmp_path, "stranger", plugins.REPORTS, f"{name} = strangers_report:page_of")
        monkeypatch.syspath_prepend(tmp_path)
        plugins.forget()
        monkeypatch.delitem(__import__("sys").modules, "strangers_report", raising=False)

    yield installed
    monkeypatch.undo()
    plugins.forget()


@pytest.fixture
def recipe():
    """The file in the recipe of the documentation."""
    return recipe_files()["sides_report.py"]


def test_the_recipe_adds_a_report_with_one_file(install, recipe, root, tmp_path, capsys):
    install(recipe)
    out = tmp_path / "out"
    assert run("replay", root / "samples" / "video.pcap.zst", "-c", root / "configs" / "video.json", "-o", out) == 0
    capsys.readouterr()
    assert run("report") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["report", "profile", "explore", "evaluate", "sides"]
    assert "Records by service" in lines[-1]
    assert run("report", "sides", out) == 0
    assert capsys.readouterr().out == f"report: {out / 'sides.html'}\n"
    text = pages.check(out / "sides.html", "Records by service")
    assert "<td>Example</td>" in text
    assert text.count("<svg") == 1


def test_the_reports_of_the_package_cannot_be_replaced(install, capsys):
    install("raise SystemError\n", "evaluate")
    assert run("report") == 0
    assert "How good a model is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["report", "evalaute", "x"], 'no report "evalaute"; did you mean "evaluate"?'),
        (["report", "evaluate"], "report evaluate: name the directory of results"),
        (["report", "evaluate", "gone"], "DIRECTORY: there is no folder "),
        (["report", "profile", "lab"], "costs.json: cannot be read: No such file or directory; name a directory that "),
        (
            ["report", "explore", "lab"],
            "explore.json: cannot be read: No such file or directory; name a directory that ",
        ),
        (["report", "evaluate", "lab", "-o", "/proc/no/a.html"], "/proc/no/a.html: cannot be written: No such file "),
    ],
)
def test_a_report_that_cannot_be_made_is_one_line(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_report_that_cannot_be_loaded_stops_no_other(install, capsys, tmp_path):
    install("import absent_module\n")
    assert run("report") == 0
    assert "(This report cannot be loaded.)" in capsys.readouterr().out
    assert run("report", "sides", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.startswith(
        'error: stranger: the entry "sides = strangers_report:page_of" in trafficrefinery.reports cannot be loaded: '
    )
    assert error.count("\n") == 1
