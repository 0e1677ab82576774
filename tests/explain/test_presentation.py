"""What `explain` prints: the same in every format, on any terminal, whatever the names."""

from __future__ import annotations

import copy
import io
import json
import os
import pty
import re
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from generator.explain import report
from generator.explain.text import print_text
from tests.explain.test_explain import OURS, POLICY
from tests.support import verb
from tests.support.image_files import (
    COMMAND_LINE,
    KERNEL,
    RAMDISK,
    SECTIONS,
    Image,
    contents,
    register,
)
from tests.support.paths import PROJECT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

IMAGE = register(contents(list(SECTIONS), KERNEL, COMMAND_LINE, RAMDISK))
OTHER = "2b" * 48
SUBJECT = "\x1b[31m[/x] <b>&\u202e"
"""A Sid with a control sequence, markup of rich and HTML, and a right-to-left override."""


def explain(
    *arguments: str | Path, given: str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    return verb.run("explain", *arguments, environment=os.environ | environment, answer=given)


def binding(*images: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    policy = copy.deepcopy(POLICY)
    deny = policy["Statement"][2]
    condition = {"kms:RecipientAttestation:ImageSha384": list(images)}
    deny["Condition"] = {"StringNotEqualsIgnoreCase": condition}
    deny.update(changes)
    return policy


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, content: Mapping[str, Any] | bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


def test_bound_images_are_printed_in_every_format(written: Any) -> None:  # noqa: ANN401
    path = written("policy.json", binding(IMAGE, OTHER.upper()))
    for form in ("text", "json", "html"):
        printed = explain(path, "--format", form).stdout
        assert IMAGE in printed, form
        assert OTHER in printed.lower(), form
    images = json.loads(explain(path, "--format", "json").stdout)["images"]
    assert [image["value"].lower() for image in images] == [IMAGE, OTHER]


def test_images_are_named_by_their_files(written: Any) -> None:  # noqa: ANN401 - a function
    path = written("policy.json", binding(IMAGE))
    eif = written("image.eif", Image().written())
    pcr = written("pcr.json", {"Measurements": {"PCR0": OTHER}})
    for names in ((eif, pcr), (f"{eif},{pcr}",)):
        found = json.loads(explain(path, "--format", "json", "--images", *names).stdout)
        assert [image["files"] for image in found["images"]] == [[str(eif)]]
        assert found["unbound_files"] == {OTHER: [str(pcr)]}
    for form in ("text", "html"):
        printed = explain(path, "--format", form, "--images", eif, pcr).stdout
        assert str(eif) in printed
        assert f"not bound: {pcr}" in printed


def test_a_counterexample_is_shown_in_every_format(written: Any) -> None:  # noqa: ANN401
    weak = binding(IMAGE, Principal={"AWS": "arn:aws:iam::222222222222:root"})
    path = written("policy.json", weak)
    found = json.loads(explain(path, "--format", "json").stdout)
    examples = [row["counterexample"] for row in found["decryptions"] if row["counterexample"]]
    assert examples
    assert {"parameters", "principal", "action", "attestation", "context"} <= examples[0].keys()
    assert any(each["attestation"] is None for each in examples)
    principal = examples[0]["principal"]
    for form in ("text", "html"):
        printed = explain(path, "--format", form).stdout
        assert principal in printed, form
        assert "kms:Decrypt on arn:" in printed, form


def test_reason_lists_the_cells_that_it_decides(written: Any) -> None:  # noqa: ANN401
    printed = explain(written("policy.json", binding("0" * 96))).stdout
    assert "Key: PCR0, zeros: a debug enclave, not an image\n" in printed
    reasons = printed.partition("\nallowed: ")[2].partition("\n\n")[0]
    assert "(Account) of the key policy allows it\n  an administrator" in reasons, reasons
    assert ": debug enclave\n" in reasons
    assert "no request is allowed" not in printed
    example = printed.partition("For example: ")[2]
    assert "\n  account: 111111111111\n" in example
    assert "AWS::" not in printed


def test_hypothetical_grant_is_not_listed_as_existing(written: Any) -> None:  # noqa: ANN401
    weak = binding(IMAGE, Principal={"AWS": "arn:aws:iam::222222222222:root"})
    path = written("policy.json", weak)
    for form in ("text", "json", "html"):
        assert "grant 1" not in explain(path, "--format", form).stdout


def test_control_characters_and_markup_in_names_are_escaped(written: Any) -> None:  # noqa: ANN401 - a function
    path = written("policy.json", binding(IMAGE, Sid=SUBJECT))
    text, page = (explain(path, "--format", form).stdout for form in ("text", "html"))
    assert "\\x1b[31m[/x] <b>&\\u202e" in text
    assert "\\x1b[31m[/x] &lt;b&gt;&amp;\\u202e" in page
    for printed in (text, page):
        assert "\x1b" not in printed
        assert "\u202e" not in printed
    found = json.loads(explain(path, "--format", "json").stdout)
    assert {row["statement"] for row in found["decryptions"]} >= {SUBJECT}


def on_terminal(columns: int, *arguments: str | Path, **environment: str) -> str:
    """Return what the command prints on a terminal of this width."""
    inside, outside = pty.openpty()
    command = [sys.executable, "-m", "generator", "explain", *map(str, arguments)]
    size = {"COLUMNS": str(columns), "LINES": "40", "TERM": "xterm"}
    kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    with subprocess.Popen(
        command, cwd=PROJECT, env={**kept, **size, **environment}, stdout=outside, stderr=outside
    ):
        os.close(outside)
        printed = b""
        try:
            while chunk := os.read(inside, 65536):
                printed += chunk
        except OSError:  # Linux's end of file, once the last writer is gone
            pass
    os.close(inside)
    return printed.decode().replace("\r\n", "\n")


def test_output_fits_a_terminal_of_80_columns() -> None:
    printed = on_terminal(80, OURS, NO_COLOR="1")
    assert "Nobody decrypts without attesting a bound image." in printed
    assert max(map(len, printed.splitlines())) <= 80
    assert "${ExternalBucketAWSAccountNumber}" in printed  # a name is not broken


def test_arn_is_never_wrapped(written: Any) -> None:  # noqa: ANN401
    stack = f"arn:aws:cloudformation:eu-west-1:444455556666:stack/my-application/{'4c6f' * 9}"
    path = written("policy.json", binding(IMAGE))
    explained = replace(report.explain(str(path)), facts=[f"created by stack {stack}"])
    shown = io.StringIO()
    print_text(explained, Console(file=shown, width=80))
    assert stack in shown.getvalue()


def test_colours_are_used_only_on_terminals_without_no_color() -> None:
    assert "\x1b[" in on_terminal(80, OURS)
    assert "\x1b" not in on_terminal(80, OURS, NO_COLOR="1")
    assert "\x1b" not in explain(OURS).stdout


def test_standard_input_and_an_output_file(tmp_path: Path) -> None:
    output = tmp_path / "page.html"
    run = explain("-", "--format", "html", "-o", output, given=json.dumps(binding(IMAGE)))
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert "standard input" in output.read_text()
    nowhere = explain("-", "-o", tmp_path / "none/page", given=json.dumps(binding(IMAGE)))
    assert (nowhere.returncode, nowhere.stdout) == (1, "")
    assert nowhere.stderr.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == [output]


def test_page_has_source_digest_date_and_version(written: Any) -> None:  # noqa: ANN401 - a function
    path = written("policy.json", binding(IMAGE))
    page = explain(path, "--format", "html", SOURCE_DATE_EPOCH="86400").stdout
    digest = subprocess.check_output(["sha256sum", path], text=True).split()[0]
    assert digest in page
    assert "1970-01-02" in page
    for colour in re.findall(r"var\((--[a-z-]+)\)", page):
        assert f"{colour}:" in page
    assert "application-encryptor 0." in page
    assert page.partition("<h3>Glossary</h3>")[2].count("<dt>") == 10


def test_owner_option_makes_other_accounts_outsiders(written: Any) -> None:  # noqa: ANN401
    path = written("policy.json", binding(IMAGE))
    assert explain(path, "--owner", "111111111111").returncode == 0
    other = explain(path, "--owner", "222222222222")
    assert other.returncode == 1
    assert explain(path, "--owner", "1").returncode == 2
    assert "is a template" in explain(OURS, "--owner", "111111111111").stderr


def test_usage_option_selects_the_actions(written: Any) -> None:  # noqa: ANN401
    path = written("policy.json", binding(IMAGE))
    found = json.loads(explain(path, "--usage", "KEY_AGREEMENT", "--format", "json").stdout)
    assert {row["action"] for row in found["decryptions"]} == {"kms:DeriveSharedSecret"}
    assert found["verdict"] == "open"  # the Deny is about Decrypt


def test_diff_covers_images_access_and_control(written: Any) -> None:  # noqa: ANN401
    old = written("old.json", binding(IMAGE))
    changed = binding(OTHER)
    changed["Statement"][1]["Action"] = ["kms:Decrypt", "kms:PutKeyPolicy"]
    new = written("new.json", changed)
    run = explain("--diff", old, new, "--format", "json")
    assert run.returncode == 1
    found = json.loads(run.stdout)
    assert [image["value"] for image in found["images"]["added"]] == [OTHER]
    assert [image["value"] for image in found["images"]["gone"]] == [IMAGE]
    (control,) = found["controls"]
    assert (control["action"], control["gain"]) == ("kms:PutKeyPolicy", True)
    assert "222222222222" in control["principal"]
    assert len(found["statements"]["added"]) == len(found["statements"]["gone"]) == 2
    for form in ("text", "html"):
        printed = explain("--diff", old, new, "--format", form).stdout
        for word in (IMAGE, OTHER, "gains", "kms:PutKeyPolicy"):
            assert word in printed, (form, word)


def test_statement_without_effect_on_access_is_a_difference(written: Any) -> None:  # noqa: ANN401
    old = written("old.json", binding(IMAGE))
    changed = binding(IMAGE)
    changed["Statement"][1]["Action"] = ["kms:Decrypt", "kms:DescribeKey"]
    run = explain("--diff", old, written("new.json", changed))
    assert run.returncode == 1
    assert "describekey" in run.stdout


def template(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    """Return a template with an attested key and an open one; *changes* are of the first."""
    policies = binding(IMAGE), {**POLICY, "Statement": POLICY["Statement"][:1]}
    keys: list[dict[str, Any]] = [
        {"Type": "AWS::KMS::Key", "Properties": {"KeyPolicy": policy, "MultiRegion": False}}
        for policy in policies
    ]
    keys[0]["Properties"].update(changes)
    image = {"Type": "String", "Default": IMAGE}
    return {"Parameters": {"Image": image}, "Resources": dict(zip("AB", keys, strict=True))}


def swapped() -> dict[str, Any]:
    found = template()
    found["Resources"] = dict(zip("BA", found["Resources"].values(), strict=True))
    return found


def with_other_default() -> dict[str, Any]:
    found = template()
    found["Parameters"]["Image"]["Default"] = OTHER
    return found


@pytest.mark.parametrize(
    ("new", "said"),
    [
        pytest.param(swapped(), "Who uses the key: A", id="two-keys-swap-policies"),
        pytest.param(with_other_default(), f'parameter Image, Default: "{IMAGE}" → "{OTHER}"'),
        pytest.param(template(MultiRegion=True), 'key A, MultiRegion: "false" → "true"'),
        *(
            pytest.param(template(**{name: value}), f'key A, {name}: "', id=name)
            for name, value in {
                "KeyUsage": "KEY_AGREEMENT",
                "KeySpec": "ECC_NIST_P256",
                "Origin": "EXTERNAL",
                "Enabled": False,
            }.items()
        ),
    ],
)
def test_diff_compares_each_key_and_what_its_policy_depends_on(
    new: dict[str, Any],
    said: str,
    written: Any,  # noqa: ANN401 - a function
) -> None:
    files = written("old.json", template()), written("new.json", new)
    run = explain("--diff", *files)
    assert run.returncode == 1
    assert said in run.stdout


def test_diff_of_absent_and_default_properties_is_none(written: Any) -> None:  # noqa: ANN401
    explicit = template(KeyUsage="ENCRYPT_DECRYPT", Enabled="true", Description="another")
    files = written("old.json", template()), written("new.json", explicit)
    run = explain("--diff", *files)
    assert run.returncode == 0, run.stdout


def test_equivalent_notation_by_kms_is_not_a_difference(written: Any) -> None:  # noqa: ANN401
    old = written("old.json", binding(IMAGE))
    changed = binding(IMAGE)
    changed["Statement"][0]["Principal"] = {"AWS": "111111111111"}
    changed["Statement"][1]["Action"] = ["kms:decrypt"]
    changed["Statement"][2]["Principal"] = {"AWS": ["*"]}
    run = explain("--diff", old, written("new.json", changed))
    assert run.returncode == 0, run.stdout
