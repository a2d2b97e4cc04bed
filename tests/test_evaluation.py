"""A whole evaluation with an analytic backbone: its numbers, its files, its failures, and its return after a kill."""

import base64
import csv
import io
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import molecule
from ase.units import Bohr, Hartree
from test_data_check import springs
from toy_backbone import ToyBackbone, ToyModel
from typer.testing import CliRunner

from hip_ext.cli import app
from hip_ext.cli.output import print_tables, table
from hip_ext.data.formats import write_records
from hip_ext.data.record import HessianRecord
from hip_ext.data.store import HessianStore
from hip_ext.errors import CheckpointError, ConfigError, DataError
from hip_ext.evaluation.inputs import Contestant, check_units, load_contestant, read_data
from hip_ext.evaluation.metrics import QUANTITIES, compare
from hip_ext.evaluation.pairs import pairs_of
from hip_ext.evaluation.run import Settings, evaluate, read_results
from hip_ext.head import HeadConfig
from hip_ext.model import attach_head
from hip_ext.reference import autograd_hessian
from hip_ext.structures import Structures

NAMES = ("H2O", "CH3OH", "NH3", "CH3OH", "CH3CH2OH", "CH3OCH3")
SMALL_HEAD = HeadConfig(scalars=8, channels=4, hidden=8, pair_channels=4, coordinates=8)
FILES = ("structures.csv", "summary.json", "summary.md", "report.html")


def exact_hessian(backbone, atoms):
    return autograd_hessian(backbone, Structures.from_ase(atoms)).numpy()


def labelled(seed=0, **info):
    """Molecules out of equilibrium with Hessians of another toy potential."""
    teacher = ToyBackbone(ToyModel(seed=5))
    records = []
    for number, name in enumerate(NAMES):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=seed + number)
        record = HessianRecord.from_atoms(atoms, method="toy").with_hessian(exact_hessian(teacher, atoms))
        found = teacher.evaluate(Structures.from_ase(atoms))
        own = {key: values[number] for key, values in info.items()}
        records.append(replace(record, energy=float(found.energy), forces=found.forces.numpy(), info=own))
    return records


def stored(path, records):
    with HessianStore(path, "a") as store:
        store.append(records, keys=[f"structure {k}" for k in range(len(records))])
    return read_data(path)


@pytest.fixture(scope="module")
def contestants():
    backbone = ToyBackbone()
    head = attach_head(backbone, SMALL_HEAD)
    return [Contestant("head", backbone, head), Contestant("toy:autograd", backbone)]


@pytest.fixture(scope="module")
def finished(contestants, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    records = labelled(distortion=["a", "a", "b", "b", "b", "a"])
    summary = evaluate(contestants, stored(folder / "labels.lmdb", records), folder / "out", Settings(batch=4))
    return summary, folder / "out", records


def result_of(summary, model, reference):
    return next(r for r in summary["results"] if (r["model"], r["reference"]) == (model, reference))


def test_numbers_are_those_of_the_metrics(finished, contestants):
    summary, _, records = finished
    assert [(r["model"], r["reference"]) for r in summary["results"]] == [
        ("head", "data"),
        ("head", "autograd"),
        ("toy:autograd", "data"),
    ]
    model, backbone = contestants[0].model, contestants[0].backbone
    expected = {("head", "data"): [], ("head", "autograd"): [], ("toy:autograd", "data"): []}
    forces = []
    for record in records:
        atoms = record.atoms()
        direct, exact = model.hessian(atoms).dense().numpy(), exact_hessian(backbone, atoms)
        expected["head", "data"].append(compare(atoms, direct, record.hessian()))
        expected["head", "autograd"].append(compare(atoms, direct, exact))
        expected["toy:autograd", "data"].append(compare(atoms, exact, record.hessian()))
        forces.append(np.abs(backbone.evaluate(Structures.from_ase(atoms)).forces.numpy() - record.forces).mean())
    for (name, reference), metrics in expected.items():
        found = result_of(summary, name, reference)
        assert found["evaluated"] == len(records) and not found["failures"] and not found["skipped"]
        # Raw eigenvectors of exact Hessians mean nothing in their lowest places: translations all have λ = 0, and
        # rounding picks the basis.
        for key in vars(metrics[0]).keys() - {"cos1_raw", "cos2_raw", "overlap_error_raw"}:
            values = [float(vars(m)[key]) for m in metrics]
            assert found["metrics"][key]["mean"] == pytest.approx(np.mean(values), rel=1e-8, abs=1e-9), key
            assert found["metrics"][key]["unit"] == QUANTITIES[key].unit
            assert found["metrics"][key]["low"] <= found["metrics"][key]["mean"] <= found["metrics"][key]["high"]
    assert result_of(summary, "head", "data")["metrics"]["forces_mae"]["mean"] == pytest.approx(np.mean(forces))
    autograd = result_of(summary, "head", "autograd")
    assert "forces_mae" not in autograd["metrics"]
    relative = np.mean([m.hessian_relative for m in expected["head", "autograd"]])
    assert autograd["force_consistency"]["mean"] == pytest.approx(relative)


def test_breakdowns_add_up(finished):
    summary, _, records = finished
    for result in summary["results"]:
        mean = result["metrics"]["hessian_mae"]["mean"]
        for key in ("by_size", "by_group", "by_negative_count", "by_lowest_mode"):
            groups = result[key].values()
            assert sum(g["structures"] for g in groups) == len(records)
            total = sum(g["structures"] * g["hessian_mae"]["mean"] for g in groups)
            assert total / len(records) == pytest.approx(mean)
        for key in ("by_element_pair", "by_distance"):
            entries = sum(c["entries"] for c in result[key].values())
            assert entries == sum(9 * len(r.numbers) ** 2 for r in records)
    by_group = result_of(summary, "head", "data")["by_group"]
    assert {name: group["structures"] for name, group in by_group.items()} == {"a": 3, "b": 3}


def test_difference_of_two_models(finished):
    summary = finished[0]
    (found,) = summary["differences"]
    assert (found["model"], found["minus"], found["reference"]) == ("toy:autograd", "head", "data")
    ours, theirs = (result_of(summary, name, "data")["metrics"] for name in ("toy:autograd", "head"))
    expected = ours["hessian_mae"]["mean"] - theirs["hessian_mae"]["mean"]
    assert found["metrics"]["hessian_mae"]["mean"] == pytest.approx(expected)


def test_csv_json_and_markdown_agree(finished):
    summary, folder, _ = finished
    assert json.loads((folder / "summary.json").read_text()) == summary
    rows = list(csv.DictReader(io.StringIO((folder / "structures.csv").read_text())))
    assert len(rows) == 3 * len(NAMES)
    text = (folder / "summary.md").read_text()
    headings, _, *body = [line for line in text.split("\n\n## ")[1].splitlines() if line.startswith("|")]
    cells = {c[1].strip(): [x.strip() for x in c[2:-1]] for c in (re.split(r"(?<!\\)\|", line) for line in body)}
    assert len(re.split(r"(?<!\\)\|", headings)) == 6
    for column, result in enumerate(summary["results"]):
        own = [r for r in rows if (r["model"], r["reference"]) == (result["model"], result["reference"])]
        for name, estimate in result["metrics"].items():
            title, unit = QUANTITIES[name]
            values = [float(r[f"{name} [{unit}]" if unit else name]) for r in own]
            assert np.mean(values) == pytest.approx(estimate["mean"], rel=1e-12)
            shown = cells[(f"{title} ({unit})" if unit else title).replace("|", r"\|")][column]
            ends = f"{estimate['mean']:.4g} [{estimate['low']:.4g}, {estimate['high']:.4g}]"
            assert shown == ends


class Links(HTMLParser):
    """Everything in a page that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.found, self.tags = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]


def test_the_page_holds_its_plots_and_asks_for_nothing(finished):
    text = (finished[1] / "report.html").read_text()
    links = Links(text)
    assert len(links.found) == 5 * 3 and not links.tags & {"script", "link", "iframe"}
    without = text
    for link in links.found:
        head, data = link.split(",", 1)
        assert head == "data:image/svg+xml;base64"
        picture = base64.b64decode(data).decode()
        assert picture.rstrip().endswith("</svg>") and "<path" in picture
        assert not re.search(r'href="(?!#|data:)', picture) and "@import" not in picture
        without = without.replace(link, "")
    assert "http" not in without and "url(" not in without and "@import" not in without
    assert "width=device-width" in text and "@media print" in text


def test_zpe_differences_of_pairs(contestants, tmp_path):
    summary = evaluate(contestants[1:], stored(tmp_path / "a.lmdb", labelled()), tmp_path / "a", Settings(("data",)))
    pairs = summary["results"][0]["pairs"]
    lines = read_results(tmp_path / "a/results.jsonl")
    assert (pairs["how"], pairs["count"]) == ("formula", 2)  # two times CH3OH; C2H6O as ethanol and as ether
    error = [line["metrics"]["zpe"] - line["metrics"]["zpe_reference"] for line in lines]
    expected = (abs(error[3] - error[1]) + abs(error[5] - error[4])) / 2
    assert pairs["delta_zpe_mae"]["mean"] == pytest.approx(expected)
    energies = [line["energy"][0] - line["energy"][1] for line in lines]
    expected = (abs(energies[3] - energies[1]) + abs(energies[5] - energies[4])) / 2
    assert pairs["delta_energy_mae"]["mean"] == pytest.approx(expected)

    records = labelled(reaction=["w", "x", "y", "z", "z", "z"])
    settings = Settings(("data",), pair_by="reaction")
    summary = evaluate(contestants[1:], stored(tmp_path / "b.lmdb", records), tmp_path / "b", settings)
    pairs = summary["results"][0]["pairs"]
    assert (pairs["how"], pairs["count"]) == ("declared", 1)  # of the three z only two have one formula
    assert pairs["delta_zpe_mae"]["mean"] == pytest.approx(abs(error[5] - error[4]))


def test_formula_pairs_use_each_structure_once():
    lines = [{"pair": None, "formula": formula, "k": k} for k, formula in enumerate("ABAAAB")]
    assert [(a["k"], b["k"]) for a, b in pairs_of(lines)[1]] == [(0, 2), (3, 4), (1, 5)]


def test_what_fails_is_counted_and_the_rest_goes_on(contestants, tmp_path):
    records = labelled()
    gold = HessianRecord(np.array([79, 79]), np.array([[0, 0, 0], [0, 0, 2.5]])).with_hessian(np.eye(6))
    atom = HessianRecord(np.array([1]), np.zeros((1, 3))).with_hessian(np.eye(3))
    plain = replace(records[0], labelled=None, rows=None)
    part = replace(records[1], labelled=np.array([0]), rows=records[1].rows[:1])
    data = stored(tmp_path / "labels.lmdb", [records[0], gold, plain, part, atom, records[2]])
    summary = evaluate(contestants, data, tmp_path / "out")
    direct = result_of(summary, "head", "data")
    assert direct["evaluated"] == 2
    assert direct["skipped"] == {"no complete Hessian in the data": 2}
    assert sorted(direct["failures"].values()) == [1, 1]
    assert any("does not know Au" in reason for reason in direct["failures"])
    assert any("single atom" in reason for reason in direct["failures"])
    assert result_of(summary, "head", "autograd")["evaluated"] == 4  # partial labels are no obstacle here
    text = (tmp_path / "out/summary.md").read_text()
    assert "2 skipped, no complete Hessian in the data" in text and "does not know Au" in text


class OneDamaged(list):
    """Records of which the second cannot be read."""

    def __getitem__(self, index):
        if index == 1:
            raise DataError("record 1: checksum differs")
        return super().__getitem__(index)


def test_one_damaged_record_among_others(contestants, tmp_path):
    data = replace(stored(tmp_path / "labels.lmdb", labelled()), records=OneDamaged(labelled()))
    summary = evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",)))
    (result,) = summary["results"]
    assert result["evaluated"] == len(NAMES) - 1 and result["failures"] == {"record 1: checksum differs": 1}


def test_a_bad_record_of_a_file_is_a_failure_of_its_own(contestants, tmp_path):
    write_records(tmp_path / "labels.xyz", labelled())
    text = (tmp_path / "labels.xyz").read_text()
    spoilt = text.replace('REF_hessian="', 'REF_hessian="nan ', 2).replace('REF_hessian="nan ', 'REF_hessian="', 1)
    (tmp_path / "labels.xyz").write_text(spoilt)
    data = read_data(tmp_path / "labels.xyz")
    summary = evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",)))
    (result,) = summary["results"]
    ((reason, count),) = result["failures"].items()
    assert result["evaluated"] == len(NAMES) - 1 and count == 1
    assert "labels.xyz, structure 1: " in reason and "entries, found" in reason
    assert len(read_data(tmp_path / "labels.xyz", limit=2).records) == 2


def test_other_units_are_refused_until_they_are_stated(tmp_path):
    records = [springs("CH3CH2OH"), springs("C6H6"), springs("C2H6")]
    write_records(tmp_path / "right.xyz", records)
    write_records(tmp_path / "wrong.xyz", [replace(r, rows=r.rows / (Hartree / Bohr**2)) for r in records])
    check_units(read_data(tmp_path / "right.xyz"))
    check_units(read_data(tmp_path / "wrong.xyz", units="Hartree/Bohr^2"))
    for limit, words in ((None, "3 of 3 records of"), (1, "1 of 1 records of")):
        with pytest.raises(DataError, match=words + r" .*wrong\.xyz .*Hartree/Bohr².*--units.*--trust-units"):
            check_units(read_data(tmp_path / "wrong.xyz"), limit)
    arguments = ["evaluate", "hip-so3lr-organic", str(tmp_path / "wrong.xyz"), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "Hartree/Bohr²" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_readable_record_is_refused(tmp_path):
    write_records(tmp_path / "labels.xyz", labelled())
    text = (tmp_path / "labels.xyz").read_text()
    (tmp_path / "labels.xyz").write_text(text.replace('REF_hessian="', 'REF_hessian="nan'))
    with pytest.raises(DataError, match=r"no record of .* can be read, the first: .*structure 0"):
        check_units(read_data(tmp_path / "labels.xyz"))


def test_a_wide_table_is_not_cut_where_it_is_piped(capsys):
    wide = table("name", *(f"model {k} against the data" for k in range(12)))
    wide.add_row("frequency MAE", *["12.345 [11.111, 13.333]"] * 12)
    print_tables(wide)
    out = capsys.readouterr().out
    assert "…" not in out and out.count("13.333]") == 12 and "model 11 against the data" in out


def test_a_full_disk_loses_nothing(contestants, tmp_path):
    data = stored(tmp_path / "labels.lmdb", labelled())
    evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",), limit=2))
    before = (tmp_path / "out/results.jsonl").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, limits[1]))
        with pytest.raises(DataError, match=r"cannot write .*what was there is kept"):
            evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / "out/results.jsonl").read_bytes().startswith(before)
    summary = evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",)))
    assert summary["results"][0]["evaluated"] == len(NAMES)


def test_autograd_is_not_compared_with_itself(contestants, tmp_path):
    data = stored(tmp_path / "labels.lmdb", labelled())
    with pytest.raises(ConfigError, match="its own reference"):
        evaluate(contestants[1:], data, tmp_path / "out", Settings(("autograd",)))


def test_nothing_that_works_still_leaves_a_report(contestants, tmp_path):
    gold = HessianRecord(np.array([79, 79]), np.array([[0, 0, 0], [0, 0, 2.5]])).with_hessian(np.eye(6))
    summary = evaluate(contestants, stored(tmp_path / "labels.lmdb", [gold]), tmp_path / "out")
    assert all(result["evaluated"] == 0 and result["failures"] for result in summary["results"])
    assert all((tmp_path / "out" / name).exists() for name in FILES)


def test_plain_structures_against_autograd(contestants, tmp_path):
    frames = [molecule(name) for name in NAMES[:3]]
    ase.io.write(tmp_path / "frames.xyz", frames)
    summary = evaluate(contestants[:1], read_data(tmp_path / "frames.xyz"), tmp_path / "out", Settings(("autograd",)))
    (result,) = summary["results"]
    assert result["evaluated"] == 3 and result["metrics"]["hessian_mae"]["mean"] > 0


def test_limit_and_going_on_without_it(contestants, finished, tmp_path):
    data, settings = stored(tmp_path / "labels.lmdb", finished[2]), Settings(("data",), batch=4)
    first = evaluate(contestants[1:], data, tmp_path / "out", replace(settings, limit=2))
    assert first["results"][0]["evaluated"] == 2
    assert len((tmp_path / "out/results.jsonl").read_text().splitlines()) == 2
    whole = evaluate(contestants[1:], data, tmp_path / "out", settings)
    found = whole["results"][0]["metrics"]["hessian_mae"]
    expected = result_of(finished[0], "toy:autograd", "data")["metrics"]["hessian_mae"]
    assert found["n"] == expected["n"] and found["mean"] == pytest.approx(expected["mean"])


def test_a_folder_of_something_else_is_refused(contestants, finished, tmp_path):
    data = stored(tmp_path / "labels.lmdb", labelled())
    evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",), limit=1))
    other = stored(tmp_path / "other.lmdb", labelled(seed=3))
    with pytest.raises(ConfigError, match="begun with other data"):
        evaluate(contestants[1:], other, tmp_path / "out", Settings(("data",), limit=1))
    with pytest.raises(ConfigError, match="begun with other models"):
        evaluate(contestants, data, tmp_path / "out", Settings(("data",), limit=1))
    with pytest.raises(ConfigError, match="begun with other references"):
        evaluate(contestants[1:], data, tmp_path / "out", Settings(limit=1))
    seeded = attach_head(contestants[0].backbone, SMALL_HEAD, seed=1)
    assert Contestant("head", seeded.backbone, seeded).fingerprint != contestants[0].fingerprint
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(ConfigError, match="not empty and not an evaluation"):
        evaluate(contestants, data, tmp_path / "mine")


def test_damaged_results_are_named(contestants, tmp_path):
    data = stored(tmp_path / "labels.lmdb", labelled())
    evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",), limit=2))
    path = tmp_path / "out/results.jsonl"
    path.write_text(path.read_text().replace('"index"', '"ind', 1))
    with pytest.raises(DataError, match="line 1 is damaged"):
        evaluate(contestants[1:], data, tmp_path / "out", Settings(("data",), limit=2))


KILLED = """
import sys
sys.path.insert(0, {tests!r})
from test_evaluation import SMALL_HEAD, Contestant, Settings, ToyBackbone, attach_head, evaluate, read_data
backbone = ToyBackbone()
both = [Contestant("head", backbone, attach_head(backbone, SMALL_HEAD)), Contestant("toy:autograd", backbone)]
evaluate(both, read_data({data!r}), {out!r}, Settings(batch=1))
"""


def test_a_killed_run_ends_with_the_same_files(tmp_path, contestants):
    records = labelled() * 2
    undisturbed = tmp_path / "undisturbed"
    evaluate(contestants, stored(tmp_path / "labels.lmdb", records), undisturbed, Settings(batch=1))
    out = tmp_path / "killed"
    script = KILLED.format(tests=str(Path(__file__).parent), data=str(tmp_path / "labels.lmdb"), out=str(out))
    process = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "OMP_NUM_THREADS": "1"})
    path = out / "results.jsonl"
    deadline = time.monotonic() + 120
    while not path.exists() or path.read_bytes().count(b"\n") < 3:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = path.read_bytes()
    assert 3 <= done.count(b"\n") < 3 * len(records) and not (out / "summary.json").exists()
    path.write_bytes(done + done.splitlines()[-1][:40])  # what a kill in the middle of a write leaves behind
    evaluate(contestants, read_data(tmp_path / "labels.lmdb"), out, Settings(batch=1))
    assert path.read_bytes().startswith(done[: done.rfind(b"\n") + 1])
    for name in FILES:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("hip-so3lr-organik", "did you mean 'hip-so3lr-organic'"),
        ("so3l:autograd", "did you mean 'so3lr'"),
    ],
)
def test_unknown_models(name, problem):
    with pytest.raises(CheckpointError, match=problem):
        load_contestant(name)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["only.lmdb"], "at least one model and the data"),
        (["a", "a", "data.lmdb"], "named twice"),
        (["hip-so3lr-organic", "nowhere.lmdb"], "there is no such file"),
    ],
)
def test_command_says_what_is_wrong_in_one_line(arguments, problem, tmp_path):
    result = CliRunner().invoke(app, ["evaluate", *arguments, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2 and problem in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def so3lr():
    pytest.importorskip("so3krates_torch", reason="SO3LR is not installed")


def run(*arguments):
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    assert result.exit_code == 0, result.stderr
    return result


def test_nothing_compared_is_no_success(so3lr, tmp_path):
    ase.io.write(tmp_path / "atom.xyz", molecule("O"))
    arguments = ("hip-so3lr-organic", tmp_path / "atom.xyz", "--out", tmp_path / "out")
    result = CliRunner().invoke(app, ["evaluate", *map(str, arguments)])
    said = " ".join(result.stdout.split())
    assert result.exit_code == 1 and "a single atom has no vibration" in said and "Means" not in said


def test_shipped_checkpoint_on_molecules(so3lr, tmp_path):
    ase.io.write(tmp_path / "frames.xyz", [molecule(name) for name in ("H2O", "CH3OH", "CH4")])
    out = tmp_path / "out"
    shown = run("hip-so3lr-organic", "so3lr:autograd", tmp_path / "frames.xyz", "--out", out, "--json").stdout
    summary = json.loads(shown)
    assert summary == json.loads((out / "summary.json").read_text())
    result = result_of(summary, "hip-so3lr-organic", "autograd")
    assert result["evaluated"] == 3 and result["metrics"]["asymmetry"]["mean"] < 1e-6
    assert 0 < result["metrics"]["hessian_mae"]["mean"] < 0.1 * result["metrics"]["mean_abs"]["mean"]
    assert result["force_consistency"]["mean"] < 0.1
    assert summary["models"]["hip-so3lr-organic"]["backbone"].startswith("so3lr")
    again = run("hip-so3lr-organic", "so3lr:autograd", tmp_path / "frames.xyz", "--out", out).stdout
    assert "frequency MAE (cm⁻¹)" in again and "no complete Hessian in the data" in again


def test_horm_sample(so3lr, shared, tmp_path):
    file = shared / "data/horm_t1x_60.lmdb"
    run("hip-so3lr-organic", "so3lr:autograd", file, "--limit", 2, "--out", tmp_path / "out")
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    direct = result_of(summary, "hip-so3lr-organic", "data")
    own = result_of(summary, "so3lr:autograd", "data")
    assert direct["evaluated"] == own["evaluated"] == 2
    # ωB97X and SO3LR (PBE0) differ by some per cent; a unit mix-up would differ by a factor
    assert own["metrics"]["hessian_relative"]["mean"] < 0.3
    assert result_of(summary, "hip-so3lr-organic", "autograd")["force_consistency"]["mean"] < 0.3


DOCUMENT = Path(__file__).resolve().parents[1] / "docs/evaluation.md"


def test_the_document_runs_and_names_every_metric(so3lr, capsys):
    text = DOCUMENT.read_text(encoding="utf-8")
    for block in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL):
        exec(compile(block, str(DOCUMENT), "exec"), {})
    assert "eV/Å²" in capsys.readouterr().out
    for name in QUANTITIES.keys() - {"atoms", "zpe", "zpe_reference", "negative_count_reference"}:
        stem = re.sub(r"(_raw|_eckart)$", "", name)
        assert f"`{name}`" in text or f"`{stem}_…`" in text, name
