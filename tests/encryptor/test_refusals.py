from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from itertools import pairwise
from threading import Thread
from typing import TYPE_CHECKING

import pytest

from tests.encryptor.bench import CHUNK, KEY, write
from tests.support.kms import KEY_ARN
from tests.support.machine import lacking, root
from tests.support.paths import ENVELOPE_ENCRYPTOR, PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.encryptor.bench import Bench

# Root reads and writes everything, unless it lacks these two capabilities.
UNPRIVILEGED = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
AS_USER = UNPRIVILEGED if os.geteuid() == 0 else ()


def leading_out(directory: Path) -> None:
    (directory.parent / "secret").write_bytes(b"")
    (directory / "x").symlink_to("../secret")


def leading_to_neighbour(directory: Path) -> None:
    (directory.parent / "application-2").mkdir()
    (directory / "x").symlink_to("../application-2")


def socket_file(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()  # noqa: PTH109 - a socket's address is short: bind it from where it is
        os.chdir(directory)
        listener.bind("x")
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        pytest.param(leading_out, "outside", id="link-out"),
        pytest.param(leading_to_neighbour, "outside", id="link-to-a-neighbour-of-like-name"),
        pytest.param(lambda d: (d / "x").symlink_to("/etc/passwd"), "outside", id="absolute-link"),
        pytest.param(lambda d: (d / "x").symlink_to("."), "contains itself", id="loop"),
        pytest.param(lambda d: (d / "x").symlink_to("nothing"), "No such file", id="dangling-link"),
        pytest.param(lambda d: (d / "x").symlink_to("x"), "symbolic links", id="link-to-itself"),
        pytest.param(lambda d: os.mkfifo(d / "x"), "not a regular file", id="pipe"),
        pytest.param(socket_file, "not a regular file", id="socket"),
    ],
)
def test_unsupported_file_is_refused_by_name(
    bench: Bench, make: Callable[[Path], object], why: str
) -> None:
    write(bench.directory, {"fine": b""})
    make(bench.directory)
    line = bench.refused(bench.encrypt())
    assert "x: " in line
    assert why in line


def test_circular_links_are_refused(bench: Bench) -> None:
    write(bench.directory, {"a/": b"", "b/": b""})
    (bench.directory / "a/to-b").symlink_to("../b")
    (bench.directory / "b/to-a").symlink_to("../a")
    assert "contains itself" in bench.refused(bench.encrypt())


def test_links_that_multiply_files_exponentially_are_refused(bench: Bench) -> None:
    folders = [f"{number:02}" for number in range(25)]
    write(bench.directory, {f"{folder}/": b"" for folder in folders})
    for folder, following in pairwise(folders):  # 16 million ways from the first to the last
        for link in ("left", "right"):
            (bench.directory / folder / link).symlink_to(f"../{following}")
    assert "too many files or links to folders" in bench.refused(bench.encrypt())


def test_hard_link_to_a_symlink_is_checked_at_each_path(bench: Bench) -> None:
    write(bench.directory, {"a/": b"", "b/c/": b"", "../x": b"secret", "x": b"inside"})
    (bench.directory / "b/c/link").symlink_to("../../x")
    os.link(bench.directory / "b/c/link", bench.directory / "a/link", follow_symlinks=False)
    assert "outside" in bench.refused(bench.encrypt())


def test_a_git_lfs_pointer_is_refused_by_name(bench: Bench) -> None:
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 9\n" % (b"1a" * 32)
    write(bench.directory, {"folder/weights.bin": pointer})
    line = bench.refused(bench.encrypt())
    assert line.startswith(
        "error: folder/weights.bin: a Git LFS pointer, not the file: run git lfs"
    )


def test_directory_that_may_not_fit_on_disk_is_refused_before_kms_is_called(bench: Bench) -> None:
    free = shutil.disk_usage(bench.artifact.parent).free
    for number in range(free * 3 // 4 // (1 << 40) + 1):
        with (bench.directory / str(number)).open("wb") as file:
            file.truncate(1 << 40)
    line = bench.refused(bench.encrypt())
    assert re.search(r"output: up to [\d,]+ bytes needed, [\d,]+ free: free space", line)
    assert bench.kms.requests == []


def test_longest_file_name_is_accepted_for_the_output(bench: Bench) -> None:
    write(bench.directory, {"file": b""})
    output = "o" * 250
    result = bench.encrypt((), "-o", output)
    assert (result.returncode, result.stderr) == (0, "")
    assert bench.leftovers() == [output]


def test_a_device_is_refused_by_name(bench: Bench) -> None:
    root("to make a device")
    try:
        os.mknod(bench.directory / "device", 0o20644, os.makedev(1, 3))
    except PermissionError:
        lacking("the right to make a device (CAP_MKNOD)")
    assert "device: not a regular file" in bench.refused(bench.encrypt())


def test_name_that_is_not_utf_8_is_refused_and_escaped(bench: Bench) -> None:
    (bench.directory / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    assert "caf\\udce9: has a backslash or is not UTF-8: rename it" in bench.refused(
        bench.encrypt()
    )


def test_name_with_a_backslash_is_refused(bench: Bench) -> None:
    write(bench.directory, {"a\\b": b""})
    assert "a\\b: has a backslash or is not UTF-8: rename it" in bench.refused(bench.encrypt())


def test_control_characters_in_names_are_escaped(bench: Bench) -> None:
    os.mkfifo(bench.directory / "a\n\33[2Jb")
    assert "a\\n\\x1b[2Jb: not a regular file" in bench.refused(bench.encrypt())


@pytest.mark.parametrize("what", ["file", "directory"])
def test_unreadable_path_is_refused_by_name(bench: Bench, what: str) -> None:
    write(bench.directory, {"file": b"secret", "directory/": b""})
    (bench.directory / what).chmod(0)
    line = bench.refused(bench.encrypt(AS_USER))
    assert line.endswith(f"{what}: Permission denied: give this user access") or (
        f"{what}/: Permission denied" in line
    )


def test_unwritable_output_directory_is_refused(bench: Bench) -> None:
    write(bench.directory, {"file": b""})
    bench.artifact.parent.chmod(0o500)
    assert "Permission denied: give this user access" in bench.refused(bench.encrypt(AS_USER))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        pytest.param(["-d", "missing"], "missing: not a directory", id="no-directory"),
        pytest.param(["-d", ""], ": not a directory", id="no-name"),
        pytest.param(["-d", str(ENVELOPE_ENCRYPTOR)], "not a directory", id="a-file-to-encrypt"),
        pytest.param(["-o", "missing/file"], "No such file or directory", id="no-place"),
        pytest.param(["-o", "."], "not a regular file", id="output-is-a-directory"),
        pytest.param(["-o", "/dev/null"], "/dev/null: not a regular file", id="output-is-a-device"),
        pytest.param(["-o", "../application/x"], "inside", id="output-inside"),
        pytest.param(["-o", "../link/x"], "inside", id="output-inside-through-a-link"),
    ],
)
def test_invalid_input_or_output_path_is_refused(
    bench: Bench, options: list[str], why: str
) -> None:
    write(bench.directory, {"file": b""})
    bench.directory.with_name("link").symlink_to(bench.directory)
    assert why in bench.refused(bench.encrypt((), *options))
    assert [path.name for path in bench.directory.iterdir()] == ["file"]


def test_file_longer_than_its_reported_size_is_refused(bench: Bench) -> None:
    line = bench.refused(bench.encrypt((), "-d", "/proc/sys/fs/inotify"))
    assert "changed while it was read" in line


def test_an_empty_directory_is_refused(bench: Bench) -> None:
    assert ": empty: " in bench.refused(bench.encrypt())


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        ("AccessDeniedException", "allow kms:GenerateDataKey on it"),
        ("NotFoundException", "check the key, --region and the network"),
        ("DisabledException", "check the key, --region and the network"),
    ],
)
def test_kms_refusal_is_one_line_with_its_reason(bench: Bench, code: str, hint: str) -> None:
    write(bench.directory, {"file": os.urandom(5 * CHUNK)})
    bench.kms.refusal = code, "the reason\nthat KMS gives"
    line = bench.refused(bench.encrypt())
    assert "the reason\\nthat KMS gives" in line
    assert code in line
    assert line.endswith(hint)


@pytest.mark.parametrize(
    ("setting", "options", "why"),
    [
        pytest.param(
            {"AWS_DEFAULT_REGION": "", "AWS_ENDPOINT_URL": ""},
            [],
            "You must specify a region.: check the key, --region and the network",
            id="no-region",
        ),
        pytest.param({"AWS_ACCESS_KEY_ID": ""}, [], "sign in, or run with a role", id="nobody"),
        pytest.param({"AWS_PROFILE": "missing"}, [], "missing", id="no-such-profile"),
        pytest.param({"AWS_ENDPOINT_URL": "no url"}, [], "no url", id="endpoint-is-no-url"),
        pytest.param({}, ["--region", "no region"], "no region", id="malformed-region"),
        pytest.param({}, ["-k", ""], "KeyId", id="empty-key"),
    ],
)
def test_invalid_setting_is_one_line_error(
    bench: Bench, setting: dict[str, str], options: list[str], why: str
) -> None:
    write(bench.directory, {"file": b""})
    assert why in bench.refused(bench.encrypt((), *options, **setting))


def test_unreachable_kms_is_one_line_error(bench: Bench) -> None:
    write(bench.directory, {"file": b""})
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: refused at once
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        line = bench.refused(bench.encrypt(AWS_ENDPOINT_URL=url, AWS_MAX_ATTEMPTS="1"))
    assert url in line
    assert line.endswith("the network")


def test_kms_closing_the_connection_is_one_line_error(bench: Bench) -> None:
    write(bench.directory, {"file": b""})
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = Thread(target=hang_up)
        thread.start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        line = bench.refused(bench.encrypt(AWS_ENDPOINT_URL=url, AWS_MAX_ATTEMPTS="1"))
        thread.join()
    assert "onnection" in line
    assert line.endswith("check the key, --region and the network")


@pytest.mark.parametrize("field", ["Plaintext", "CiphertextBlob", "KeyId"])
def test_incomplete_kms_response_is_one_line_error(bench: Bench, field: str) -> None:
    write(bench.directory, {"file": b""})
    bench.kms.answer = {field: None}
    line = bench.refused(bench.encrypt())
    assert line.startswith(f"error: data key under {KEY}: ")
    assert field in line
    assert line.endswith("check the key, --region and the network")


@pytest.mark.parametrize(
    ("options", "settings", "expected"),
    [
        pytest.param(["--region", "eu-west-1"], {}, "eu-west-1", id="the-option"),
        pytest.param([], {}, "eu-central-1", id="then-the-ARN"),
        pytest.param(["-k", "alias/k"], {"AWS_REGION": "eu-west-2"}, "eu-west-2", id="AWS_REGION"),
        pytest.param(["-k", "alias/k"], {}, "us-east-1", id="then-AWS_DEFAULT_REGION"),
        pytest.param(["-k", "arn:aws:kms"], {}, "us-east-1", id="not-an-ARN"),
    ],
)
def test_region_is_taken_in_the_documented_order(
    bench: Bench, options: list[str], settings: dict[str, str], expected: str
) -> None:
    write(bench.directory, {"file": b""})
    default = {"AWS_DEFAULT_REGION": "us-east-1"}
    bench.contents("-k", KEY_ARN, *options, **default, **settings)
    assert bench.kms.regions == [expected]


def test_alias_with_colons_is_not_taken_for_an_arn(bench: Bench) -> None:
    write(bench.directory, {"file": b""})
    assert bench.contents("-k", "alias/of:the:third:No_Region") == {"file": b""}


@pytest.mark.parametrize("module", ["botocore", "cryptography"])
def test_missing_library_error_says_what_to_install(
    bench: Bench, tmp_path: Path, module: str
) -> None:
    write(bench.directory, {"file": b""})
    missing = f"No module named '{module}'"
    (tmp_path / f"{module}.py").write_text(f'raise ModuleNotFoundError("{missing}")')
    line = bench.refused(bench.encrypt(PYTHONPATH=str(tmp_path)))
    assert line.endswith(f"{missing}: pip install boto3 cryptography")


@pytest.mark.parametrize(
    ("key", "options"),
    [
        pytest.param(KEY_ARN, [], id="of-the-key's-ARN"),
        pytest.param("alias/k", ["--region", "eu-central-1"], id="of-the-option"),
    ],
)
def test_region_from_the_arn_or_option_suffices(bench: Bench, key: str, options: list[str]) -> None:
    write(bench.directory, {"file": b""})
    assert bench.contents("-k", key, *options, AWS_DEFAULT_REGION="") == {"file": b""}


@pytest.mark.parametrize(
    "arguments", [[], ["encrypt"], ["encrypt", "-d", "x"], ["decrypt"], ["encrypt", "-x"]]
)
def test_usage_error_is_status_2(arguments: list[str]) -> None:
    command = [sys.executable, str(ENVELOPE_ENCRYPTOR), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert "usage:" in result.stderr


def test_help_is_printed_without_loading_boto3(tmp_path: Path) -> None:
    (tmp_path / "boto3.py").write_text("raise SystemExit(99)")
    result = subprocess.run(
        [sys.executable, str(ENVELOPE_ENCRYPTOR), "encrypt", "--help"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    for option in ("-d DIR", "-k KEY", "-o FILE", "--region REGION"):
        assert option in result.stdout


def test_a_full_quota_leaves_nothing(bench: Bench) -> None:
    write(bench.directory, {"file": os.urandom(8 * CHUNK)})
    line = bench.refused(bench.encrypt(("prlimit", f"--fsize={3 * CHUNK}")))
    assert f"{bench.artifact}: {os.strerror(errno.EFBIG)}" in line


def test_version_is_that_of_the_project() -> None:
    command = [sys.executable, str(ENVELOPE_ENCRYPTOR), "--version"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert said == f"envelope_encryptor.py {project['version']}\n"
