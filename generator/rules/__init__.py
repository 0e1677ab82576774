"""cfn-lint rules, one per file, for templates that hand code to an enclave.

cfn-lint loads them from this module by its name, ``append_rules: [generator.rules]``,
or from this folder by its path.
"""

from importlib import import_module
from inspect import getmembers, isclass
from pkgutil import iter_modules

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        _rules = import_module(f"{__name__}.{_module.name}")
        globals().update(
            (name, member)
            for name, member in getmembers(_rules, isclass)
            if member.__module__ == _rules.__name__
        )
