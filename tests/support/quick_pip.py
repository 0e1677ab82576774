"""A Python for played builds whose pip installs the same requirements only once.

The first build of all tests installs with pip itself; the others link what that has installed,
which also has been compiled by then.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rehearsal.build import INTERPRETER

if TYPE_CHECKING:
    from pathlib import Path

PYTHON = """\
#!/bin/sh
case "$*" in
  *" pip install "*" --target .") ;;
  *) exec "{python}" "$@" ;;
esac
sum=$(sha256sum < requirements.txt)
kept="{folder}/${{sum%% *}}"
if ! [ -e "$kept" ]; then
  "{python}" "$@" || exit
  copy=$(mktemp -d "{folder}/XXXXXXXX") && cp -r . "$copy" && rm "$copy/requirements.txt" || exit
  mv -T "$copy" "$kept" 2>/dev/null || rm -r "$copy"
else
  ln -s "$kept"/* .
fi
"""


def install(folder: Path, kept: Path) -> Path:
    """Make the Python in *folder*, which is returned; *kept* holds what it has installed.

    Several processes may use *kept* at the same time.
    """
    kept.mkdir(exist_ok=True)
    program = folder / "python3"
    program.write_text(PYTHON.format(python=INTERPRETER / "python3", folder=kept))
    program.chmod(0o755)
    return folder
