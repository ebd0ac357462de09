"""The command ``launch/verify.py``: checks a feature store, and mends it from a copy."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from lxmert_dist.cli.command import frame, run_command
from lxmert_dist.errors import ConfigError, StoreError
from lxmert_dist.progress import drawn_over

if TYPE_CHECKING:
    from lxmert_dist.store.catalogue import Catalogue
    from lxmert_dist.store.manifest import ObjectEntry
    from lxmert_dist.store.verification import Checked

DESCRIPTION = """\
Check every object of a feature store against its manifest: length, CRC-32C and SHA-256.

Each object that is missing or not as it was written is named on a line of its own, and so is each
that no manifest names. Ends with 0 if there is none of either (left), with 1 otherwise."""

EXAMPLES = """\
examples:
  python launch/verify.py data/easy_vqa
  python launch/verify.py s3://bucket/lxmert --threads 32
  python launch/verify.py s3://bucket/lxmert --fast
  python launch/verify.py data/lxmert --repair-from s3://bucket/lxmert
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = frame(DESCRIPTION, EXAMPLES)
    parser.add_argument("uri", metavar="URI", help="path or fsspec URI of the store")
    parser.add_argument(
        "--repair-from",
        metavar="URI2",
        help="another copy of the same store, from which bad objects are copied and checked again",
    )
    parser.add_argument(
        "--fast",
        action="store_true",
        help="compare lengths alone, by listing the place; a changed bit goes unseen",
    )
    parser.add_argument(
        "--threads", type=int, default=8, metavar="N", help="objects read at once (default 8)"
    )
    return run_command(_verify, parser, argv)


def _verify(arguments: argparse.Namespace) -> None:
    from lxmert_dist.store import verification
    from lxmert_dist.store.uri import shown

    if arguments.threads < 1:
        raise ConfigError("--threads counts from 1")
    store, copy, lost = _open(arguments.uri, arguments.repair_from)
    listing = _listing(arguments.uri, required=arguments.fast)
    if arguments.fast:
        checks = verification.check_sizes(store, listing or {})
    else:
        checks = verification.check_contents(store, threads=arguments.threads)
    entries = list(store.manifest.all_objects())
    bad = dict(_watched(checks, entries, "verify"))
    _say(f"bad       {key} is lost" for key in lost)
    _say(f"bad       {bad[entry]}" for entry in entries if entry in bad)
    unnamed = verification.unnamed(store, listing or {})
    _say(f"unnamed   {key} is named by no manifest" for key in unnamed)
    total = sum(entry.num_bytes for entry in entries)
    how = "by length" if arguments.fast else "by checksum"
    _say(
        [
            f"checked   {len(entries):,} objects, {total / 1e6:,.1f} MB, {how}: {len(bad):,} bad, "
            f"{len(unnamed):,} unnamed; {shown(arguments.uri)} is store {store.digest[:12]}"
        ]
    )
    if copy is not None and (bad or lost):
        _repair(store, copy, list(bad), lost, arguments.threads)
    elif bad:
        raise StoreError(
            f"{len(bad):,} of {len(entries):,} objects of {shown(arguments.uri)} are bad; "
            "copy them with --repair-from, or prepare the store again"
        )
    if unnamed:
        raise StoreError(
            f"{shown(arguments.uri)} holds objects that no manifest names ({len(unnamed):,}); "
            "nobody reads them: delete them, unless a job is writing there"
        )


def _open(uri: str, repair_from: str | None) -> "tuple[Catalogue, Catalogue | None, list[str]]":
    """The store, its copy, and which of its pointer and manifest are lost."""
    from lxmert_dist.store.catalogue import Catalogue, open_catalogue
    from lxmert_dist.store.verification import lost_records

    if repair_from is None:
        return open_catalogue(uri), None, []
    copy = open_catalogue(repair_from)
    lost = lost_records(uri, copy)
    return Catalogue(uri, copy.digest, copy.manifest), copy, lost


def _listing(uri: str, required: bool) -> dict[str, int] | None:
    """Bytes by key; None where a place gives objects but no list of them."""
    from lxmert_dist.store import uri as uris

    try:
        return uris.list_tree(uri)
    except uris.UnreachableError:
        raise
    except StoreError as error:
        if required:
            raise
        _say([f"note      objects that no manifest names were not looked for: {error}"])
        return None


def _repair(
    store: "Catalogue",
    copy: "Catalogue",
    bad: "list[ObjectEntry]",
    lost: list[str],
    threads: int,
) -> None:
    """Replace what is bad; the pointer and the manifest only once all that they name is sound."""
    from lxmert_dist.store import verification

    repairs = verification.repair(store.uri, copy, bad, threads=threads)
    failed = dict(_watched(repairs, bad, "repair"))
    _say(f"repaired  {entry.key}" for entry in bad if entry not in failed)
    _say(f"bad       {entry.key}: {failed[entry]}" for entry in bad if entry in failed)
    if failed:
        raise StoreError(
            f"{len(failed):,} of {len(bad):,} objects could not be repaired; name another copy, or "
            "prepare the store again"
        )
    verification.restore_records(store.uri, copy, lost)
    _say(f"repaired  {key}" for key in lost)


def _watched(
    checks: "Iterator[Checked]", entries: "list[ObjectEntry]", what: str
) -> "Iterator[tuple[ObjectEntry, str]]":
    """What is wrong, while a bar shows the bytes of what is done."""
    from tqdm.auto import tqdm

    total = sum(entry.num_bytes for entry in entries)
    with tqdm(total=total, desc=what, unit="B", unit_scale=True, disable=not drawn_over()) as bar:
        for entry, problem in checks:
            bar.update(entry.num_bytes)
            if problem is not None:
                yield entry, problem


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)  # noqa: T201
