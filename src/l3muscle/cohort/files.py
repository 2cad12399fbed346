"""Files below a folder, what tells that they have changed, tables of text, and damaged files."""

import csv
import gzip
import hashlib
import os
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from l3muscle.errors import L3MuscleError, reason_of

# Notes and tables, what Windows leaves, and the index that comes with every export.
NOT_DATA = (".json", ".csv", ".txt", ".md", ".db", ".ini", "dicomdir")
MAX_TABLE_BYTES = 1 << 24
EXPECTED = {"int_parsing": "a whole number", "float_parsing": "a number", "finite_number": "a finite number"}


class FileError(L3MuscleError):
    """A file that cannot be used; the message begins with its name."""


@contextmanager
def reading(name: str, kind: str = "DICOM") -> Iterator[None]:
    """Turn whatever a damaged file makes a parser raise into a refusal that names the file.

    DICOM values are parsed when they are first looked at, so this has to be around every look at an untrusted data set.
    """
    with warnings.catch_warnings():
        # Of what parsers warn about, the checks of this package refuse what matters.
        warnings.simplefilter("ignore")
        try:
            yield
        except FileError:
            raise
        except L3MuscleError as error:
            raise FileError(f"{name}: {error}") from None
        except (EOFError, gzip.BadGzipFile, zlib.error):
            raise FileError(f"{name}: the file is cut short or not whole") from None
        except OSError as error:
            raise FileError(f"{name}: cannot be read ({reason_of(error)})") from None
        except Exception as error:
            raise FileError(f"{name}: damaged {kind} file ({type(error).__name__})") from None


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Every file below a folder in a stable order; links are followed, and nothing is met twice."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and os.access(path, os.R_OK | os.X_OK):
            yield from _walk(path, seen)
        # Folders that may not be opened and links that lead nowhere too: whoever reads them says what is wrong.
        elif (path.is_dir() or path.is_file() or not path.exists()) and os.path.realpath(path) not in seen:
            seen.add(os.path.realpath(path))
            yield path


def find_files(paths: Iterable[Path]) -> list[Path]:
    """All files named, and all below the folders named, each once.

    Tables, notes, the index of an export and whatever is hidden are left out. Links to files and folders are followed.

    Raises
    ------
    FileError
        If a path does not exist, or there is no file.
    """
    files: list[Path] = []
    seen: set[str] = set()
    paths = list(paths)
    for path in paths:
        if path.is_dir():
            files += [file for file in _walk(path, seen) if "/." not in f"/{file.relative_to(path).as_posix()}"]
        elif path.is_file():
            files.append(path)
        else:
            raise FileError(f"there is no file or folder {path}")
    files = [path for path in files if not path.name.lower().endswith(NOT_DATA)]
    if not files:
        raise FileError(f"no files in {', '.join(map(str, paths))}")
    return files


def folder_signature(folder: str | Path) -> str:
    """SHA-256 over paths, sizes and times of change of all files below a folder, as hexadecimal digits.

    It tells whether a folder has changed without reading the files. Links are followed, each file once.
    """
    folder, digest = Path(folder), hashlib.sha256()
    for path in _walk(folder, set()):
        stat = path.stat() if path.exists() else path.lstat()
        digest.update(
            f"{path.relative_to(folder).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="replace")
        )
    return digest.hexdigest()


Row = TypeVar("Row", bound=BaseModel)


def read_table(path: Path, schema: type[Row]) -> tuple[list[tuple[int, Row]], list[tuple[dict[str, str], str]]]:
    """Read a table with a header line, in UTF-8, its columns parted by commas or semicolons.

    Parameters
    ----------
    path : Path
    schema : subclass of BaseModel
        A field for each column, required ones without a default; empty cells take the default. Columns that the schema
        lacks are an error where it forbids extras.

    Returns
    -------
    rows : list of (int, schema)
        Line number, from 1, and content of each sound row.
    refused : list of (dict of str to str, str)
        Cells of other rows, and what is wrong with them.

    Raises
    ------
    FileError
        If it is no such table.
    """
    name, known = path.name, schema.model_fields
    rows: list[tuple[int, Row]] = []
    refused: list[tuple[dict[str, str], str]] = []
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise FileError(f"{name}: larger than {MAX_TABLE_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        first = lines[0] if lines else ""
        # What spreadsheets write in countries with a decimal comma.
        decimal_comma = ";" in first and "," not in first
        reader = csv.reader(lines, delimiter=";" if decimal_comma else ",", strict=True)
        columns = [column.strip().lower() for column in next(reader, [])]
        while columns and not columns[-1]:  # where a spreadsheet once had cells
            del columns[-1]
        if schema.model_config.get("extra") == "forbid" and (unknown := [c for c in columns if c not in known]):
            raise FileError(f"{name} line 1: there is no column {unknown[0]!r}; known: {', '.join(known)}")
        for column, field in known.items():
            if columns.count(column) > 1 or (field.is_required() and column not in columns):
                raise FileError(f"{name} line 1: needs a column {column!r}, and each column once")
        for values in reader:
            cells = {c: v.strip() for c, v in zip(columns, values, strict=False) if c in known and v.strip()}
            if decimal_comma:
                texts = {c for c, field in known.items() if field.annotation in (str, str | None)}
                cells = {c: v if c in texts else v.replace(",", ".") for c, v in cells.items()}
            where = f"{name} line {reader.line_num}"
            if len(values) > len(columns) and any(value.strip() for value in values[len(columns) :]):
                refused.append((cells, f"{where}: has more cells than there are columns"))
            elif cells:
                try:
                    rows.append((reader.line_num, schema(**cells)))
                except ValidationError as error:
                    refused.append((cells, f"{where}: {_mistake(error)}"))
    except UnicodeDecodeError:
        raise FileError(f"{name}: not a text in UTF-8") from None
    except OSError as error:
        raise FileError(f"{name}: cannot be read ({reason_of(error)})") from None
    except csv.Error as error:
        raise FileError(f"{name} line {reader.line_num}: {error}") from None
    return rows, refused


def _mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    column = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"{column} is empty"
    return f"{column} is {first['input']!r}, not {EXPECTED.get(first['type'], 'what it should be')}"
