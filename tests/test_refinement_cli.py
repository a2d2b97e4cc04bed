"""`--refine` and `--estimate-error` on the command line, with SO3LR and a head that was taught nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.io import read, write
from typer.testing import CliRunner

from hip_ext import attach_head, from_pretrained
from hip_ext.cli import app
from hip_ext.reference import autograd_hessian
from hip_ext.refinement import estimate_error, refine
from hip_ext.vibrations import analyse

pytest.importorskip("so3krates_torch", reason="needs so3krates-torch")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / "untrained"
    attach_head("so3lr", dtype=torch.float64).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "two.xyz"
    write(path, [molecule("H2O"), molecule("CO2")])
    return path


def hip_ext(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments], prog_name="hip-ext")
    assert result.exit_code == code, result.output
    return result


def test_refined_hessians_are_written_and_their_products_counted(checkpoint, frames, tmp_path):
    out = tmp_path / "h.npz"
    result = hip_ext("hessian", frames, "-m", checkpoint, "--refine", 2, "--estimate-error", 3, "--json", "-o", out)
    model, summaries = from_pretrained(checkpoint), json.loads(result.stdout)
    with np.load(out) as written:
        for k, (one, atoms) in enumerate(zip(summaries, read(frames, ":"), strict=True)):
            expected = refine(model, atoms, 2).hessian
            np.testing.assert_allclose(written[f"hessian_{k}"], expected, rtol=0, atol=1e-10)
            assert one["products"] == 2
            judged = estimate_error(model, atoms, 3, hessian=expected)
            assert one["estimated_rms_error"] == pytest.approx(judged.rms, rel=1e-6)
            assert one["estimated_relative_error"] == pytest.approx(judged.relative, rel=1e-6)
    table = hip_ext("hessian", frames, "-m", checkpoint, "--estimate-error", 1).stdout
    assert "RMS error" in table and "%" in table and "products" not in table


def test_frequencies_of_all_products_are_exact(checkpoint, frames):
    found = json.loads(hip_ext("frequencies", frames, "-m", checkpoint, "--refine", 4, "--json").stdout)
    model = from_pretrained(checkpoint)
    for one, atoms in zip(found, read(frames, ":"), strict=True):
        exact = analyse(atoms, autograd_hessian(model.backbone, model.structures(atoms)).numpy())
        np.testing.assert_allclose(one["frequencies"], exact.frequencies, rtol=0, atol=1e-4)


def test_the_lowest_mode_alone(checkpoint, frames):
    (water, _) = json.loads(hip_ext("hessian", frames, "-m", checkpoint, "--refine", "lowest", "--json").stdout)
    assert 1 <= water["products"] <= 3


def test_products_are_told_wherever_they_were_made(checkpoint, frames, tmp_path):
    page = tmp_path / "page.html"
    table = hip_ext("hessian", frames, "-m", checkpoint, "--refine", 2).stdout
    assert "products" in table.splitlines()[2] and [line.split()[-1] for line in table.splitlines()[4:6]] == ["2", "2"]
    printed = hip_ext("frequencies", frames, "-m", checkpoint, "--refine", 2, "--report", page).stdout
    assert printed.count("exact products 2,") == 2
    assert page.read_text(encoding="utf-8").count("Exact products that refined the prediction: 2.") == 2
    found = json.loads(hip_ext("frequencies", frames, "-m", checkpoint, "--refine", 2, "--json").stdout)
    assert [one["products"] for one in found] == [2, 2]
    assert "exact products" not in hip_ext("frequencies", frames, "-m", checkpoint).stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--refine", "-3"), "--refine -3: expected a number of exact products, or lowest"),
        (("--refine", "two"), "--refine two: expected a number of exact products, or lowest"),
        (("--refine", "2", "--method", "autograd"), "--refine corrects a prediction"),
        (("--estimate-error", "2", "--method", "autograd"), "--estimate-error is about a prediction"),
    ],
)
def test_what_cannot_be_refined_is_refused_in_one_line(checkpoint, frames, options, said):
    result = hip_ext("hessian", frames, "-m", checkpoint, *options, code=2)
    assert result.stdout == "" and said in result.stderr and result.stderr.count("\n") == 1
