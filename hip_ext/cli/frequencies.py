"""`hip-ext frequencies`: harmonic vibrations of every structure in a file, and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hip_ext.cli import vibration_options as options
from hip_ext.cli.hessian_file import read_hessians
from hip_ext.cli.inputs import named, read_frames
from hip_ext.cli.making import make_each
from hip_ext.cli.options import (
    DEFAULT_MODEL,
    CompareOption,
    FileArgument,
    JsonOption,
    Method,
    MethodOption,
    ModelOption,
    OutOption,
    RefineOption,
    TrustOption,
)
from hip_ext.cli.output import check_format, print_json, print_tables, write_results
from hip_ext.cli.reporting import ReportOption, check_page, provenance
from hip_ext.cli.vibrating import Frame, examine, examine_given
from hip_ext.cli.vibration_text import frame_tables
from hip_ext.errors import ConfigError, StructureError

if TYPE_CHECKING:
    from hip_ext.cli.making import Made
    from hip_ext.model import HessianModel


def frequencies(
    file: FileArgument,
    model: ModelOption = DEFAULT_MODEL,
    trust_source: TrustOption = False,
    method: MethodOption = Method.direct,
    refine: RefineOption = None,
    compare: CompareOption = None,
    verify: options.VerifyOption = options.Verify.mark,
    hessian: options.HessianFileOption = None,
    threshold: options.ThresholdOption = 10.0,
    isotopes: options.IsotopesOption = "",
    scale: options.ScaleOption = 1.0,
    free: options.FreeOption = None,
    infrared: options.InfraredOption = False,
    temperature: options.TemperatureOption = None,
    pressure: options.PressureOption = None,
    low_modes: options.LowModesOption = options.LowModes.harmonic,
    cutoff: options.CutoffOption = 100.0,
    invert: options.InvertOption = 0.0,
    symmetry_number: options.SymmetryNumberOption = None,
    multiplicity: options.MultiplicityOption = None,
    gaussian_log: options.GaussianLogOption = None,
    molden: options.MoldenOption = None,
    modes: options.ModesOption = None,
    out: OutOption = None,
    report: ReportOption = None,
    as_json: JsonOption = False,
) -> None:
    """Harmonic frequencies (cm⁻¹), kind of stationary point, intensities and thermochemistry of every structure.

    Translations and rotations are projected out. Every result is checked against the backbone: largest force, rigid
    motions, and one exact Hessian-vector product along the lowest mode; what fails is marked. In JSON and in files an
    imaginary frequency is a negative number.
    """
    check_format(out)
    check_page(report)
    options.check_folder("--gaussian-log", gaussian_log)
    options.check_folder("--molden", molden)
    options.check_range("--scale", [scale])
    options.check_range("--temperature", temperature or [])
    options.check_range("--pressure", pressure or [])
    options.check_range("--cutoff", [cutoff])
    if compare is not None and verify is options.Verify.exact:
        raise ConfigError("--compare shows the prediction, --verify exact replaces it: give one of them")
    request = options.Request(
        threshold=threshold,
        exact=verify is options.Verify.exact,
        isotopes=isotopes,
        scale=scale,
        free=None if free is None else options.indices(free),
        infrared=infrared,
        temperatures=temperature or [],
        pressures=pressure or [options.ATMOSPHERE],
        low_modes=low_modes,
        cutoff=cutoff,
        invert=invert,
        symmetry_number=symmetry_number,
        multiplicity=multiplicity,
    )
    if hessian is not None:
        if compare is not None or infrared or verify is options.Verify.exact:
            raise ConfigError("--hessian uses no model: --compare, --infrared and --verify exact need one")
        found = _from_file(file, hessian, request)
    else:

        def use(model: HessianModel, made: Made) -> Frame:
            return examine(model, made, method.value, request)

        found = make_each(file, model, trust_source, method, compare is not None, use, refine)
    if all(frame.refused for frame in found):
        raise StructureError(f"{file}: no thermochemistry: {found[0].refused}")
    try:
        written = _write(found, gaussian_log, molden, modes, out)
    except OSError as error:
        raise ConfigError(f"cannot write {error.filename}: {error.strerror or error}") from None
    if report is not None:
        from hip_ext.cli import vibration_report

        made_by = provenance(file, model, method.value) if hessian is None else provenance(file, "none", str(hessian))
        vibration_report.report(report, file, found, made_by)
        written.append(report)
    if as_json:
        print_json([frame.values for frame in found])
    else:
        tables = [item for k, frame in enumerate(found) for item in frame_tables(frame.values, f"{file}, frame {k}")]
        print_tables(*tables, *(f"written to {path}" for path in written))


def _from_file(file: Path, hessian: Path, request: options.Request) -> list[Frame]:
    frames = read_frames(file)
    found = []
    for index, (atoms, matrix) in enumerate(zip(frames, read_hessians(hessian, len(frames)), strict=True)):
        with named(file, index, len(frames)):
            found.append(examine_given(atoms, matrix, request))
    return found


def _write(
    found: list[Frame], gaussian_log: Path | None, molden: Path | None, modes: Path | None, out: Path | None
) -> list[Path]:
    """Writes what was asked for; with several frames each has files of its own, but for `out`."""
    from hip_ext.atomic import write_text
    from hip_ext.structures import total_charge, unpaired_electrons
    from hip_ext.vibrations import mode_files
    from hip_ext.vibrations.gaussian_log import gaussian_log as log_text

    written = []
    for index, frame in enumerate(found):
        atoms = frame.vibrations.atoms
        path = options.output_path(gaussian_log, index, len(found))
        if path is not None:
            text = log_text(
                frame.vibrations,
                energy=frame.energy,
                charge=round(total_charge(atoms)),
                multiplicity=frame.values.get("multiplicity", round(unpaired_electrons(atoms)) + 1),
                group=frame.group,
                state=frame.state,
            )
            write_text(path, text)
            written.append(path)
        path = options.output_path(molden, index, len(found))
        if path is not None:
            write_text(path, mode_files.molden(frame.vibrations))
            written.append(path)
        path = options.output_path(modes, index, len(found))
        if path is not None:
            mode_files.write_modes(path, frame.vibrations)
            written.append(path)
    if out is not None:
        kept = ("frequencies", "zero_point_energy")
        records = [{"hessian": frame.hessian} | {name: frame.values[name] for name in kept} for frame in found]
        for record, frame in zip(records, found, strict=True):
            if frame.values["intensities"] is not None:
                record["intensities"] = frame.values["intensities"]
        write_results(out, [frame.vibrations.atoms for frame in found], records)
        written.append(out)
    return written
