from __future__ import annotations

import io
import os
import shutil
import stat
import zipfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.encryptor.bench import CHUNK, write

if TYPE_CHECKING:
    from tests.encryptor.bench import Bench

EARLIEST = int(datetime(1980, 1, 1, tzinfo=UTC).timestamp())
LATEST = int(datetime(2107, 12, 31, 23, 59, 58, tzinfo=UTC).timestamp())

NAMES = st.text(
    st.characters(exclude_characters="/\0\\", exclude_categories=["Cs"]), min_size=1, max_size=60
).filter(lambda name: name not in {".", ".."} and len(name.encode()) < 250)
CONTENTS = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda size, seed: seed * size, st.integers(0, 4 * CHUNK // 8), st.binary(max_size=8)
    ),
    st.builds(os.urandom, st.integers(CHUNK - 20, CHUNK + 20)),
)
FILES = st.tuples(
    CONTENTS, st.sampled_from([0o400, 0o644, 0o755, 0o4711, 0o2644, 0o1700]), st.integers(0, 2**33)
)
TREES = st.recursive(
    st.dictionaries(NAMES, FILES, max_size=6),
    lambda inner: st.dictionaries(NAMES, st.one_of(FILES, inner), max_size=5),
    max_leaves=6,
).filter(bool)


File: TypeAlias = "tuple[bytes, int, int]"  # content, mode, Unix time
Tree: TypeAlias = "dict[str, File | Tree]"


def grow(directory: str, tree: Tree, prefix: str = "") -> dict[str, tuple[object, ...]]:
    """Create *tree* in *directory*; return the expected entries of the zip by name."""
    expected: dict[str, tuple[object, ...]] = {}
    for name, value in tree.items():
        path = os.path.join(directory, name)  # noqa: PTH118 - Path would normalise hostile names
        if isinstance(value, dict):
            os.mkdir(path)  # noqa: PTH102
            expected[f"{prefix}{name}/"] = (b"", stat.S_IFDIR | 0o755)
            expected |= grow(path, value, f"{prefix}{name}/")
        else:
            content, mode, seconds = value
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(content)
            os.chmod(path, mode)  # noqa: PTH101
            os.utime(path, (0, seconds))
            shown = max(EARLIEST, min(LATEST, seconds)) // 2 * 2
            permissions = stat.S_IFREG | (0o755 if mode & 0o111 else 0o644)
            expected[prefix + name] = (content, permissions, shown)
    return expected


def read(content: bytes) -> dict[str, tuple[object, ...]]:
    """Return the same for a zip, as zipfile reads it."""
    found: dict[str, tuple[object, ...]] = {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for info in archive.infolist():
            facts: tuple[object, ...] = (archive.read(info), info.external_attr >> 16)
            if not info.filename.endswith("/"):
                facts += (int(datetime(*info.date_time, tzinfo=UTC).timestamp()),)
            assert info.filename not in found
            found[info.filename] = facts
    return found


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tree=TREES)
def test_names_contents_modes_and_times_round_trip(bench: Bench, tree: Tree) -> None:
    shutil.rmtree(bench.directory)
    bench.directory.mkdir()
    expected = grow(str(bench.directory), tree)
    assert read(bench.encrypted()) == expected


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(".env", id="dotfile"),
        pytest.param("\u00e9", id="unicode-composed"),
        pytest.param("e\u0301", id="unicode-decomposed"),
        pytest.param("-rf", id="looks-like-an-option"),
        pytest.param("a b\t", id="blanks"),
        pytest.param("line\nbreak", id="newline"),
        pytest.param("$(touch x)", id="shell"),
        pytest.param("\U0001f511" * 60, id="long"),
        pytest.param("/".join(["d"] * 600), id="deep"),
        pytest.param("empty/", id="empty-directory"),
    ],
)
def test_unusual_name_round_trips(bench: Bench, name: str) -> None:
    write(bench.directory, {name: b""})
    assert name in bench.contents()


def test_unicode_normal_forms_are_distinct_names(bench: Bench) -> None:
    tree = {"\u00e9": b"composed", "e\u0301": b"decomposed", "E\u0301": b"upper case"}
    write(bench.directory, tree)
    assert bench.contents() == tree


def test_links_inside_the_directory_are_followed(bench: Bench) -> None:
    write(bench.directory, {"a/b/file": b"content", "c/": b""})
    (bench.directory / "link").symlink_to("a/b/file")
    (bench.directory / "c/up").symlink_to("../a")
    (bench.directory / "absolute").symlink_to(bench.directory / "a/b")
    (bench.directory / "twice").symlink_to("link")
    names = {name for name, content in bench.contents().items() if content == b"content"}
    assert names == {"a/b/file", "link", "c/up/b/file", "absolute/file", "twice"}


def test_the_directory_itself_may_be_a_link(bench: Bench) -> None:
    write(bench.directory, {"file": b"content"})
    real = bench.directory.rename(bench.directory.with_name("real"))
    bench.directory.symlink_to(real)
    assert bench.contents() == {"file": b"content"}
