"""`hip-ext data`: what is in label files, whether it can be right, and the same in another program's format."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hip_ext.cli.options import JsonOption
from hip_ext.errors import ConfigError, CutShortError, DataError

if TYPE_CHECKING:
    from hip_ext.data.check import Check
    from hip_ext.data.record import HessianRecord

SHOWN = 5

PROBLEMS = 1
"""Exit code of a check that found records which cannot be trained on."""

data = typer.Typer(no_args_is_help=True, help="Label files: check, convert, describe.")

LabelsArgument = Annotated[Path, typer.Argument(metavar="FILE", help="Labels in any format of `hip-ext data formats`.")]
FormatOption = Annotated[str | None, typer.Option("--from", help="Its format; found from the file by default.")]
UnitsOption = Annotated[
    str | None, typer.Option(help="Of its Hessians where the format leaves that open: eV/A^2, or Hartree/Bohr^2 (au).")
]


@data.command()
def formats(as_json: JsonOption = False) -> None:
    """List the formats that can be read and written."""
    from hip_ext.cli.output import print_json, print_tables, table
    from hip_ext.data.formats import FORMATS

    if as_json:
        print_json({name: {"title": f.title, "suffixes": f.suffixes} for name, f in FORMATS.items()})
        return
    rows = table("format", "written as", "what")
    for name, entry in FORMATS.items():
        rows.add_row(name, " ".join(entry.suffixes) or "–", entry.title)
    print_tables(rows)


@data.command()
def info(
    file: LabelsArgument, from_format: FormatOption = None, units: UnitsOption = None, as_json: JsonOption = False
) -> None:
    """Say what a file is, how much is in it, and show its first record."""
    from itertools import islice

    from hip_ext.cli.output import print_json, print_tables
    from hip_ext.data.formats import find_format, read_records

    name = from_format or find_format(file).name
    first = next(islice(read_records(file, from_format, units), 1), None)
    found: dict[str, Any] = {"file": str(file), "format": name, "bytes": file.stat().st_size}
    if name == "store":
        from hip_ext.data.store import HessianStore

        with HessianStore(file) as store:
            sizes = store.sizes
            found |= {"records": len(store), "named": len(store.keys()), "failures": len(store.failures())}
            found |= {"atoms": int(sizes.sum()), "complete": int((store.labelled_counts == sizes).sum())}
            found["metadata"] = store.metadata
    if first is not None:
        found["first"] = {
            "formula": first.atoms().get_chemical_formula(),
            "energy": first.energy,
            "forces": first.forces is not None,
            "complete": first.is_complete,
            "method": first.method,
            "origin": first.origin,
            "info": dict(first.info),
        }
    if as_json:
        print_json(found)
        return
    print_tables(*(f"{key}: {value}" for key, value in found.items()))


@data.command()
def check(
    file: LabelsArgument,
    against: Annotated[
        Path | None, typer.Option(help="Another file, e.g. the training set, that must not share structures with it.")
    ] = None,
    from_format: FormatOption = None,
    units: UnitsOption = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for check.json and check.png.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Count, test the exact rules, look for damage, wrong units, duplicates and leakage.

    Exits with 1 if a record is damaged or probably in other units.
    """
    from hip_ext.cli.output import print_json

    if out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file, expected a folder")
    found = _checked(file, from_format, units)
    other = _checked(against, None, None) if against is not None else None
    summary = {"file": str(file)} | found.summary(other)
    if out is not None:
        _write_report(out, found, summary)
    if as_json:
        print_json(summary)
    else:
        _print_summary(summary)
    if summary["damaged"] or summary["implausible"]:
        raise typer.Exit(PROBLEMS)


@data.command()
def convert(
    file: LabelsArgument,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new file; its extension says the format.")],
    from_format: FormatOption = None,
    to_format: Annotated[str | None, typer.Option("--to", help="Its format; by default from the extension.")] = None,
    units: UnitsOption = None,
    skip_damaged: Annotated[bool, typer.Option("--skip-damaged", help="Leave out what cannot be read.")] = False,
    trust_units: Annotated[bool, typer.Option("--trust-units", help="Convert even if units look wrong.")] = False,
) -> None:
    """Write the labels of a file in another format; OUT appears when it is complete, and not before."""
    from hip_ext.data.formats import write_records

    if out.exists() and out.resolve() == file.resolve():
        raise ConfigError(f"{out} is what is read: choose another name for what is written")
    stream = _Stream(file, skip_damaged, trust_units)
    count = write_records(out, stream.records(from_format, units), to_format)
    notes = [f"{stream.damaged} damaged left out"] * bool(stream.damaged)
    notes += [f"{stream.strange} may be in other units, the first: {stream.first}"] * bool(stream.strange)
    typer.echo(f"{count} records written to {out}{'; ' if notes else ''}{'; '.join(notes)}")


class _Stream:
    """The records of a file on their way to another, counted, with damage and strange units dealt with."""

    def __init__(self, file: Path, skip_damaged: bool, trust_units: bool) -> None:
        self.file, self.skip_damaged, self.trust_units = file, skip_damaged, trust_units
        self.damaged = self.strange = 0
        self.first = ""

    def records(self, from_format: str | None, units: str | None) -> Iterator[HessianRecord]:
        from hip_ext.data.plausibility import suspicions

        count = 0
        for index, found in enumerate(_each(self.file, from_format, units)):
            if isinstance(found, CutShortError):  # how many are lost is not known
                raise DataError(f"{found}; nothing was written: repair {self.file}, or cut it there")
            if isinstance(found, DataError):
                if not self.skip_damaged:
                    raise DataError(f"{found}; --skip-damaged leaves such records out")
                self.damaged += 1
                continue
            count += 1
            strange = [] if self.trust_units else suspicions(found)
            if strange:
                self.strange += 1
                self.first = self.first or f"record {index}, {strange[0]}"
            if count == 100:
                self._refuse_strange(count)
            yield found
        self._refuse_strange(count)

    def _refuse_strange(self, count: int) -> None:
        from hip_ext.data.plausibility import TOLERATED

        if self.strange > TOLERATED * count:
            raise DataError(
                f"{self.file}: {self.strange} of {count} records are probably in other units ({self.first}); nothing "
                "was written: correct the file, state --units, or pass --trust-units"
            )


def _each(path: Path, from_format: str | None, units: str | None) -> Iterator[HessianRecord | DataError]:
    """The records of a file, with a bar once that takes longer than a second."""
    from hip_ext.cli.making import progress
    from hip_ext.data.formats import read_each

    with progress(None, path.name) as advance:
        for found in read_each(path, from_format, units):
            yield found
            advance()


def _checked(path: Path, from_format: str | None, units: str | None) -> Check:
    from hip_ext.data.check import check

    return check(_each(path, from_format, units))


def _write_report(folder: Path, found: Check, summary: dict[str, Any]) -> None:
    import json

    from hip_ext.atomic import write_text
    from hip_ext.data.check_figure import draw

    try:
        write_text(folder / "check.json", json.dumps(summary, indent=1) + "\n")
        draw(found, folder / "check.png")
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot write there: {error.strerror or error}") from None


def _print_summary(summary: dict[str, Any]) -> None:
    from hip_ext.cli.output import print_tables, table

    atoms = summary["atoms"]
    lines = [
        f"{summary['records']} records, {len(summary['damaged'])} damaged",
        f"atoms: {atoms['least']} to {atoms['most']}, median {atoms['median']:g}; {summary['formulas']} formulas",
        "elements: " + ", ".join(f"{name} {count}" for name, count in summary["elements"].items()),
        "labels: " + ", ".join(f"{name} {count}" for name, count in summary["labels"].items()),
        "method: " + ", ".join(f"{name} {count}" for name, count in summary["methods"].items()),
    ]
    rows = table("rule, worst entry of a record", "records", "median", "largest", "in record")
    for name, found in summary["violations"].items():
        if found["records"]:
            values = (f"{found[key]:.3g}" for key in ("median", "largest"))
            rows.add_row(name, str(found["records"]), *values, str(found["index"]))
    damaged = list(summary["damaged"].values())
    # the last one may say that nothing after it could be read
    shown = damaged if len(damaged) <= SHOWN else [*damaged[: SHOWN - 1], damaged[-1]]
    problems = [f"damaged: {reason}" for reason in shown]
    strange = summary["implausible"]
    problems += [f"record {index}: {'; '.join(what)}" for index, what in list(strange.items())[:SHOWN]]
    problems += [f"{len(strange)} records are probably in other units"] if strange else []
    pairs = summary["duplicates"]["pairs"]
    problems += [f"{len(pairs)} duplicates, e.g. records {pairs[0][0]} and {pairs[0][1]}"] if pairs else []
    if "leakage" in summary:
        leak = summary["leakage"]
        problems.append(
            f"shared with the other file: {leak['same_structure']} structures; {len(leak['formulas'])} formulas, which "
            f"{leak['same_formula']} records have"
        )
    print_tables(*lines, rows, *problems)
