"""What a template may become: parameters, conditions and intrinsic functions, kept symbolic."""
