"""Fuzzes one reader, in a process of its own: ``python -m benchmarks.faults.fuzz.one NAME FOLDER SECONDS SEED``."""

from __future__ import annotations

import hashlib
import pathlib
import sys
import traceback

import atheris

from benchmarks.faults.trial import HANG_S

_OURS = "rvae_jax"
_INSTRUMENTED = (_OURS, "tarfile", "zipfile", "csv")  # what is written in Python and decides by the file's bytes
_MOST_MEGABYTES = 2560  # 2 GB more than what a reader imports
_MOST_BYTES = 1 << 18  # of a file


def main() -> None:
    """Fuzzes until the time is over, or libFuzzer ends the process: a hang, memory, a crash of a library in C."""
    name, folder, seconds, seed = sys.argv[1], pathlib.Path(sys.argv[2]), sys.argv[3], sys.argv[4]
    corpus, crashes, work = (folder / each for each in ("corpus", "crashes", "work"))
    with atheris.instrument_imports(include=list(_INSTRUMENTED)):
        from benchmarks.faults.fuzz import reader as readers

        reader = readers.find(name)
        for content in readers.begin(reader, work):
            (corpus / hashlib.sha1(content).hexdigest()).write_bytes(content)
        seen = set()

        def attempt(data: bytes) -> None:
            try:
                readers.attempt(reader, data, work)
            except Exception as error:
                if (place := _place(error)) not in seen:
                    seen.add(place)
                    _keep(crashes, data, error)

        def mutated(data: bytes, most: int, number: int) -> bytes:
            return reader.mutate(data, number)[:most] if number % 2 else atheris.Mutate(data, most)

        options = {
            "max_total_time": seconds,
            "seed": seed,
            "timeout": round(HANG_S),
            "report_slow_units": round(HANG_S),  # or they would be kept beside the crashes
            "rss_limit_mb": _MOST_MEGABYTES,
            "max_len": _MOST_BYTES,
            "artifact_prefix": f"{crashes}/",
            "print_final_stats": 1,
        }
        arguments = [sys.argv[0], *(f"-{name}={value}" for name, value in options.items()), str(corpus)]
        atheris.Setup(arguments, attempt, **({"custom_mutator": mutated} if reader.mutate else {}))
        atheris.Fuzz()


def _place(error: Exception) -> tuple[str, str, int | None]:
    """By which two crashes are taken as the same: what was raised, and from which line of ours."""
    frames = traceback.extract_tb(error.__traceback__)
    frame = next((frame for frame in reversed(frames) if f"/{_OURS}/" in frame.filename), frames[-1])
    return type(error).__name__, frame.filename, frame.lineno


def _keep(crashes: pathlib.Path, data: bytes, error: Exception) -> None:
    path = crashes / f"crash-{hashlib.sha1(data).hexdigest()[:12]}"
    path.write_bytes(data)
    lines = traceback.format_exception(error, limit=-30)
    path.with_suffix(".txt").write_text("".join(lines), errors="backslashreplace")


if __name__ == "__main__":
    main()
