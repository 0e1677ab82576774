"""cfn-lint rules, one per file: what a template of this kind must not get wrong."""
